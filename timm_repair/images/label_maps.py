"""Label maps: what the user says a label means, in the forms that are around.

A dict {name or label: class index or the model's name for it}; torchvision's class_to_idx;
transformers' id2label and label2id; the names in the model's order; any of them in a file.
"""

import csv
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from timm_repair.errors import LabelError
from timm_repair.images.classes import Classes
from timm_repair.images.readers import nfc, separator

LabelMap = Mapping | Sequence[str] | str | Path
FORMS = (
    "label_map takes {name: index}, {index: name} as transformers' id2label, a list of names in the"
    " model's order, or a .json, .yaml, .csv or .txt file of one of these"
)
# a line of a text file with an index and a name: "0 cat", "cat: 0", "0,cat"
_INDEX_FIRST = re.compile(r"(?P<index>\d+)(?P<between>\s*[:,;=\t]\s*|\s+)(?P<name>\S.*)")
_INDEX_LAST = re.compile(r"(?P<name>.*[^\s:,;=])(?P<between>\s*[:,;=\t]\s*|\s+)(?P<index>\d+)")

_TITLES = {"name", "names", "label", "labels", "class", "classes", "class_name", "category"}


def explicit(
    used: Iterable[int | str],
    classes: Classes,
    names: Mapping[int, str] | None,
    told: Mapping[Any, Any],
    what: str,
) -> dict[int | str, Any]:
    """Class index for each label of `used` that a label map tells of.

    Args:
        names: of the dataset's labels, by its index.
        told: what `read` made of the map.

    Raises:
        LabelError: it may be read in two ways, or sends a label to no class.
    """
    inverse = _inverse(told)
    table: dict[int | str, Any] = {}
    for label in used:
        key = next((key for key in _keys(label, names) if key in told), None)
        by_name = inverse.get(label) if isinstance(label, str) else None
        if key is None and by_name is None:
            continue
        target = by_name if key is None else _index(told[key], label, classes, by_name, what)
        if by_name is not None and target != by_name:
            raise LabelError(
                f"{what}: label_map may send {label!r} to {told[key]!r}, or name the model's class"
                f" {by_name} {label!r}; give {{name: index}}"
            )
        table[label] = target
    return table


def keys_of(told: Mapping[Any, Any]) -> list[str]:
    """What a label map names, for messages."""
    return [*map(str, told), *_inverse(told)]


def _keys(label: int | str, names: Mapping[int, str] | None) -> list[int | str]:
    keys = [label]
    # where "3" is a name, 3 is not plainly an index
    if names and not str(label).isdecimal():
        keys += [i for i, name in names.items() if name == label][:1]
    return keys + [str(key) for key in keys]  # a map read from JSON has text for keys


def _index(target: Any, label: int | str, classes: Classes, by_name: int | None, what: str) -> int:
    """The class that `target` tells of: an index, or the model's name of it."""
    if isinstance(target, str):
        found = classes.find(target)
        if not found and target.isdecimal():
            return int(target)
        if not found and by_name is not None:
            return by_name
        if len(found) != 1:
            raise LabelError(
                f"{what}: label_map sends {label!r} to {target!r}, the name of {len(found)} of the"
                f" model's classes; give a class index. {FORMS}"
            )
        return found[0]
    if by_name is not None and isinstance(target, Sequence):
        return by_name
    if target is None:
        raise LabelError(
            f"{what}: label_map sends {label!r} to no class; drop it and set on_unknown='skip'"
        )
    if isinstance(target, bool) or not hasattr(target, "__index__"):
        if isinstance(target, float) and target.is_integer():
            return int(target)
        raise LabelError(
            f"{what}: label_map sends {label!r} to {target!r:.80}, which is no class index. {FORMS}"
        )
    return int(target)


def read(label_map: LabelMap, what: str) -> dict[Any, Any]:
    """A label map, in any of its forms, as a dict: from the dataset's name or label to the model's
    class or its name, or from all indices of the model to names.

    Raises:
        LabelError: it has none of these forms, no order, or nothing in it.
    """
    given: Any = label_map
    if isinstance(label_map, str | Path):
        given = _from_file(Path(label_map).expanduser(), what)
    if getattr(type(given), "__name__", "") == "Series":  # of pandas, or alike
        given = _of_series(given, what)
    _require_order(given, what)
    if isinstance(given, Mapping):
        for inner in ("label2id", "id2label", "class_to_idx"):  # a whole configuration
            if isinstance(given.get(inner), Mapping):
                given = given[inner]
                break
        if not given:
            raise LabelError(f"{what}: label_map is empty. {FORMS}")
        return {nfc(key) if isinstance(key, str) else key: v for key, v in given.items()}
    # names in the order of the model's classes, or the model's classes in the order of the
    # dataset's
    listed = list(given)
    if not listed:
        raise LabelError(f"{what}: label_map is empty. {FORMS}")
    if all(isinstance(value, str) for value in listed):
        return {nfc(value): i for i, value in enumerate(listed)}
    if all(isinstance(value, tuple | list) and len(value) == 2 for value in listed) and all(
        sum(isinstance(each, str) for each in value) == 1 for value in listed
    ):
        return read(dict(listed), what)  # (name, index), as dict takes it
    return dict(enumerate(listed))


