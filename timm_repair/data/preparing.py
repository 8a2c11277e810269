"""Preparing: a `RepairData` from whatever the user calls failures, retain and holdout, split before
anything is looked at.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn

from timm_repair.data.checking import (
    check_answers,
    check_failures,
    sample,
)
from timm_repair.data.options import DataOptions
from timm_repair.data.predicting import predict
from timm_repair.data.repair_data import RepairData
from timm_repair.data.roles import Roles
from timm_repair.data.splits import Known, least, split
from timm_repair.errors import DataError, NoFailuresError
from timm_repair.images.classes import Classes
from timm_repair.images.images import Images
from timm_repair.images.labels import GUESSED
from timm_repair.images.summary import Summary
from timm_repair.models.doubts import warn_of_doubts
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
    hold_out: bool = True,
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
        hold_out: set a part aside of what no holdout measures; else the holdout is all that is
            measured.

    Raises:
        DataError: too few examples, one class only, most failures not wrong, or a holdout that
            overlaps the rest.
        NoFailuresError: no failures, or none that the model gets wrong.
        NonFiniteError: weights or logits are NaN or infinite.
    """
    options, runtime = options or DataOptions(), runtime or Runtime()
    check_finite(model)
    warn_of_doubts(model)
    given = Roles.read(model, options, failures, retain, passing, holdout)
    known, asked, classes = Known(given.named), _Asked(model, runtime), Classes.of(model)
    measured = {name: known.once(images) for name, images in given.holdout.items()}
    for name, images in measured.items():
        asked.check(images, f"holdout {name}")
    sets = _checked(given, known, asked, options, classes)
    known.refuse_overlap(measured, sets)
    generator = runtime.generator("split")
    # any population but the failing one measures what the repair breaks
    held_out = dict.fromkeys(sets, bool(measured.keys() - {"failing"}))
    held_out["failing"] = "failing" in measured
    if not hold_out:
        held_out = dict.fromkeys(sets, True)
    shares = {name: options.shares.of(name, held_out[name]) for name in sets}
    if passing is None and "passing" in sets and len(sets["passing"]) < least(shares["passing"]):
        _tell_of_few(sets.pop("passing"), least(shares["passing"]))
    parts = {name: split(images, shares[name], generator) for name, images in sets.items()}
    train = {name: part["train"] for name, part in parts.items()}
    selection = {name: part["selection"] for name, part in parts.items()}
    if "retained" in selection:  # what of it may be lost is limited
        judged = selection["retained"]
        answers = predict(model, judged, judged.preprocessing, runtime).predictions
        selection["retained"] = judged.answered(answers)
    held = {name: part["holdout"] for name, part in parts.items() if "holdout" in part} | measured
    rate = _error_rate(given.failures, sets)
    return RepairData(
        failing=train["failing"],
        retained=train.get("retained"),
        selection=selection,
        holdout=held,
        preprocessing=sets["failing"].preprocessing,
        num_classes=classes.count,
        label_names=classes.readable,
        error_rate=rate,
        passing=train.get("passing"),
        provenance={"given": {"failures": len(given.failures), "wrong": len(sets["failing"])}}
        | ({} if rate is None else {"error_rate": rate})
        | {"read": asked.summaries(sets, measured)}
        | _described(train)
        | {"selection": _described(selection), "holdout": _described(held)},
    )


def _checked(
    given: Roles, known: Known, asked: "_Asked", options: DataOptions, classes: Classes
) -> dict[str, Images]:
    """Population to what of it can be used, each image in one of them only."""
    sets = {"failing": _really_failing(asked, known.once(given.failures), options)}
    if given.passing is not None:
        sets["passing"] = asked.right_ones(known.once(given.passing))
    if given.retain is not None:
        _refuse_single_class(given.retain, classes)
        asked.check(given.retain, "retain", retained=True)
        kept = known.once(given.retain)
        # what was seen in production stays there: its share of failures is an estimate
        for others in sets.values():
            kept = known.without(kept, others)
        _refuse_single_class(kept, classes)
        sets["retained"] = kept
    return sets


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
    given = Roles.read(model, options, failures, retain, passing)
    assert given.retain is not None, "asked for"
    known, asked = Known(given.named), _Asked(model, runtime)
    failing = _really_failing(asked, known.once(given.failures), options)
    asked.check(given.retain, "retain", retained=True)
    right = None if given.passing is None else asked.right_ones(given.passing)
    return failing, known.without(known.once(given.retain), failing), right


def _error_rate(failures: Images, sets: Mapping[str, Images]) -> float | None:
    """Of the model in the population that fails, where it is known."""
    if failures.error_rate is not None or "passing" not in sets:
        return failures.error_rate
    failing, passing = len(sets["failing"]), len(sets["passing"])
    return failing / (failing + passing)


def _described(sets: Mapping[str, Images]) -> dict:
    return {name: images.describe() for name, images in sets.items()}


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
        self, sets: Mapping[str, Images], measured: Mapping[str, Images]
    ) -> dict[str, dict]:
        """Role to what was read for it, as plain JSON: see `images.summary.Summary`."""
        called = {"failing": "failures", "retained": "retain"}
        every = {called.get(name, name): images for name, images in sets.items()}
        every |= {f"holdout {name}": images for name, images in measured.items()}
        return {
            role: replace(Summary.of(images, self.right.get(role)), name=role).to_dict()
            for role, images in every.items()
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


def _tell_of_few(passing: Images, needed: int) -> None:
    warnings.warn(
        f"passing: {len(passing)} of the examples that were kept with the failures can be used, too"
        f" few to train, choose and measure on: they were left out. At least {needed} are needed;"
        " collect from more images",
        stacklevel=4,
    )


def _refuse_single_class(retained: Images, classes: Classes) -> None:
    if retained.labels.unique().numel() < 2:
        raise DataError(
            f"retain: all {len(retained)} examples are of one class, but the model has"
            f" {classes.count}: forgetting the others would go unseen. Give examples of more"
            " classes, or no retain"
        )
