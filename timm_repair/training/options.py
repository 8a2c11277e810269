"""Training: the options that every method shares."""

from dataclasses import dataclass

from timm_repair.errors import OptionError
from timm_repair.options import check_types

# between the original weights and the repaired ones, see interpolation.py
INTERPOLATIONS = (0.25, 0.5, 0.75)
_CHOICES = {
    "batch_norm": ("train", "frozen"),
    "cache": ("auto", "always", "never"),
    "cache_precision": ("same", "bf16", "fp16"),
}


@dataclass(frozen=True, kw_only=True)
class Training:
    """How weights are trained; the same fields serve every method, so that methods are compared at
    equal cost.

    Args:
        steps: optimizer steps in all; an architecture step counts as one.
        batch_size: examples a step, failures and retained ones together, over all processes.
        failing_share: share of failures in a batch, from 0 to 1; without retained data every
            example is a failure.
        wrong_class_weight: weight, in the softmax of a failure, of the class that the original
            predicts for it. Failures are chosen by not being that class, so plain cross-entropy (1)
            teaches that the class never occurs in their population, and breaks what the model had
            right there; 0 leaves it out (the likelihood of the label given that it is not that
            class). None is 0, and 1 for a model of two classes, whose failures would otherwise say
            nothing.
        learning_rate: of SGD with momentum, at its peak; it rises over the first `warmup` of the
            steps and falls as a cosine to zero.
        fresh_rate: paths that archrepair adds start from nothing and learn this many times as fast
            as inherited weights.
        weight_decay: for weights; biases, norms, gates and gains take none.
        anchor: λ of λ/2 · ||θ - θ_original||² (L2-SP), which holds a repair close to the original;
            None is 0 with retained data and 0.1 without, where nothing else does.
        batch_norm: "train" renews the statistics of the trained part, "frozen" keeps them; those of
            all other parts are always kept.
        hflip: probability of a horizontal flip (0 for digits and other images that have a left and
            a right).
        shift: largest random shift as a share of the image's side.
        views: fixed augmentations of each example, in turn; None augments anew each time. Where a
            late block is repaired, and examples come again more often than they have views, what
            the model computes before the block is then computed once per view.
        cache: "auto" keeps what arrives at the repaired part where that pays, "always" wherever it
            can, "never" not; see `caching`.
        cache_memory, cache_disk: GiB that it may take, per process, on the device and in temporary
            files.
        cache_precision: "same" keeps what was computed; "fp16" and "bf16" round it, float32 then
            takes half the room.
        evaluations: how often the selection split is measured on the way; the best state is what
            remains.
        patience: stop early after so many measurements without a better one; None spends all steps.
    """

    steps: int = 300
    batch_size: int = 128
    failing_share: float = 0.5
    wrong_class_weight: float | None = None
    learning_rate: float = 0.02
    momentum: float = 0.9
    fresh_rate: float = 5.0
    weight_decay: float = 5e-4
    warmup: float = 0.05
    clip: float = 5.0
    anchor: float | None = None
    batch_norm: str = "train"
    hflip: float = 0.5
    shift: float = 0.125
    views: int | None = None
    cache: str = "auto"
    cache_memory: float = 1.0
    cache_disk: float = 16.0
    cache_precision: str = "same"
    evaluations: int = 6
    patience: int | None = None

    def __post_init__(self):
        check_types(self)
        for name in ("steps", "batch_size", "evaluations", "patience", "views"):
            if (1 if (value := getattr(self, name)) is None else value) < 1:
                raise OptionError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("failing_share", "wrong_class_weight", "warmup", "hflip", "shift"):
            if not 0 <= (getattr(self, name) or 0) <= 1:
                raise OptionError(f"{name} is a share from 0 to 1, got {getattr(self, name)}")
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise OptionError(
                    f"{name} is {' or '.join(map(repr, choices))}, got {getattr(self, name)!r}"
                )
        for name in ("learning_rate", "clip", "fresh_rate"):
            if not getattr(self, name) > 0:
                raise OptionError(f"{name} must be positive, got {getattr(self, name)}")
        if (
            not 0 <= self.momentum < 1
            or min(self.weight_decay, self.anchor or 0, self.cache_memory, self.cache_disk) < 0
        ):
            raise OptionError(
                "momentum must be from 0 to below 1; weight_decay, anchor, cache_memory and"
                " cache_disk must not be negative"
            )
        if self.shift >= 0.5:
            raise OptionError(
                f"shift must be below 0.5, got {self.shift}: the border is filled by reflection"
            )

    def wrong_class_weight_for(self, num_classes: int) -> float:
        """`wrong_class_weight` with its default filled in."""
        return (
            (1.0 if num_classes == 2 else 0.0)
            if self.wrong_class_weight is None
            else self.wrong_class_weight
        )
