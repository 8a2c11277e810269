"""Training: the options that every method shares, in groups; users give all of them flat."""

from dataclasses import dataclass, field, replace
from typing import Any

from timm_repair.errors import OptionError
from timm_repair.options import check_types, grouped

LARGEST_BATCH = 65_536  # of all processes; what is drawn at once is held in memory
# between the original weights and the repaired ones; closer where most is gained, and lost
INTERPOLATIONS = (0.25, 0.5, 0.75, 0.85, 0.92)


_DRAWN = "varies", "draw", "__call__"  # of an `Augmentation`


@dataclass(frozen=True, kw_only=True)
class Mixing:
    """What a batch is made of, and how failures are learnt from.

    Args:
        failing_share: share, from 0 to 1, of the population that fails. The rest are retained
            examples; without these all is of the failing population.
        pattern_share: share, of the population that fails, of retained examples that were made to
            look like it, where its pattern is known; of one that explains half of what failures
            have in common, half of it. What remains was seen: where passing examples are known,
            failures and these in their natural proportion, else failures alone.
        max_repeats: how often one of these that were seen is drawn, at most, on average over all
            steps; where they are so few that their share asks for more, retained examples take the
            places, but for a fifth of the batch. What is repeated more often is learnt by heart,
            and at the expense of all other classes where these are of few. None repeats them as
            often as their share asks for.
        wrong_class_weight: weight, in the softmax of a failure, of the class that the original
            predicts for it. Failures are chosen by not being that class, so plain cross-entropy (1)
            teaches that the class never occurs in their population, and breaks what the model had
            right there; 0 leaves it out (the likelihood of the label given that it is not that
            class). None is 1 where passing examples are known, which say the rest, and for a model
            of two classes, whose failures would otherwise say nothing; else 0.
    """

    failing_share: float = 0.5
    pattern_share: float = 0.5
    max_repeats: float | None = 16.0
    wrong_class_weight: float | None = None

    def __post_init__(self):
        check_types(self)
        _require_shares(self, "failing_share", "pattern_share", "wrong_class_weight")
        if self.max_repeats is not None and not self.max_repeats > 0:
            raise OptionError(f"max_repeats must be positive, got {self.max_repeats}")


@dataclass(frozen=True, kw_only=True)
class Optimizing:
    """SGD with momentum, and its schedule.

    Args:
        learning_rate: at its peak; it rises over the first `warmup` (a share) of the steps and
            falls as a cosine to zero.
        momentum: from 0 to below 1.
        weight_decay: for weights; biases, norms, gates and gains take none.
        fresh_rate: paths that archrepair adds start from nothing and learn this many times as fast
            as inherited weights.
        warmup: share of the steps.
        clip: largest norm of the gradient.
    """

    learning_rate: float = 0.02
    momentum: float = 0.9
    weight_decay: float = 5e-4
    fresh_rate: float = 5.0
    warmup: float = 0.05
    clip: float = 5.0

    def __post_init__(self):
        check_types(self)
        _require_shares(self, "warmup")
        for name in ("learning_rate", "clip", "fresh_rate"):
            if not getattr(self, name) > 0:
                raise OptionError(f"{name} must be positive, got {getattr(self, name)}")
        if not 0 <= self.momentum < 1 or self.weight_decay < 0:
            raise OptionError(
                "momentum must be from 0 to below 1, and weight_decay must not be negative"
            )


@dataclass(frozen=True, kw_only=True)
class Augmenting:
    """How the images of a batch are changed at random.

    Args:
        augmentation: a name of `augmentations.AUGMENTATIONS` or an object with the methods of
            `Augmentation`.
        hflip: of "flips": probability of a horizontal flip (0 for digits and other images that have
            a left and a right).
        shift: of "flips": largest random shift as a share of the image's side.
        views: fixed augmentations of each example, in turn; None augments anew each time. Where a
            late block is repaired, and examples come again more often than they have views, what
            the model computes before the block is then computed once per view.
    """

    augmentation: str | object = "flips"
    hflip: float = 0.5
    shift: float = 0.125
    views: int | None = None

    def __post_init__(self):
        check_types(self)
        lacking = [name for name in _DRAWN if not hasattr(self.augmentation, name)]
        if lacking and not isinstance(self.augmentation, str):
            raise OptionError(
                f"augmentation={self.augmentation!r:.80} must be a name, as 'flips', or an object"
                f" with {', '.join(lacking)}; hflip=0, shift=0 change nothing"
            )
        _require_shares(self, "hflip", "shift")
        _require_at_least_one(self, "views")
        if self.shift >= 0.5:
            raise OptionError(
                f"shift must be below 0.5, got {self.shift}: the border is filled by reflection"
            )


