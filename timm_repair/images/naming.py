"""Naming: what classes are called, by their index, from the forms in which datasets and models keep
it.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from timm_repair.errors import LabelError
from timm_repair.images.readers import nfc

FORMS = "give a list of names in the order of the indices, {name: index} or {index: name}"


def by_index(given: Any, what: str) -> dict[int, Any]:
    """Index to what `given` calls that class: its name as it is there, or, where several names have
    one index, a tuple of them. None and empty names are left out.

    Args:
        given: a list, or a dict that is read by its indices, which may be text as in JSON.
        what: what this is, for messages.

    Raises:
        LabelError: it has no order, or cannot be read as either.
    """
    if isinstance(given, Mapping):
        return _of_mapping(given, what)
    if isinstance(given, set | frozenset):
        raise LabelError(f"{what} is a set, which has no order: {FORMS}")
    if isinstance(given, str | bytes) or not isinstance(given, Iterable):
        raise LabelError(f"{what} is {given!r:.80}: {FORMS}")
    return {i: name for i, name in enumerate(given) if not _empty(name)}


def joined(given: Mapping[int, Any]) -> dict[int, str]:
    """The same with one text for each class: several names as "tench, Tinca tinca"."""
    return {
        index: ", ".join(map(str, name)) if isinstance(name, tuple | list) else str(name)
        for index, name in given.items()
    }


def named_by(dataset_classes: Any, class_to_idx: Any, what: str) -> dict[int, str] | None:
    """Index to name, of a dataset that says `classes`, `class_to_idx`, or both; None of neither.

    It is `class_to_idx` that its labels were made with, so `classes` counts only where the two
    agree: then it may know more names, as of two classes called alike.
    """
    listed = None
    named = by_index(class_to_idx, f"{what}'s class_to_idx") if class_to_idx else None
    if named is None or not isinstance(dataset_classes, set | frozenset):
        listed = _listed(dataset_classes, what)
    if named is None or listed is None:
        found = named if listed is None else listed
        return None if found is None else joined(found)
    agree = all(i in listed and _all(name) <= _all(listed[i]) for i, name in named.items())
    return joined(listed if agree else named)


def _listed(classes: Any, what: str) -> dict[int, Any] | None:
    if classes is None or isinstance(classes, str) or not isinstance(classes, Iterable):
        return None
    return by_index(classes, f"{what}'s classes")


def _of_mapping(given: Mapping[Any, Any], what: str) -> dict[int, Any]:
    texts = all(isinstance(key, str) for key in given)
    if texts and all(_index(value) is not None for value in given.values()):
        found: dict[int, Any] = {}
        for name, value in given.items():
            index = _index(value)
            assert index is not None, "of all"
            found[index] = (*_all(found[index]), name) if index in found else name
        return found
    if all(_index(key) is not None for key in given) and not any(
        isinstance(value, int | float | np.number) for value in given.values()
    ):
        return {int(key): name for key, name in given.items() if not _empty(name)}
    raise LabelError(f"{what} has other than names and indices ({dict(given)!r:.80}): {FORMS}")


def _index(value: Any) -> int | None:
    """`value` as an index, None if it is none."""
    if isinstance(value, str):
        return int(value) if value.isdecimal() else None
    return int(value) if hasattr(value, "__index__") and not isinstance(value, bool) else None


def _empty(name: Any) -> bool:
    return name is None or (isinstance(name, str | tuple | list) and not len(name))


def _all(name: Any) -> set:
    return {nfc(str(each)) for each in (name if isinstance(name, tuple | list) else [name])}
