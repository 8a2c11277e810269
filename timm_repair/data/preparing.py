"""Preparing: a `RepairData` from whatever the user calls failures, retain and holdout, split before
anything is looked at.
"""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from datasets import DatasetDict, IterableDatasetDict
from torch import nn

from timm_repair.data.options import DataOptions
from timm_repair.data.predicting import predict
from timm_repair.data.repair_data import RepairData
from timm_repair.data.splits import refuse_overlap, split, without, without_duplicates
from timm_repair.errors import DataError, NoFailuresError
from timm_repair.images.classes import Classes
from timm_repair.images.images import Images
from timm_repair.images.preprocessing import Preprocessing
from timm_repair.images.sources import as_images
from timm_repair.models.weights import check_finite
from timm_repair.runtime.runtime import Runtime


def prepare(
    model: nn.Module,
    failures: Any,
    *,
    retain: Any = None,
    holdout: Any = None,
    options: DataOptions | None = None,
    runtime: Runtime | None = None,
) -> RepairData:
    """Read, check and split everything a repair needs.

    Failures that `model` gets right are left out with a warning. The rest are split, stratified by
    label, into a part to train on, one to choose by and one to measure on; retained examples
    likewise, less those that are failures too.

    Args:
        model: it is not changed.
        failures: anything `as_images` takes.
        retain: likewise; None if there is none.
        holdout: one source, measured as "retained", or a dict of named ones. Retained examples are
            then not held out, and failures only where the dict has no "failing".
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
    given = read(failures, model, options, "failures")
    # a dict of datasets' own is one source with several splits
    several = isinstance(holdout, Mapping) and not isinstance(
        holdout, DatasetDict | IterableDatasetDict
    )
    named = cast(Mapping[str, Any], holdout if several else {"retained": holdout})
    measured = {
        name: read(h, model, options, "holdout", name) for name, h in named.items() if h is not None
    }
    failing = really_failing(model, without_duplicates(given), options, runtime)
    sets = {"failing": failing}
    if retain is not None:
        sets["retained"] = without(read(retain, model, options, "retain"), failing)
        _refuse_single_class(sets["retained"], classes)
    refuse_overlap(measured, failing, sets.get("retained"))
    generator = runtime.generator("split")
    # any population but the failing one measures what the repair breaks
    held_out = {"failing": "failing" in measured, "retained": bool(measured.keys() - {"failing"})}
    parts = {
        name: split(images, options.shares.of(name, held_out[name]), generator)
        for name, images in sets.items()
    }
    train = {name: part["train"] for name, part in parts.items()}
    selection = {name: part["selection"] for name, part in parts.items()}
    held = {name: part["holdout"] for name, part in parts.items() if "holdout" in part} | measured
    return RepairData(
        failing=train["failing"],
        retained=train.get("retained"),
        selection=selection,
        holdout=held,
        preprocessing=failing.preprocessing,
        num_classes=classes.count,
        label_names=classes.readable,
        error_rate=given.error_rate,
        provenance={"given": {"failures": len(given), "wrong": len(failing)}}
        | _described(train)
        | {"selection": _described(selection), "holdout": _described(held)},
    )


def _described(sets: Mapping[str, Images]) -> dict:
    return {name: images.describe() for name, images in sets.items()}


def read(
    source: Any, model: nn.Module, options: DataOptions, role: str, population: str | None = None
) -> Images:
    """What the user calls failures, retained examples ("retain"), a holdout, or examples that pass,
    as images for `model`.

    Raises:
        NoFailuresError: no failures.
        DataError: it cannot be used, is empty, or was read for another model.
    """
    empty = not isinstance(source, str | Path) and hasattr(source, "__len__") and len(source) == 0
    if empty and role == "failures":
        raise NoFailuresError(
            "no failures were given; give examples that the model gets wrong, with their true"
            " labels"
        )
    name = role if population is None else f"{role} {population!r}"
    images = as_images(
        source,
        model,
        name=name,
        check_readable=role != "retain",
        **vars(options.reading_of("failures" if role == "passing" else role, source)),
    )
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


def really_failing(
    model: nn.Module, images: Images, options: DataOptions, runtime: Runtime
) -> Images:
    """Those that `model` gets wrong, with its `answers`; the rest is left out with a warning.

    Raises:
        NoFailuresError: it has all right.
        DataError: it has more of them right than `max_right`.
    """
    answers = predict(model, images, images.preprocessing, runtime).predictions
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
    return images.subset(wrong, answers=answers[wrong])


def _refuse_single_class(retained: Images, classes: Classes) -> None:
    if retained.labels.unique().numel() < 2:
        raise DataError(
            f"retain: all {len(retained)} examples are of one class, but the model has"
            f" {classes.count}: forgetting the others would go unseen. Give examples of more"
            " classes, or no retain"
        )
