"""The data of a repair: what it trains on, chooses by and measures on, split before anything is
looked at.

`prepare` makes a `RepairData` from whatever the user calls failures, retain and holdout;
`collect_failures` finds the examples that a model gets wrong. How sources are read: sources.py; the
image sets themselves: images.py.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from datasets import DatasetDict, IterableDatasetDict
from torch import nn

from timm_repair.collecting import failures_of_stream
from timm_repair.errors import DataError, NoFailuresError, OptionError
from timm_repair.evaluation import predict
from timm_repair.images import Images
from timm_repair.labels import Classes
from timm_repair.loading import check_finite, load
from timm_repair.options import check_types
from timm_repair.preprocessing import Preprocessing
from timm_repair.runtime import Runtime
from timm_repair.sources import as_images, can_stream, check_options, is_stream
from timm_repair.splits import LEAST, refuse_overlap, split, without, without_duplicates

__all__ = [
    "DataOptions",
    "Images",
    "Preprocessing",
    "RepairData",
    "as_images",
    "check_finite",
    "collect_failures",
    "prepare",
]


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """How the data of a repair are read and split.

    Args:
        selection_share: of the failures, for choosing (early stopping, block, strength); never
            trained on.
        holdout_share: of the failures, for measuring; never trained on nor chosen by.
        retained_selection_share: the same for the retained examples, at most
            `retained_selection_max` of them.
        retained_selection_max: see above.
        retained_holdout_share: of the retained examples, for measuring where no holdout is given,
            at most `retained_holdout_max` of them.
        retained_holdout_max: see above.
        max_right: share of the given failures that the model may get right; above, they are taken
            for mislabelled.
        failures_split: which split of the failures, where they have several; likewise for the other
            two.
        retain_split: see above.
        holdout_split: see above.
        image_column: see `as_images`, as for all that follow; they apply to every source.
        label_column: see above.
        label_map: see above.
        on_unreadable: see above.
        on_unknown: see above.
        streaming: see above; only Hub ids and files are streamed, other sources are read as ever.
        max_examples: see above; of each stream, other sources are read as ever.
    """

    selection_share: float = 0.2
    holdout_share: float = 0.2
    retained_selection_share: float = 0.1
    retained_selection_max: int = 1000
    retained_holdout_share: float = 0.2
    retained_holdout_max: int = 2000
    max_right: float = 0.5
    failures_split: str | None = None
    retain_split: str | None = None
    holdout_split: str | None = None
    image_column: str | None = None
    label_column: str | None = None
    label_map: Mapping | Sequence[str] | str | Path | None = None
    on_unreadable: str = "stop"
    on_unknown: str = "stop"
    streaming: bool = False
    max_examples: int | None = None

    def __post_init__(self):
        check_types(self)
        for option in fields(self):
            value = getattr(self, option.name)
            if option.name.endswith("_share") and not 0 < value < 1:
                raise OptionError(f"{option.name}={value!r}; must lie between 0 and 1")
            if option.name.endswith("_max") and value < LEAST:
                raise OptionError(f"{option.name}={value!r}; must be at least {LEAST}")
        for kind in ("", "retained_"):
            if getattr(self, f"{kind}selection_share") + getattr(self, f"{kind}holdout_share") >= 1:
                raise OptionError(
                    f"{kind}selection_share and {kind}holdout_share leave nothing to train on"
                )
        if self.max_examples is not None and self.max_examples < 1:
            raise OptionError(f"max_examples={self.max_examples!r}; must be at least 1, or None")
        if not 0 <= self.max_right <= 1:
            raise OptionError(f"max_right={self.max_right!r}; must lie between 0 and 1")

    def shares(self, name: str, held_out: bool) -> dict[str, tuple[float, int | None]]:
        """For `splits.split` of the "failing" or "retained": share and most of each part beside the
        one trained on.
        """
        kind = "retained_" if name == "retained" else ""
        parts = ("selection",) if held_out else ("selection", "holdout")
        return {
            p: (getattr(self, f"{kind}{p}_share"), getattr(self, f"{kind}{p}_max", None))
            for p in parts
        }

    def source_options(self, role: str, source: Any) -> dict:
        """Keyword arguments of `as_images` for `source`: the failures, the retained examples
        ("retain") or the "holdout".
        """
        names = ("image_column", "label_column", "label_map", "on_unreadable", "on_unknown")
        streaming = self.streaming and can_stream(source)
        most = self.max_examples if is_stream(source, streaming) else None
        chosen = {
            "split": getattr(self, f"{role}_split"),
            "streaming": streaming,
            "max_examples": most,
        }
        return {name: getattr(self, name) for name in names} | chosen


@dataclass(frozen=True)
class RepairData:
    """All data of one repair; the splits share no example.

    Args:
        failing: what the repair trains on: examples the model gets wrong.
        retained: what it must not forget; None when the user gave none.
        selection: "failing" and, with retained examples, "retained": what choices are made by;
            never trained on.
        holdout: population name to images: what is measured; never trained on nor chosen by.
        preprocessing: of the model.
        num_classes: of the model.
        label_names: readable names of the classes, where known.
        error_rate: share of the pool the failures were drawn from that the model gets wrong; None
            if unknown.
        provenance: plain JSON: per role the source, n, SHA-256 over ids and labels, columns, label
            mapping, skipped.
    """

    failing: Images
    retained: Images | None
    selection: Mapping[str, Images]
    holdout: Mapping[str, Images]
    preprocessing: Preprocessing
    num_classes: int
    label_names: tuple[str, ...] | None
    error_rate: float | None
    provenance: dict


def collect_failures(
    model: str | nn.Module,
    dataset: Any,
    *,
    max_failures: int | None = None,
    seed: int = 0,
    runtime: Runtime | None = None,
    name: str = "failures",
    **options: Any,
) -> Images:
    """The examples of `dataset` that `model` gets wrong, with their share as `error_rate`.

    Args:
        model: it comes back as it was; a string is loaded as `repair` does.
        dataset: anything `as_images` takes.
        max_failures: at most so many, drawn at random; of a stream the first ones. None for all; of
            a stream, for `max_examples` (then a bound on the failures kept, not on the examples
            read), or else for `streaming.BUFFER`, with a logged warning where there are more.
        seed: of the draw.
        runtime: where to compute; None makes one.
        name: what to call them in messages.
        **options: of `as_images`.

    Raises:
        NoFailuresError: the model gets every example right.
        DataError: as `as_images`.

    Example:
        >>> failures = collect_failures(model, "drifted/", max_failures=1000)
        >>> repaired = timm_repair.repair(model, failures)
    """
    runtime = runtime or Runtime(seed=seed)
    if max_failures is not None and max_failures < 1:
        raise OptionError(f"max_failures={max_failures!r}; must be at least 1, or None for all")
    choices = {
        option: options[option] for option in ("on_unreadable", "on_unknown") if option in options
    }
    check_options(
        dataset,
        options.get("streaming", False),
        options.get("max_examples"),
        options.get("token"),
        **choices,
    )
    _, model = load(model)
    if is_stream(dataset, bool(options.get("streaming"))):
        return failures_of_stream(model, dataset, max_failures, runtime, name, options)
    images = as_images(dataset, model, name=name, **options)
    wrong = (
        (predict(model, images, images.preprocessing, runtime).predictions != images.labels)
        .nonzero()
        .flatten()
    )
    if len(wrong) == 0:
        raise NoFailuresError(
            f"the model gets all {len(images)} examples right: there is nothing to repair"
        )
    rate = len(wrong) / len(images)
    if max_failures is not None and len(wrong) > max_failures:
        generator = Runtime(runtime.accelerator, seed).generator("failures")
        wrong = wrong[torch.randperm(len(wrong), generator=generator)[:max_failures]].sort().values
    # the cache of the whole may be full of examples that are not failures
    return images.subset(wrong, own_cache=True, name=name, error_rate=rate)


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
    given = _read(failures, model, options, "failures")
    # a dict of datasets' own is one source with several splits
    several = isinstance(holdout, Mapping) and not isinstance(
        holdout, DatasetDict | IterableDatasetDict
    )
    named = holdout if several else {"retained": holdout}
    measured = {
        name: _read(h, model, options, "holdout", name)
        for name, h in named.items()
        if h is not None
    }
    failing = _really_failing(model, without_duplicates(given), options, runtime)
    sets = {"failing": failing}
    if retain is not None:
        sets["retained"] = without(_read(retain, model, options, "retain"), failing)
        _refuse_single_class(sets["retained"], classes)
    refuse_overlap(measured, failing, sets.get("retained"))
    generator = runtime.generator("split")
    # any population but the failing one measures what the repair breaks
    held_out = {"failing": "failing" in measured, "retained": bool(measured.keys() - {"failing"})}
    parts = {
        name: split(images, options.shares(name, held_out[name]), generator)
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
    images = as_images(
        source,
        model,
        name=name,
        check_readable=role != "retain",
        **options.source_options(role, source),
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


def _really_failing(
    model: nn.Module, images: Images, options: DataOptions, runtime: Runtime
) -> Images:
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
