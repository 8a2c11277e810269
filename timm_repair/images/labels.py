"""Labels as the user has them to class indices of the model, by name wherever there are names, and
never by guessing.

The silent bug this prevents: a folder with three of a thousand classes numbers them 0, 1, 2.
"""

import difflib
import logging
import re
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from timm_repair.errors import LabelError
from timm_repair.images.classes import Classes, fold

logger = logging.getLogger(__name__)

_DECIMAL = re.compile(r"[0-9]+")


def map_labels(
    raw: Sequence[Any],
    classes: Classes,
    *,
    names: Sequence[str] | None = None,
    label_map: Mapping | Sequence[str] | str | Path | None = None,
    on_unknown: str = "stop",
    what: str = "images",
) -> tuple[Tensor, dict]:
    """Class indices of the model for the labels of a dataset, by the first of these that applies:

    1. `label_map`; 2. the dataset's names among the model's (exact; then ignoring case, "_" and
    "-"; then a part of ImageNet's description); 3. names that are all numbers, as these numbers; 4.
    names that the model lacks, in the dataset's order, with a warning and only if there are as many
    as classes; 5. numbers without names, as they are.

    Args:
        raw: (N,) an index into `names`, a name, or an index of the model where there are no names.
        classes: the classes of the model.
        names: the dataset's own names, by the dataset's index.
        label_map: dataset's name or label to class index (or to the model's name for it); or the
            names in the order of the model's classes, as a list or a text file with one a line.
        on_unknown: "stop", or "skip" to leave out labels that match no class.
        what: what these are, for messages.

    Returns:
        (N,) class indices, -1 where skipped; and how they were mapped, as plain JSON.

    Raises:
        LabelError: labels missing, out of range, ambiguous or unknown.
    """
    names = None if names is None else list(names)
    labels = [_plain(value, what) for value in raw]
    missing = sum(label is None or label == -1 for label in labels)
    if missing:
        raise LabelError(
            f"{what}: {missing} of {len(labels)} labels are missing (None or -1); leave them out"
        )
    if names is not None:
        wrong = sorted(
            {label for label in labels if isinstance(label, int) and not 0 <= label < len(names)}
        )
        if wrong:
            raise LabelError(
                f"{what}: labels {wrong[:5]} for a dataset that names {len(names)} classes; correct"
                " them"
            )
        labels = [names[label] if isinstance(label, int) else label for label in labels]
    used = Counter(labels)
    table, how = _table(used, classes, names, label_map, what)
    outside = {label: index for label, index in table.items() if not 0 <= index < classes.count}
    if outside:
        raise LabelError(
            f"{what}: {len(outside)} labels lie outside the model's {classes.count} classes:"
            f" {_some(outside)}. Give indices 0 to {classes.count - 1}, names, or label_map="
        )
    unknown = [label for label in used if label not in table]
    if unknown and (on_unknown != "skip" or len(unknown) == len(used)):
        raise LabelError(_unknown_message(what, unknown, used, classes, label_map))
    skipped = sum(used[label] for label in unknown)
    if skipped:
        logger.warning(
            "%s: %d examples left out, their labels match no class: %s",
            what,
            skipped,
            _some(unknown),
        )
    logger.info(
        "%s: labels by %s\n%s",
        what,
        how,
        "\n".join(f"  {k!r:30} -> {v}" for k, v in list(table.items())[:50]),
    )
    mapped = torch.tensor(
        [-1 if label is None else table.get(label, -1) for label in labels], dtype=torch.long
    )
    return mapped, {
        "label_mapping": {"by": how, "table": {str(k): v for k, v in table.items()}},
        "unknown": skipped,
    }


def _plain(value: Any, what: str) -> int | str | None:
    """`value` as a Python int, str or None; a float that is a whole number is one that pandas made
    of an integer.
    """
    if isinstance(value, torch.Tensor | np.generic) or (
        isinstance(value, np.ndarray) and value.ndim == 0
    ):
        value = value.item() if getattr(value, "ndim", 0) == 0 else value
    if value is None or (isinstance(value, float) and value != value):
        return None
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise LabelError(
            f"{what}: a label must be one class index or name, not {type(value).__name__}"
            f" {value!r:.80}"
        )
    return value