def _require_order(given: Any, what: str) -> None:
    """Raise LabelError for what holds no labels, or not in an order that stays."""
    kind = type(given).__name__
    if isinstance(given, set | frozenset):
        raise LabelError(f"{what}: label_map is a set, which has no order. {FORMS}")
    if isinstance(given, Iterator):
        raise LabelError(
            f"{what}: label_map is a {kind}, which can be read once only; give dict(…) or list(…)"
            f" of it. {FORMS}"
        )
    if not isinstance(given, Iterable):
        raise LabelError(f"{what}: label_map is a {kind}. {FORMS}")


def _of_series(series: Any, what: str) -> dict[Any, Any]:
    """Its index to its values."""
    if not series.index.is_unique:
        again = series.index[series.index.duplicated()][0]
        raise LabelError(
            f"{what}: label_map has {again!r} more than once in the index of the Series; give each"
            " label once"
        )
    return series.to_dict()


def _from_file(file: Path, what: str) -> Any:
    if not file.is_file():
        raise LabelError(f"{what}: label_map={str(file)!r} is no file. {FORMS}")
    ending = file.suffix.lower()
    try:
        text = file.read_text(encoding="utf-8-sig")
        if ending == ".json":
            return json.loads(text)
        if ending in (".yaml", ".yml"):
            return yaml.safe_load(text)
        if ending in (".csv", ".tsv"):
            return _of_table(list(csv.reader(text.splitlines(), delimiter=separator(file))))
    except (OSError, ValueError, csv.Error, yaml.YAMLError) as error:
        raise LabelError(
            f"{what}: label_map={str(file)!r} cannot be read ({error}). {FORMS}"
        ) from error
    return _of_lines([line.strip() for line in text.splitlines() if line.strip()])


def _of_table(rows: list[list[str]]) -> Any:
    """What a table of names, or of two columns of which one has an index, maps; the first row may
    be their titles.

    Raises:
        ValueError: it has more columns, or none of indices.
    """
    rows = [[cell.strip() for cell in row] for row in rows if any(row)]
    if all(len(row) == 1 for row in rows):
        names = [row[0] for row in rows]
        return names[1:] if names and names[0].lower() in _TITLES else names
    if not all(len(row) == 2 for row in rows):
        raise ValueError("its rows have not all two columns, name and index")
    for body in (rows, rows[1:]):
        for name, index in ((0, 1), (1, 0)):
            if body and all(row[index].isdecimal() for row in body):
                return _once([(row[name], int(row[index])) for row in body])
    raise ValueError("none of its two columns holds indices")


def _of_lines(lines: list[str]) -> Any:
    """Names in the model's order; or, where each line has an index beside, what it maps. After a
    blank digits may belong to a name ("boeing 737"): then they must count all lines.
    """
    for form in (_INDEX_FIRST, _INDEX_LAST):
        found = [each for line in lines if (each := form.fullmatch(line))]
        table = {each["name"]: int(each["index"]) for each in found}
        indices = sorted(table.values())
        told = all(each["between"].strip() or "\t" in each["between"] for each in found)
        counted = indices in ([*range(len(lines))], [*range(1, len(lines) + 1)])
        if lines and len(table) == len(lines) and (told or counted):
            return table
    return lines


def _once(pairs: list[tuple[str, int]]) -> dict[str, int]:
    table = dict(pairs)
    if len(table) < len(pairs):
        raise ValueError("a name occurs more than once")
    return table


def _inverse(told: Mapping[Any, Any]) -> dict[str, int]:
    """Name to index, of a map from all indices to names (of a class with several, each of them)."""
    inverse: dict[str, int] = {}
    for key, value in told.items():
        aliases = [value] if isinstance(value, str) else value
        index = str(key).isdecimal()
        if not index or not isinstance(aliases, list | tuple):
            return {}
        for alias in aliases:
            if not isinstance(alias, str) or alias.isdecimal():
                return {}
            inverse[nfc(alias)] = int(key)
    return inverse