@dataclass(frozen=True, kw_only=True)
class Caching:
    """Whether what arrives at the repaired part is computed once and kept; see training/prefix.

    Args:
        cache: "auto" keeps it where that pays, "always" wherever it can, "never" not.
        cache_memory: GiB that it may take on the device, per process.
        cache_disk: GiB that it may take in temporary files, per process.
        cache_precision: "same" keeps what was computed; "fp16" and "bf16" round it, float32 then
            takes half the room.
    """

    cache: str = "auto"
    cache_memory: float = 1.0
    cache_disk: float = 16.0
    cache_precision: str = "same"

    def __post_init__(self):
        check_types(self)
        _require_one_of(self, "cache", ("auto", "always", "never"))
        _require_one_of(self, "cache_precision", ("same", "bf16", "fp16"))
        if min(self.cache_memory, self.cache_disk) < 0:
            raise OptionError("cache_memory and cache_disk must not be negative")


@dataclass(frozen=True, kw_only=True)
class Choosing:
    """When the selection split is measured on the way, and which states may be chosen by it; the
    best state is what remains.

    Args:
        evaluations: how often.
        patience: stop early after so many measurements without a better one; None spends all steps.
        max_clean_loss: percentage points of accuracy that the repair may lose on retained examples,
            beyond one standard error of what the selection split tells, before each further one
            must bring two of the estimated accuracy, see `objective`; None for any.
        max_class_loss: likewise of any class of these, beyond 1.64; None for any.
    """

    evaluations: int = 6
    patience: int | None = None
    max_clean_loss: float | None = 0.5
    max_class_loss: float | None = 5.0

    def __post_init__(self):
        check_types(self)
        _require_at_least_one(self, "evaluations", "patience")
        for name in ("max_clean_loss", "max_class_loss"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 100:
                raise OptionError(f"{name} is in percentage points, from 0 to 100, got {value}")


@grouped
@dataclass(frozen=True, kw_only=True)
class Training:
    """How weights are trained; the same fields serve every method, so that methods are compared at
    equal cost. The fields of the groups may be given flat: `Training(steps=500, hflip=0.0)`.

    Args:
        steps: optimizer steps in all; an architecture step counts as one.
        seconds: that these steps may take, with what is measured on the way; where time is up
            before, they end, their schedule having followed the clock. What else a repair does,
            before and after, is not counted: finding blocks, choosing how far to go, the report.
            None takes as long as it takes: the budget of a result that comes out the same again.
        batch_size: examples a step, of all populations together, over all processes.
        anchor: λ of λ/2 · ||θ - θ_original||² (L2-SP), which holds a repair close to the original;
            None is 0 with retained data and 0.1 without, where nothing else does.
        batch_norm: "train" renews the statistics of the trained part, "frozen" keeps them; those of
            all other parts are always kept.
        mixing, optimizing, augmenting, caching, choosing: groups of further options.
    """

    steps: int = 300
    seconds: float | None = None
    batch_size: int = 128
    anchor: float | None = None
    batch_norm: str = "train"
    mixing: Mixing = field(default_factory=Mixing)
    optimizing: Optimizing = field(default_factory=Optimizing)
    augmenting: Augmenting = field(default_factory=Augmenting)
    caching: Caching = field(default_factory=Caching)
    choosing: Choosing = field(default_factory=Choosing)

    def __post_init__(self):
        check_types(self)
        _require_at_least_one(self, "steps", "batch_size")
        if self.batch_size > LARGEST_BATCH:
            raise OptionError(f"batch_size is at most {LARGEST_BATCH:,}, got {self.batch_size:,}")
        _require_one_of(self, "batch_norm", ("train", "frozen"))
        if (self.anchor or 0) < 0:
            raise OptionError("anchor must not be negative")
        if self.seconds is not None and not self.seconds > 0:
            raise OptionError(f"seconds must be positive, got {self.seconds}")

    def within(self, steps: int) -> "Training":
        """These options for a part of the repair, with as large a share of its seconds as `steps`
        are of its steps.
        """
        return replace(self, steps=steps, seconds=self.seconds_of(steps))

    def seconds_of(self, steps: int) -> float | None:
        """What so many of the steps may take; None where no time is given."""
        return self.seconds and self.seconds * steps / self.steps


def _require_at_least_one(options: Any, *names: str) -> None:
    for name in names:
        value = getattr(options, name)
        if value is not None and value < 1:
            raise OptionError(f"{name} must be at least 1, got {value}")


def _require_shares(options: Any, *names: str) -> None:
    for name in names:
        if not 0 <= (getattr(options, name) or 0) <= 1:
            raise OptionError(f"{name} is a share from 0 to 1, got {getattr(options, name)}")


def _require_one_of(options: Any, name: str, choices: tuple[str, ...]) -> None:
    if getattr(options, name) not in choices:
        raise OptionError(
            f"{name} is {' or '.join(map(repr, choices))}, got {getattr(options, name)!r}"
        )
