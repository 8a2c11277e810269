"""Labels as the user has them to class indices of the model, by name wherever there are names, and
never by guessing.

The silent bug this prevents: a folder with three of a thousand classes numbers them 0, 1, 2.
"""

import difflib
import logging
import math
import re
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from timm_repair.errors import LabelError
from timm_repair.images.classes import Classes, fold
from timm_repair.images.label_maps import LabelMap, explicit, keys_of, read
from timm_repair.images.naming import by_index, joined
from timm_repair.images.readers import nfc

logger = logging.getLogger(__name__)

_DECIMAL = re.compile(r"[0-9]+")
# the rules, as they are shown
BY_MAP, BY_NAME, BY_INDEX = "label_map", "the model's label names", "indices, as they are"
BY_ORDER = "the dataset's order"
BY_NUMBER = "names that are numbers, as these numbers"
BY_COUNT = "names that are numbers, counted from 1"
BY_TEXT = "names that are numbers, in the order of text (1, 10, 11, 2)"
BY_RANK = "names that are numbers, in their order"
GUESSED = (BY_ORDER, BY_NUMBER, BY_COUNT, BY_TEXT, BY_RANK)  # no name of the model confirms them


def map_labels(
    raw: Sequence[Any],
    classes: Classes,
    *,
    names: Sequence[str] | Mapping[int, str] | None = None,
    label_map: LabelMap | None = None,
    on_unknown: str = "stop",
    what: str = "images",
) -> tuple[Tensor, dict]:
    """Class indices of the model for the labels of a dataset, by the first of these that applies:

    1. `label_map`, for the labels that it tells of; 2. the dataset's names among the model's
    (exact; then ignoring case, "_" and "-"; then a part of ImageNet's description); 3. names that
    are all numbers: as these numbers if the model has so many classes, else counted from 1, else in
    the order of text; 4. names that the model lacks, in the dataset's order, with a warning and
    only if there are as many as classes; 5. numbers without names, as they are.

    Args:
        raw: (N,) an index into `names`, a name, or an index of the model where there are no names.
        classes: the classes of the model.
        names: the dataset's own names, by the dataset's index.
        label_map: dataset's name or label to class index (or to the model's name for it), or
            another form of `label_maps`. Where it tells of -1, True or False, these are labels.
        on_unknown: "stop", or "skip" to leave out labels that are missing or match no class.
        what: what these are, for messages.

    Returns:
        (N,) class indices, -1 where skipped; and how they were mapped, as plain JSON: by which rule
        and table, with "others", the other readings that numbers for names may have.

    Raises:
        LabelError: labels missing, out of range, ambiguous or unknown.
    """
    told = None if label_map is None else read(label_map, what)
    indexed = None if names is None else by_index(names, f"{what}: the dataset's names")
    called = None if indexed is None else {i: nfc(name) for i, name in joined(indexed).items()}
    labels = [_plain(value, what, told or {}) for value in raw]
    missing = labels.count(None)
    if missing and (on_unknown != "skip" or missing == len(labels)):
        raise LabelError(
            f"{what}: {missing} of {len(labels)} labels are missing (None or -1); leave them out,"
            " or set on_unknown='skip'"
        )
    labels = _named(labels, called, what)
    used = Counter(label for label in labels if label is not None)
    table, how, others = _table(used, classes, called, told, what)
    _require_inside(table, classes, what)
    unknown = [label for label in used if label not in table]
    if unknown and (on_unknown != "skip" or len(unknown) == len(used)):
        raise LabelError(_unknown_message(what, unknown, used, classes, told))
    skipped = missing + sum(used[label] for label in unknown)
    if skipped:
        logger.warning(
            "%s: %d examples left out, their labels match no class: %s",
            what,
            skipped,
            _some([*unknown, *([None] if missing else [])]),
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
    mapping: dict[str, Any] = {"by": how, "table": {str(k): v for k, v in table.items()}}
    return mapped, {
        "label_mapping": mapping | ({"others": others} if others else {}),
        "unknown": skipped,
    }


def _plain(value: Any, what: str, told: Mapping[Any, Any]) -> int | str | None:
    """`value` as a Python int, str or None, which is what -1 means where `told` knows no such
    label; a float that is a whole number is one that pandas made of an integer.
    """
    if isinstance(value, torch.Tensor | np.generic | np.ndarray) and math.prod(value.shape) == 1:
        value = value.item()
    if value is None or (isinstance(value, float) and value != value):
        return None
    if type(value).__name__ in ("NAType", "NaTType"):  # pandas', in which nothing is equal or true
        return None
    if isinstance(value, bool) and (value in told or str(value) in told):
        return int(value) if value in told else str(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and value == -1 and not {-1, "-1"} & told.keys():
        return None
    if isinstance(value, bool) or not isinstance(value, int | str):
        many = isinstance(value, list | tuple | torch.Tensor | np.ndarray)
        fix = {True: "of a one-hot vector give its argmax", False: "give 0 and 1, or names"}
        if isinstance(value, bool):
            fix[False] += ", or label_map={False: …, True: …}"
        raise LabelError(
            f"{what}: a label must be one class index or name, not {type(value).__name__}"
            f" {value!r:.80}; {fix[many]}"
        )
    return nfc(value) if isinstance(value, str) else int(value)


def _named(
    labels: list[int | str | None], names: dict[int, str] | None, what: str
) -> list[int | str | None]:
    """Labels by their names, where the dataset has some; -1 stays, which `label_map` tells of."""
    if names is None:
        return labels
    wrong = sorted({label for label in labels if isinstance(label, int)} - names.keys() - {-1})
    if wrong:
        raise LabelError(
            f"{what}: labels {wrong[:5]} for a dataset that names {len(names)} classes"
            f" ({_some(f'{i}: {name}' for i, name in names.items())}); correct them, or its"
            " class_to_idx or classes"
        )
    return [names.get(label, label) if isinstance(label, int) else label for label in labels]


def _require_inside(table: dict[int | str, int], classes: Classes, what: str) -> None:
    outside = {label: index for label, index in table.items() if not 0 <= index < classes.count}
    if not outside:
        return
    shifted = all(isinstance(label, int) for label in table) and (
        min(table.values()) == 1 and max(table.values()) == classes.count
    )
    hint = (
        f" They seem to count from 1: label_map={{i: i - 1 for i in range(1, {classes.count + 1})}}"
    )
    raise LabelError(
        f"{what}: {len(outside)} labels lie outside the model's {classes.count} classes:"
        f" {_some(outside)}. Give indices 0 to {classes.count - 1}, names, or label_map="
        + (f".{hint}" if shifted else "")
    )


def _table(
    used: Counter,
    classes: Classes,
    names: dict[int, str] | None,
    told_of: Mapping[Any, Any] | None,
    what: str,
) -> tuple[dict[int | str, int], str, dict]:
    """Class index for each label of `used` that has one, by which rule, and the other readings."""
    texts = [label for label in used if isinstance(label, str)]
    if told_of is not None:
        told = explicit(used, classes, names, told_of, what)
        rest = [label for label in texts if label not in told]
        found = _by_name(rest, classes, names, what)
        if not told and found:
            logger.warning(
                "%s: label_map names none of the labels, the model does: it names %s",
                what,
                _some(keys_of(told_of)),
            )
        return found | told, f"{BY_MAP}, then {BY_NAME}" if found else BY_MAP, {}
    if not texts:
        return {label: label for label in used}, BY_INDEX, {}
    if len(texts) < len(used):
        raise LabelError(
            f"{what}: some labels are names and some numbers: {_some(used)}; use one kind, or"
            " label_map="
        )
    table = _by_name(texts, classes, names, what)
    if not table and all(_DECIMAL.fullmatch(name) for name in (names.values() if names else texts)):
        return _by_number(texts, [*names.values()] if names else texts, classes, what)
    if classes.names:
        return table, BY_NAME, {}
    if names is not None and names.keys() == set(range(classes.count)):
        warnings.warn(
            f"{what}: the model has no label names, so the dataset's {len(names)} classes were"
            f" taken to be in the model's order ({_some(names.values())}). Check that, or give"
            " label_map=",
            stacklevel=4,
        )
        places = {name: i for i, name in reversed(names.items())}
        return {label: places[label] for label in texts}, BY_ORDER, {}
    raise LabelError(
        f"{what}: labels are names ({_some(texts)}) but the model has none: which of its"
        f" {classes.count} classes they are cannot be told. Give label_map={{name: index}}, or set"
        " model.pretrained_cfg['label_names']"
    )


def _by_name(
    texts: list[str], classes: Classes, names: dict[int, str] | None, what: str
) -> dict[int | str, int]:
    """Those that the model has a class for."""
    table: dict[int | str, int] = {}
    named, readable = classes.names or (), classes.readable or ()
    for label in texts if named else ():
        found = classes.find(label)
        if not found:  # several names of one class: those that the model has must mean one
            parts = map(classes.find, filter(None, map(str.strip, label.split(","))))
            found = sorted({i for part in parts for i in part})
        if len(found) > 1 and names and len(names) == classes.count:
            # the whole list of ImageNet's names: two "crane", each in its place
            places = [i for i, name in names.items() if name == label]
            found = places[:1] if places and places[0] in found else found
        if len(found) > 1:
            candidates = ", ".join(f"{i} ({named[i]}: {readable[i]})" for i in found)
            raise LabelError(
                f"{what}: the label {label!r} may mean any of {candidates}; say which with"
                " label_map="
            )
        table |= {label: found[0]} if found else {}
    return table


def _by_number(
    texts: list[str], names: list[str], classes: Classes, what: str
) -> tuple[dict[int | str, int], str, dict]:
    """Names that are numbers, by the first reading that fits the model, and the others that do."""
    names = list(dict.fromkeys(names))
    readings: dict[str, dict[int | str, int]] = {
        BY_NUMBER: {name: int(name) for name in texts},
        BY_COUNT: {name: int(name) - 1 for name in texts},
    }
    if len(names) == classes.count:  # else their places are not the model's
        for rule, order in ((BY_TEXT, sorted(names)), (BY_RANK, sorted(names, key=int))):
            readings[rule] = {name: order.index(name) for name in texts}
    fitting: dict[str, dict[int | str, int]] = {}
    for rule, table in readings.items():
        if all(0 <= i < classes.count for i in table.values()) and table not in fitting.values():
            fitting[rule] = table
    if not fitting:
        return readings[BY_NUMBER], BY_NUMBER, {}
    chosen = next(iter(fitting))
    others = {rule: table for rule, table in fitting.items() if rule != chosen}
    shown = classes.readable
    said = ", ".join(
        f"{name!r} is class {i}" + (f" ({shown[i]})" if shown else "")
        for name, i in list(fitting[chosen].items())[:5]
    )
    message = (
        f"{what}: the classes are called by numbers, which were taken for {chosen}: {said}, …"
        f" Check that, or give label_map="
    )
    if chosen != BY_NUMBER:
        warnings.warn(message, stacklevel=5)
    elif others:
        logger.warning("%s", message)
    return fitting[chosen], chosen, others


def _unknown_message(
    what: str, unknown: list, used: Counter, classes: Classes, told: Mapping[Any, Any] | None
) -> str:
    known = [*(classes.readable or ())]
    known += keys_of(told) if told is not None else []
    folded = {fold(name): name for name in known}

    def closest(label: int | str) -> str:
        close = difflib.get_close_matches(fold(str(label)), folded, n=1, cutoff=0.5)
        return f"{label!r} (closest: {folded[close[0]]!r})" if close else f"{label!r}"

    where = "label_map" if told is not None else "the model's label names"
    where += " nor in the model's label names" if told is not None and classes.names else ""
    listed = ", ".join(map(closest, unknown[:10])) + (", ..." if len(unknown) > 10 else "")
    return (
        f"{what}: {len(unknown)} of {len(used)} labels are not in {where}: {listed}. Give"
        " label_map={name: index or class name}, or on_unknown='skip' to leave them out"
    )


def _some(items: Any) -> str:
    items = list(items)
    return ", ".join(repr(item) for item in items[:5]) + (", ..." if len(items) > 5 else "")
