"""Preparing: a `RepairData` from whatever the user calls failures, retain and holdout, split before
anything is looked at.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, cast

from datasets import DatasetDict, IterableDatasetDict
from torch import Tensor, nn

from timm_repair.data.checking import (
    check_answers,
    check_failures,
    require_one_vocabulary,
    sample,
)
from timm_repair.data.options import DataOptions
from timm_repair.data.predicting import predict
from timm_repair.data.repair_data import RepairData
from timm_repair.data.splits import Known, split
from timm_repair.errors import DataError, NoFailuresError
from timm_repair.images.classes import Classes
from timm_repair.images.images import Images
from timm_repair.images.labels import GUESSED
from timm_repair.images.preprocessing import Preprocessing
from timm_repair.images.reading import Reading
from timm_repair.images.sources import as_images, leave_out_unreadable
from timm_repair.images.summary import Summary
from timm_repair.models.weights import check_finite
from timm_repair.runtime.runtime import Runtime


def prepare(
    model: nn.Module,
    failures: Any,
    *,
    retain: Any = None,
    passing: Any = None,
    holdout: Any = None,
    options: DataOptions | None = None,
    runtime: Runtime | None = None,
) -> RepairData:
    """Read, check and split everything a repair needs.

    Failures that `model` gets right are left out with a warning. The rest are split, stratified by
    label, into a part to train on, one to choose by and one to measure on; retained and passing
    examples likewise, each image in one of the three only.

    Args:
        model: it is not changed.
        failures: anything `as_images` takes.
        retain: likewise; None if there is none.
        passing: likewise, of the failing population what the model has right, see `unsplit`.
        holdout: one source, measured as "holdout", or a dict of named ones. Retained and passing
            examples are then not held out, and failures only where the dict has no "failing".
        options: how to read and split; None for the defaults.
        runtime: where to compute, and the seed of the splits.

    Raises:
        DataError: too few examples, one class only, most failures not wrong, or a holdout that
            overlaps the rest.
        NoFailuresError: no failures, or none that the model gets wrong.
        NonFiniteError: weights or logits are NaN or infinite.
    """
    options, runtime = options or DataOptions(), runtime or Runtime()
    check_finite(model)
    classes = Classes.of(model)
    given = _read(failures, model, options, "failures")
    # a dict of datasets' own is one source with several splits
    several = isinstance(holdout, Mapping) and not isinstance(
        holdout, DatasetDict | IterableDatasetDict
    )
    named = cast(Mapping[str, Any], holdout if several else {"holdout": holdout})
    measured = {
        name: _read(h, model, options, "holdout", name)
        for name, h in named.items()
        if h is not None
    }
    kept = None if retain is None else _read(retain, model, options, "retain")
    right = _passing(passing, failures, retain, model, options)
    sources = {"failures": given} | ({} if kept is None else {"retain": kept})
    sources |= {} if right is None else {"passing": right}
    sources |= {f"holdout {name!r}": images for name, images in measured.items()}
    require_one_vocabulary(sources)
    known = Known(sources)
    asked = _Asked(model, runtime)
    failing = _really_failing(asked, known.once(given), options)
    sets = {"failing": failing}
    measured = {name: known.once(images) for name, images in measured.items()}
    for name, images in measured.items():
        asked.check(images, f"holdout {name}")
    if right is not None:
        sets["passing"] = asked.right_ones(known.once(right))
    if kept is not None:
        _refuse_single_class(kept, classes)
        asked.check(kept, "retain", retained=True)
        # what was seen in production stays there: its share of failures is an estimate
        for others in list(sets.values()):
            kept = known.without(known.once(kept), others)
        sets["retained"] = kept
        _refuse_single_class(sets["retained"], classes)
    known.refuse_overlap(measured, sets)
    generator = runtime.generator("split")
    # any population but the failing one measures what the repair breaks
    held_out = dict.fromkeys(sets, bool(measured.keys() - {"failing"}))
    held_out["failing"] = "failing" in measured
    parts = {
        name: split(images, options.shares.of(name, held_out[name]), generator)
        for name, images in sets.items()
    }
    train = {name: part["train"] for name, part in parts.items()}
    roles = {"failures": failing, "passing": sets.get("passing"), "retain": sets.get("retained")}
    selection = {name: part["selection"] for name, part in parts.items()}
    if "retained" in selection:  # what of it may be lost is limited
        judged = selection["retained"]
        selection["retained"] = judged.answered(
            predict(model, judged, judged.preprocessing, runtime).predictions
        )
    held = {name: part["holdout"] for name, part in parts.items() if "holdout" in part} | measured
    return RepairData(
        failing=train["failing"],
        retained=train.get("retained"),
        selection=selection,
        holdout=held,
        preprocessing=failing.preprocessing,
        num_classes=classes.count,
        label_names=classes.readable,
        error_rate=_error_rate(given, failing, sets.get("passing")),
        passing=train.get("passing"),
        provenance={"given": {"failures": len(given), "wrong": len(failing)}}
        | (
            {}
            if (rate := _error_rate(given, failing, sets.get("passing"))) is None
            else {"error_rate": rate}
        )
        | {"read": asked.summaries(roles, measured)}
        | _described(train)
        | {"selection": _described(selection), "holdout": _described(held)},
    )


def unsplit(
    model: nn.Module,
    failures: Any,
    *,
    retain: Any,
    passing: Any = None,
    options: DataOptions,
    runtime: Runtime,
) -> tuple[Images, Images, Images | None]:
    """Read and check failures, retained examples and examples that pass as `prepare` does, and keep
    each whole: to look at, where nothing is trained or measured.

    Args:
        passing: examples of the failing population that the model has right; None takes those that
            `collect_failures` gave with the failures. Those it has wrong are left out.

    Returns:
        Failures with their `answers`, retained, passing.

    Raises:
        DataError, NoFailuresError, NonFiniteError: as `prepare`.
    """
    check_finite(model)
    given = _read(failures, model, options, "failures")
    kept = _read(retain, model, options, "retain")
    right = _passing(passing, failures, retain, model, options)
    sources = {"failures": given, "retain": kept}
    sources |= {} if right is None else {"passing": right}
    require_one_vocabulary(sources)
    known, asked = Known(sources), _Asked(model, runtime)
    failing = _really_failing(asked, known.once(given), options)
    asked.check(kept, "retain", retained=True)
    if right is not None:
        right = asked.right_ones(right)
    return failing, known.without(known.once(kept), failing), right


def _passing(
    given: Any, failures: Any, retain: Any, model: nn.Module, options: DataOptions
) -> Images | None:
    """What was given, else what `collect_failures` gave with the failures, unless it was given as
    retained examples.
    """
    passing = getattr(failures, "passing", None) if given is None else given
    if passing is None or (given is None and passing is retain):
        return None
    return _read(passing, model, options, "passing")


def _error_rate(given: Images, failing: Images, passing: Images | None) -> float | None:
    """Of the model in the population that fails, where it is known."""
    if given.error_rate is not None or passing is None:
        return given.error_rate
    return len(failing) / (len(failing) + len(passing))


def _described(sets: Mapping[str, Images]) -> dict:
    return {name: images.describe() for name, images in sets.items()}


def _tell_of_repair(error: DataError, role: str) -> None:
    """Add to an error the options that it speaks of, as `repair` has them."""
    meant = [f.name for f in fields(Reading) if f"{f.name}=" in str(error)]
    if not meant:
        return
    here = [f"{role}_split" if name == "split" else name for name in meant]
    given = ", ".join(f"{name}=…" for name in here)
    flags = " ".join(f"--data {name}=…" for name in here if name != "transform")
    error.args = (
        f"{error}. In a repair: data=timm_repair.DataOptions({given})"
        + (f", on the command line {flags}" if flags else ""),
        *error.args[1:],
    )


def _read(
    source: Any, model: nn.Module, options: DataOptions, role: str, population: str | None = None
) -> Images:
    empty = not isinstance(source, str | Path) and hasattr(source, "__len__") and len(source) == 0
    if empty and role == "failures":
        raise NoFailuresError(
            "no failures were given; give examples that the model gets wrong, with their true"
            " labels"
        )
    name = role if population is None else f"{role} {population!r}"
    try:
        images = as_images(
            source,
            model,
            name=name,
            check_readable=role != "retain",
            **vars(options.reading_of(role, source)),
        )
        if role == "retain" and images.small:  # its pixels are compared anyway
            images = leave_out_unreadable(images)
    except DataError as error:
        _tell_of_repair(error, role)
        raise
    if len(images) == 0:
        raise DataError(f"{name}: no examples; give at least one")
    if (
        images.preprocessing != Preprocessing.of(model)
        or int(images.labels.max()) >= Classes.of(model).count
    ):
        raise DataError(
            f"{name}: these Images were made for another model; make them with as_images(...,"
            " model)"
        )
    return images


@dataclass
class _Asked:
    """The model, asked about what was read; by role how many of how many it has right."""

    model: nn.Module
    runtime: Runtime
    right: dict[str, tuple[int, int]] = field(default_factory=dict)

    def answers(self, images: Images, role: str) -> Tensor:
        """(N,) the model's classes for all `images`."""
        found = predict(self.model, images, images.preprocessing, self.runtime).predictions
        self.right[role] = int((found == images.labels).sum()), len(images)
        return found

    def right_ones(self, passing: Images) -> Images:
        """Those of `passing` that the model has right.

        Raises:
            DataError: there is none.
        """
        right = self.answers(passing, "passing") == passing.labels
        if not right.any():
            raise DataError(
                f"passing: the model has all {len(passing)} examples wrong: give examples of the"
                " failures' population that it has right, or leave passing out"
            )
        return passing.left_out(right, "the model has them wrong")

    def check(self, images: Images, role: str, *, retained: bool = False) -> None:
        """Raise LabelError where the labels were misread, as far as some of the `images` tell.

        Of a population, whose accuracy is measured anyway, only where labels had to be guessed.
        """
        guessed = images.origin.get("label_mapping", {}).get("by") in GUESSED
        if retained or guessed:
            some = sample(images, self.runtime.generator(f"labels of {role}"))
            check_answers(some, some.labels, self.answers(some, role), retained=retained)

    def summaries(
        self, roles: Mapping[str, Images | None], measured: Mapping[str, Images]
    ) -> dict[str, dict]:
        """Role to what was read for it, as plain JSON: see `images.summary.Summary`."""
        every = dict(roles) | {f"holdout {name}": images for name, images in measured.items()}
        return {
            role: replace(Summary.of(images, self.right.get(role)), name=role).to_dict()
            for role, images in every.items()
            if images is not None
        }


def _really_failing(asked: _Asked, images: Images, options: DataOptions) -> Images:
    answers = asked.answers(images, "failures")
    check_failures(images, answers)
    wrong = answers != images.labels
    right, total = int((~wrong).sum()), len(images)
    message = (
        f"the model gets {right} of the {total} failures right already ({right / total:.0%}). Check"
        " that their labels are true and matched to the right classes, and that"
        " model.pretrained_cfg has the right preprocessing"
    )
    if right == total:
        raise NoFailuresError(f"there is nothing to repair: {message}")
    if right > options.max_right * total:
        raise DataError(
            f"{message}; or use collect_failures to find the failures, or raise max_right (now"
            f" {options.max_right})"
        )
    if right:
        warnings.warn(f"{message}. They were left out", stacklevel=3)
    return images.left_out(wrong, "the model has them right").answered(answers[wrong])


def _refuse_single_class(retained: Images, classes: Classes) -> None:
    if retained.labels.unique().numel() < 2:
        raise DataError(
            f"retain: all {len(retained)} examples are of one class, but the model has"
            f" {classes.count}: forgetting the others would go unseen. Give examples of more"
            " classes, or no retain"
        )