def _table(
    used: Counter, classes: Classes, names: list[str] | None, label_map: Any, what: str
) -> tuple[dict[int | str, int], str]:
    """Class index for each label of `used` that has one, and by which rule."""
    if label_map is not None:
        return _explicit(used, classes, names, label_map, what), "label_map"
    texts = [label for label in used if isinstance(label, str)]
    if not texts:
        return {label: label for label in used}, "indices, as they are"
    if len(texts) < len(used):
        raise LabelError(
            f"{what}: some labels are names and some numbers: {_some(used)}; use one kind, or"
            " label_map="
        )
    table = {}
    named, readable = classes.names or (), classes.readable or ()
    for label in texts if named else ():
        found = classes.find(label)
        if len(found) > 1 and names and len(names) == classes.count and names.index(label) in found:
            # the whole list of ImageNet's names: two "crane", each in its place
            found = [names.index(label)]
        if len(found) > 1:
            candidates = ", ".join(f"{i} ({named[i]}: {readable[i]})" for i in found)
            raise LabelError(
                f"{what}: the label {label!r} may mean any of {candidates}; say which with"
                " label_map="
            )
        table |= {label: found[0]} if found else {}
    if not table and all(_DECIMAL.fullmatch(name) for name in names or texts):
        return {label: int(label) for label in texts}, "names that are numbers, as these numbers"
    if classes.names:
        return table, "the model's label names"
    if names is not None and len(names) == classes.count:
        warnings.warn(
            f"{what}: the model has no label names, so the dataset's {len(names)} classes were"
            f" taken to be in the model's order ({_some(names)}). Check that, or give label_map=",
            stacklevel=3,
        )
        return {label: names.index(label) for label in texts}, "the dataset's order"
    raise LabelError(
        f"{what}: labels are names ({_some(texts)}) but the model has none: which of its"
        f" {classes.count} classes they are cannot be told. Give label_map={{name: index}}, or set"
        " model.pretrained_cfg['label_names']"
    )


def _explicit(
    used: Counter, classes: Classes, names: list[str] | None, label_map: Any, what: str
) -> dict[int | str, int]:
    if isinstance(label_map, str | Path):
        if not Path(label_map).is_file():
            raise LabelError(
                f"{what}: label_map={str(label_map)!r} is no file; give one with a class name a"
                " line"
            )
        label_map = [
            line.strip() for line in Path(label_map).read_text().splitlines() if line.strip()
        ]
    if not isinstance(label_map, Mapping):
        # names in the order of the model's classes, or the model's classes in the order of the
        # dataset's
        pairs = enumerate(label_map)
        label_map = (
            {value: i for i, value in pairs}
            if all(isinstance(v, str) for v in label_map)
            else dict(pairs)
        )
    table = {}
    for label in used:
        keys = [label]
        # where "3" is a name, 3 is not plainly an index
        if names and label in names and not _DECIMAL.fullmatch(label):
            keys.append(names.index(label))
        keys += map(str, keys[:])  # a map read from JSON has text for keys
        key = next((key for key in keys if key in label_map), None)
        if key is None:
            continue
        target = label_map[key]
        if isinstance(target, str):
            found = classes.find(target)
            if len(found) != 1:
                raise LabelError(
                    f"{what}: label_map sends {label!r} to {target!r}, the name of {len(found)} of"
                    " the model's classes; give a class index"
                )
            target = found[0]
        table[label] = _plain(target, what)
        if table[label] is None:
            raise LabelError(
                f"{what}: label_map sends {label!r} to no class; drop it and set on_unknown='skip'"
            )
    return table


def _unknown_message(
    what: str, unknown: list, used: Counter, classes: Classes, label_map: Any
) -> str:
    known = (
        [str(key) for key in label_map]
        if isinstance(label_map, Mapping)
        else [*(classes.readable or ())]
    )
    folded = {fold(name): name for name in known}

    def closest(label: int | str) -> str:
        close = difflib.get_close_matches(fold(str(label)), folded, n=1, cutoff=0.5)
        return f"{label!r} (closest: {folded[close[0]]!r})" if close else f"{label!r}"

    where = "label_map" if label_map is not None else "the model's label names"
    listed = ", ".join(map(closest, unknown[:10])) + (", ..." if len(unknown) > 10 else "")
    return (
        f"{what}: {len(unknown)} of {len(used)} labels are not in {where}: {listed}. Give"
        " label_map={name: index}, or on_unknown='skip' to leave them out"
    )


def _some(items: Any) -> str:
    items = list(items)
    return ", ".join(repr(item) for item in items[:5]) + (", ..." if len(items) > 5 else "")
