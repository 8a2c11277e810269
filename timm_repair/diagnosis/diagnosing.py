"""`diagnose`: a `Diagnosis` of failures, one question after the other."""

import numpy as np
import torch
from torch import Tensor, nn

from timm_repair.data.predicting import predict
from timm_repair.diagnosis import classes, quality
from timm_repair.diagnosis.applying import Weighted
from timm_repair.diagnosis.diagnosis import Diagnosis
from timm_repair.diagnosis.findings import Part, Pattern, Strength, Suspect
from timm_repair.diagnosis.fitting import Fit, Settings
from timm_repair.diagnosis.parts import overlay
from timm_repair.diagnosis.populations import Samples, several
from timm_repair.diagnosis.sampling import (
    FEW,
    FEWEST,
    Drawing,
    Looking,
    in_proportion,
    part,
)
from timm_repair.diagnosis.telling import Told, told_apart
from timm_repair.diagnosis.trying import Asked, Asking, tried
from timm_repair.images.images import Images
from timm_repair.runtime.runtime import Runtime

EFFECT = 0.03  # by so much more often must the model be wrong on T(retained)
NO_LABELS = (
    "label errors were not looked for: the images are not like the retained ones, and what the"
    " model says of images that something was done to is no evidence about their labels"
)
DIFFERENT = 0.6  # told so well, something was done to the images, whether it has a name or not
OBVIOUS = 0.75  # told so well, populations differ, whether the model minds or not


@torch.no_grad()
def diagnose(
    model: nn.Module,
    failing: Images,
    retained: Images,
    passing: Images | None,
    runtime: Runtime,
    looking: Looking | None = None,
    label_names: tuple[str, ...] | None = None,
    error_rate: float | None = None,
) -> Diagnosis:
    """What `failing` have in common.

    Args:
        model: the original; it is not changed.
        failing: examples that it gets wrong, with its `answers`.
        retained: examples of what it was made for.
        passing: examples of the failing population that it gets right.
        label_names: of the classes, where known.
        error_rate: share of the population that the model gets wrong, where known: of more
            `passing` than belong to so many failures some are drawn. None takes both as they are.
    """
    looking = looking or Looking()
    passing = in_proportion(passing, len(failing), error_rate, runtime)
    drawing = Drawing(runtime, looking, failing, retained, passing)
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
        undone, placebo = tried(asking, fit, drawing.failing(), drawing.fitted(), patterns)
    with runtime.stage("diagnose: classes"):
        known = part(retained, drawing.rng, 1000)
        answers = predict(model, known, known.preprocessing, runtime).predictions
        assert failing.answers is not None, "failures were read with their answers"
        confused = classes.confusions(
            failing.labels.tolist(),
            failing.answers.tolist(),
            (known.labels.tolist(), answers.tolist()),
            passing.labels.tolist() if passing is not None else (),
        )
        differ = told.low > 0.5 and told.right >= DIFFERENT
        corrupted = bool(patterns) or any(each.found for each in undone) or differ
        suspects, ordinary = ([], 0.0) if corrupted else _suspects(failing, known, asking)
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
        labels_expected=ordinary,
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


def _suspects(failing: Images, known: Images, asking: Asking) -> tuple[list[Suspect], float]:
    return classes.label_errors(
        failing.ids,
        failing.labels,
        asking.probabilities(failing),
        (known.labels, asking.probabilities(known)),
    )


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
        if setting.picture:
            covered = overlay.share(setting.picture)
            said = f"on {covered:.0%} of the image"
            strengths = (Strength("share", covered, covered, covered, said),)
        brings = max(0.0, (without - path[-1]) / max(path[0], 1e-9))
        parts.append(Part(setting.name, strengths, setting.spread, brings, setting.picture))
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
