"""`diagnose`: a `Diagnosis` of failures, one question after the other."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from timm_repair.data.predicting import predict
from timm_repair.diagnosis import classes, quality
from timm_repair.diagnosis.applying import Weighted
from timm_repair.diagnosis.diagnosis import Diagnosis, Part, Pattern, Strength, Suspect
from timm_repair.diagnosis.early import first_maps
from timm_repair.diagnosis.fitting import Fit, Settings
from timm_repair.diagnosis.populations import Samples, several
from timm_repair.diagnosis.statistics import Statistics
from timm_repair.diagnosis.telling import Told, told_apart
from timm_repair.diagnosis.trying import Asked, Asking, tried
from timm_repair.errors import OptionError
from timm_repair.images.images import Images
from timm_repair.options import check_types
from timm_repair.runtime.runtime import Runtime

FEW = 50  # failures, below which less is asked of them
FEWEST = 12  # below which no corruption can be told from chance
EFFECT = 0.03  # by so much more often must the model be wrong on T(retained)
NO_LABELS = (
    "label errors were not looked for: what the model says of images that something was done to is"
    " no evidence about their labels"
)
OBVIOUS = 0.75  # told so well, populations differ, whether the model minds or not


@dataclass(frozen=True, kw_only=True)
class Looking:
    """How closely is looked.

    Args:
        compared: retained images that a pattern is fitted to, and as many to judge it; fewer where
            `pixels` does not allow as many.
        pixels: of all images of a fit, which the time that it takes is proportional to.
        failures: of which statistics are taken, at most.
        parts: of a pattern, at most.
        populations: among the failures, at most; 1 looks for no more.
    """

    compared: int = 160
    pixels: int = 1_500_000
    failures: int = 500
    parts: int = 3
    populations: int = 2

    def __post_init__(self):
        check_types(self)
        for name, least in (("compared", 20), ("pixels", 1), ("failures", FEWEST),
                            ("parts", 1), ("populations", 1)):  # fmt: skip
            if getattr(self, name) < least:
                raise OptionError(f"{name}={getattr(self, name)!r}; must be at least {least}")

    def count(self, input_size: Sequence[int]) -> int:
        """Images of a fit."""
        _, height, width = input_size
        return max(24, min(self.compared, self.pixels // (height * width)))


@torch.no_grad()
def diagnose(
    model: nn.Module,
    failing: Images,
    retained: Images,
    passing: Images | None,
    runtime: Runtime,
    looking: Looking | None = None,
    label_names: tuple[str, ...] | None = None,
) -> Diagnosis:
    """What `failing` have in common.

    Args:
        model: the original; it is not changed.
        failing: examples that it gets wrong, with its `answers`.
        retained: examples of what it was made for.
        passing: examples of the failing population that it gets right, in their natural number.
        label_names: of the classes, where known.
    """
    looking = looking or Looking()
    drawing = _Drawing(runtime, looking, failing, retained, passing)
    asking = Asking(model, failing.preprocessing, runtime)
    notes = _notes(failing, retained, passing, looking)
    with runtime.stage("diagnose: pattern"):
        samples = drawing.samples(model)
        fit = samples.fit()
        told = told_apart(samples.statistics(samples.judged), samples.failing, runtime.seed)
        patterns: tuple[Pattern, ...] = ()
        if told.low > 0.5 and len(failing) >= FEWEST:
            patterns = _patterns(samples, fit, told, asking, drawing.judged_labels)
    with runtime.stage("diagnose: preprocessing"):
        undone, placebo = tried(asking, fit, drawing.failing(), drawing.fitted())
    with runtime.stage("diagnose: classes"):
        known = _part(retained, drawing.rng, 1000)
        answers = predict(model, known, known.preprocessing, runtime).predictions
        assert failing.answers is not None, "failures were read with their answers"
        confused = classes.confusions(
            failing.labels.tolist(),
            failing.answers.tolist(),
            (known.labels.tolist(), answers.tolist()),
            passing.labels.tolist() if passing is not None else (),
        )
        corrupted = bool(patterns) or any(each.found for each in undone)
        suspects = [] if corrupted else _suspects(failing, known, asking)
        if corrupted:
            notes += (NO_LABELS,)
    with runtime.stage("diagnose: images"):
        single = quality.looked_at(failing, known)
    return Diagnosis(
        n=len(failing),
        retained=len(retained),
        passing=0 if passing is None else len(passing),
        seed=runtime.seed,
        input_size=failing.preprocessing.input_size,
        told=told,
        patterns=patterns,
        preprocessing=tuple(undone),
        placebo=placebo,
        confusions=tuple(confused),
        labels=tuple(suspects),
        quality=single,
        classes=label_names,
        notes=notes,
    )


def _notes(
    failing: Images, retained: Images, passing: Images | None, looking: Looking
) -> tuple[str, ...]:
    notes = []
    if len(failing) < FEWEST:
        notes.append(f"{len(failing)} failures are too few to look for a corruption: give"
                     f" {FEWEST} or, better, {FEW}")  # fmt: skip
    elif len(failing) < FEW:
        notes.append(f"{len(failing)} failures are few: a pattern of one part at most was looked"
                     " for, and intervals are wide")  # fmt: skip
    if len(failing) > looking.failures:
        notes.append(f"patterns were fitted to {looking.failures} of the {len(failing)} failures,"
                     " drawn at random")  # fmt: skip
    if missing := _missing(failing, retained):
        named = ", ".join(map(str, missing[:10]))
        notes.append(f"no retained example is of class {named}, which failures are of: what these"
                     " have in common may be what they show")  # fmt: skip
    if passing is None:
        notes.append("only failures were given, which are harder than what is usual in their"
                     " population; passing= the examples of it that the model has right says"
                     " more")  # fmt: skip
    return tuple(notes)


def _suspects(failing: Images, known: Images, asking: Asking) -> list[Suspect]:
    return classes.label_errors(
        failing.ids,
        failing.labels,
        asking.probabilities(failing),
        (known.labels, asking.probabilities(known)),
    )


def _part(images: Images, rng: np.random.Generator, most: int) -> Images:
    if len(images) <= most:
        return images
    return images.subset(np.sort(rng.choice(len(images), most, replace=False)).tolist())


class _Drawing:
    """Which images are looked at."""

    def __init__(
        self,
        runtime: Runtime,
        looking: Looking,
        failing: Images,
        retained: Images,
        passing: Images | None,
    ):
        seed = int(torch.randint(2**31, (1,), generator=runtime.generator("diagnosis")))
        self.rng = np.random.default_rng(seed)
        self.device, self.seed, self.looking = runtime.device, runtime.seed, looking
        self.failures = _part(failing, self.rng, looking.failures)
        self.few = len(failing) < FEW
        size = failing.preprocessing.input_size
        looked_at = min(looking.failures, 4 * looking.count(size))
        population = self.pixels(_part(self.failures, self.rng, looked_at))
        labels = self.failures.labels
        if passing is not None and len(passing):
            # in their natural proportion
            count = round(len(population) * len(passing) / len(failing))
            others = _part(passing, self.rng, min(count, looked_at))
            population = torch.cat([population, self.pixels(others)])
            labels = torch.cat([labels, others.labels])
        self.population = population
        count = looking.count(size)
        rows = _like(labels, retained.labels, 2 * count, self.rng)
        chosen = retained.subset(rows)
        both, self.labels = self.pixels(chosen), chosen.labels
        half = len(rows) // 2
        self.fitted_x, self.judged_x, self.half = both[:half], both[half:], half

    def pixels(self, images: Images) -> Tensor:
        """(N, C, H, W) from 0 to 1."""
        return images.pixels(range(len(images))).to(self.device).float() / 255

    @property
    def judged_labels(self) -> Tensor:
        """(N,) of the retained images that patterns are judged by."""
        return self.labels[self.half :]

    def samples(self, model: nn.Module) -> Samples:
        """What patterns are fitted to, and judged by."""
        preprocessing = self.failures.preprocessing
        statistics = Statistics(
            preprocessing.input_size, first_maps(model, preprocessing), self.device
        )
        failing = torch.cat([statistics(x) for x in self.population.split(64)])
        most = 1 if self.few else self.looking.parts
        return Samples(
            _in_parts(statistics), self.fitted_x, self.judged_x, failing, self.seed, most,
            1 if self.few else self.looking.populations,
        )  # fmt: skip

    def failing(self) -> Asked:
        """Failures that the model is asked about again."""
        part = _part(self.failures, self.rng, max(100, self.looking.count(
            self.failures.preprocessing.input_size)))  # fmt: skip
        return Asked(self.pixels(part), part.labels)

    def fitted(self) -> Asked:
        """The retained images that patterns are fitted to."""
        return Asked(self.fitted_x, self.labels[: self.half])


def _in_parts(statistics: Statistics):
    """As many images at once as keep the memory small."""
    at_once = max(8, 2**19 // statistics.pixels)
    return lambda x: torch.cat([statistics(part) for part in x.split(at_once)])


def _like(wanted: Tensor, there: Tensor, count: int, rng: np.random.Generator) -> list[int]:
    """Rows of retained examples with the classes of the failures, as often as these have them; of
    any class where a class is missing. Each at most once, while there are enough.
    """
    by_class = {k: rng.permutation((there == k).nonzero().flatten().numpy()).tolist()
                for k in wanted.unique().tolist()}  # fmt: skip
    spare = rng.permutation(len(there)).tolist()
    rows, used = [], set()
    for label in rng.choice(wanted.numpy(), count).tolist():
        pool = by_class[label]
        while pool and pool[-1] in used:
            pool.pop()
        row = pool.pop() if pool else next((r for r in spare if r not in used), None)
        if row is None:
            break
        used.add(row)
        rows.append(row)
    return rows


def _missing(failing: Images, retained: Images) -> list[int]:
    there = set(retained.labels.unique().tolist())
    return [k for k in failing.labels.unique().tolist() if k not in there]


def _patterns(
    samples: Samples, fit: Fit, told: Told, asking: Asking, labels: Tensor
) -> tuple[Pattern, ...]:
    settings, path = samples.chosen(fit)
    made = samples.told([(settings, 1.0)]) if settings else told
    everything = torch.arange(len(samples.failing))
    right = asking.right(Asked(samples.judged, labels))
    groups = []
    if samples.looked_for > 1 and made.right - 0.5 > 0.2 * (told.right - 0.5):
        groups = several(samples, (settings, made), samples.looked_for)
    found = [_pattern(samples, *group, asking, labels, right) for group in groups]
    if len(found) > 1 and all(real(p) and p.well or _as_they_are(p) for p in found):
        return tuple(found)
    whole = _pattern(samples, settings, everything, path, fit, asking, labels, right)
    return (whole,) if real(whole) else ()


def _as_they_are(pattern: Pattern) -> bool:
    """A population to which nothing was done."""
    return not pattern.parts and pattern.plain.right < 0.65


def real(pattern: Pattern) -> bool:
    """Whether a pattern is more than chance: failures are told less well from what it makes, and
    either the model minds it, or the populations obviously differ.
    """
    width = (pattern.plain.high - pattern.plain.low + pattern.made.high - pattern.made.low) / 4
    fell = pattern.plain.right - pattern.made.right > width
    minds = pattern.error_made - pattern.error_retained >= EFFECT
    return bool(pattern.parts) and fell and (minds or pattern.plain.right >= OBVIOUS)


def _pattern(
    samples: Samples, settings: Settings, rows: Tensor, path: list[float], fit: Fit,
    asking: Asking, labels: Tensor, right: Tensor,
) -> Pattern:  # fmt: skip
    through: Weighted = [(settings, 1.0)]
    intervals = fit.intervals(settings, np.random.default_rng(samples.seed))
    parts = []
    for setting, bounds in zip(settings, intervals, strict=True):
        without = fit.cost(tuple(s for s in settings if s is not setting))
        strengths = tuple(
            Strength(knob.name, value, low, high, knob.words.format(value))
            for knob, value, (low, high) in zip(
                setting.kind.knobs, setting.values, bounds, strict=True
            )
        )
        brings = (without - path[-1]) / max(path[0], 1e-9)
        parts.append(Part(setting.name, strengths, setting.spread, max(0.0, brings)))
    wrong = ~asking.right(Asked(samples.seen(through), labels))
    plain = told_apart(samples.statistics(samples.judged), samples.failing[rows], samples.seed)
    return Pattern(
        parts=tuple(parts),
        share=len(rows) / len(samples.failing),
        n=len(rows),
        plain=plain,
        made=samples.told(through, rows),
        error_retained=float((~right).float().mean()),
        error_made=float(wrong.float().mean()),
        path=tuple(path),
    )
