"""Examples in memory: lists and torch datasets of (image, label), columns, arrays, data frames.

An example's label is what the dataset gives for it; what it says beside (`targets`, `classes`)
spares reading them all where the two agree.
"""

import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from PIL import Image

from timm_repair.errors import DataError, LabelError
from timm_repair.images.decoding import open_image
from timm_repair.images.naming import named_by
from timm_repair.images.pool import PASSED, UNREADABLE
from timm_repair.images.readers import IMAGES, LABELS, Source, choose_columns

logger = logging.getLogger(__name__)

_SAMPLED = 64  # examples, evenly spaced, whose labels are compared with `targets`; as many classes
_TARGETS = ("targets", "labels", "_labels", "samples", "imgs")  # as torchvision's datasets have it


@dataclass
class Items:
    """Reader of a list or torch dataset of (image, label) pairs or dicts."""

    key: Any
    examples: Any
    columns: tuple[str | None, str | None]

    @property
    def cheap(self) -> bool:
        """Whether an example can be had without decoding its image."""
        return isinstance(self.examples, list | tuple)

    @property
    def in_memory(self) -> bool:
        """Whether all examples can be looked at before the first is used."""
        return self.cheap

    def pair(self, row: int) -> tuple[Any, Any]:
        """(image, label) of one example; a damaged image may raise one of `UNREADABLE`.

        Raises:
            DataError: it is no such pair, or the dataset itself fails.
        """
        try:
            item = self.examples[row]
        except (*PASSED, *UNREADABLE):
            raise
        except Exception as error:
            raise DataError(
                f"example {row} of the dataset cannot be had: it raised"
                f" {type(error).__name__}: {error}; mend the dataset, or leave it out"
            ) from error
        return pair_of(item, self.columns, f"example {row}")

    def read(self, rows: list[int]) -> list:
        return [self._image(row) for row in rows]

    def _image(self, row: int) -> Any:
        try:
            return self.pair(row)[0]
        except UNREADABLE as error:
            # a torch dataset that decodes: judged with the other unreadable images
            return error


@dataclass
class Arrays:
    """Reader of one array or tensor of images."""

    key: Any
    images: Any
    in_memory = True

    def read(self, rows: list[int]) -> list:
        return [self.images[row] for row in rows]


def pair_of(item: Any, columns: tuple[str | None, str | None], what: str) -> tuple[Any, Any]:
    """(image, label) of an item, which is a pair or a dict; raises DataError for anything else."""
    if isinstance(item, Mapping):
        try:
            image, label = choose_columns(columns, item, what)
        except DataError as error:
            raise DataError(
                f"{what} has {', '.join(map(str, item))}; say which with image_column= and"
                f" label_column= ({error})"
            ) from error
        return item[image], item[label]
    if isinstance(item, tuple | list) and len(item) == 2:
        return item[0], item[1]
    size = f" of {len(item)}" if isinstance(item, tuple | list) else ""
    raise DataError(
        f"{what} must be (image, label) or a dict of them, not {type(item).__name__}{size}"
    )


def from_examples(
    examples: Any,
    columns: tuple[str | None, str | None],
    name: str,
    on_unreadable: str = "stop",
) -> Source:
    """A list or torch dataset of (image, label), or of dicts with the keys `columns` (or the usual
    ones).
    """
    try:
        total = len(examples)
    except TypeError as error:
        raise DataError(f"{name}: {type(examples).__name__} has no length: {error}") from error
    # the reader holds `examples`, so no other object can come by its id()
    reader = Items(id(examples), examples, columns)
    origin = {"source": f"{type(examples).__name__} of {total}", "columns": None}
    known = _attribute(examples, "origin", name)  # of our own datasets: what they made of what
    origin |= known if isinstance(known, dict) else {}
    said = _said(examples, total, name)
    if total == 0:
        return Source(reader, [], said.names, None, origin)
    try:
        read = _read(reader, said.sample(total), said, on_unreadable)
        agreed = said.agrees(read.labels)
        if said.targets is not None and agreed:
            return Source(reader, list(said.targets), said.names, None, origin)
        read = _read(reader, range(total), said if agreed else _Said(), on_unreadable)
    except DataError as error:
        raise DataError(f"{name}: {error}") from error
    names = said.names if said.agrees(read.labels) and not said.transformed else None
    if names is None and said.names is not None:
        logger.warning(
            "%s: the dataset gives its examples other labels than its classes and targets say"
            " (target_transform?): those of the examples were taken, without names",
            name,
        )
    left_out = {"unreadable": read.unreadable} if read.unreadable else {}
    if read.unreadable:
        logger.warning("%s: %d examples cannot be read, left out", name, read.unreadable)
    ids = [read.paths.get(row, row) for row in range(total)]
    return Source(
        reader, list(read.labels.values()), names, ids, origin, left_out, list(read.labels)
    )


@dataclass
class _Read:
    labels: dict[int, Any]  # by row
    paths: dict[int, str]
    unreadable: int = 0


def _read(reader: Items, rows: Iterable[int], said: "_Said", on_unreadable: str) -> _Read:
    """The labels at `rows`, as the dataset gives them; of an example that it cannot read, the one
    that it is said to have.

    Raises:
        DataError: an example cannot be read, and what its label is cannot be told.
    """
    found = _Read({}, {})
    for row in rows:
        try:
            image, found.labels[row] = reader.pair(row)
            if row == 0 and isinstance(image, torch.Tensor | np.ndarray):
                open_image(image)  # if this one is refused all will be, and it says why
            if isinstance(image, str | Path):
                found.paths[row] = str(image)
        except DataError:
            raise
        except UNREADABLE as error:
            if said.targets is not None:
                found.labels[row] = said.targets[row]
            elif on_unreadable == "skip":
                found.unreadable += 1
            else:
                raise DataError(
                    f"example {row} cannot be read ({type(error).__name__}: {error}); mend or"
                    " remove it, or set on_unreadable='skip'"
                ) from error
    if not found.labels:
        raise DataError("no example can be read")
    return found


@dataclass
class _Said:
    """What a dataset says of its labels beside its items: `targets` (N,) and the names of classes,
    and whether it says that items have other labels.
    """

    targets: Any = None
    names: dict[int, str] | None = None
    transformed: bool = False

    def sample(self, total: int) -> list[int]:
        """Rows at which items are compared with `targets`: evenly spaced, and the first of each
        class.
        """
        if self.targets is None:
            return [0]
        first: dict[Any, int] = {}
        for row, target in enumerate(self.targets):
            first.setdefault(_plain(target), row)
        spaced = {round(i * (total - 1) / (_SAMPLED - 1)) for i in range(_SAMPLED)}
        return sorted(spaced | set(list(first.values())[:_SAMPLED]))

    def agrees(self, labels: Mapping[int, Any]) -> bool:
        """Whether these labels of items are the `targets`, or the names of these."""
        names, targets = self.names or {}, self.targets
        if targets is None:
            return True
        for row, given in labels.items():
            label, target = _plain(given), _plain(targets[row])
            if isinstance(label, str) and isinstance(target, int):
                target = names.get(target, target)
            if label != target:
                return False
        return True


def _plain(label: Any) -> Any:
    if isinstance(label, torch.Tensor | np.generic | np.ndarray) and math.prod(label.shape) == 1:
        label = label.item()
    try:
        hash(label)
    except TypeError:
        return repr(label)
    return label


def _said(dataset: Any, total: int, name: str) -> _Said:
    """By torchvision's and timm's conventions, through Subset, ConcatDataset and wrappers."""
    own = _targets(dataset, total)
    parts = _attribute(dataset, "datasets", name)
    parts = parts if isinstance(parts, list | tuple) and parts else None
    wrapped = _attribute(dataset, "dataset", name)
    inner = parts or ([wrapped] if hasattr(type(wrapped), "__getitem__") else [])
    if not inner:
        changed = _attribute(dataset, "target_transform", name) is not None
        return _Said(own, _class_names(dataset, name), changed)
    found = [_said(part, _length(part), name) for part in inner]
    if any(each.names != found[0].names for each in found):
        raise LabelError(
            f"{name}: the parts of the dataset name their classes differently; give names as labels"
        )
    targets = own
    if own is None and parts and all(each.targets is not None for each in found):
        lengths = list(accumulate(len(each.targets or ()) for each in found))
        joined = [target for each in found for target in each.targets or ()]
        targets = joined if lengths[-1] == total else None
    elif own is None and not parts and found[0].targets is not None:
        indices = _attribute(dataset, "indices", name)
        if isinstance(indices, Iterable) and len([*indices]) == total:
            targets = [found[0].targets[int(i)] for i in indices]
        elif len(found[0].targets) == total:
            targets = found[0].targets
    return _Said(targets, found[0].names, any(each.transformed for each in found))


def _length(dataset: Any) -> int:
    try:
        return len(dataset)
    except TypeError:
        return -1


def _targets(dataset: Any, total: int) -> Any:
    """(N,) the labels a dataset lists, None where it lists none that could be its items'."""
    for attribute in _TARGETS:
        try:
            listed = _attribute(dataset, attribute, "")
        except DataError:  # it only spares reading the items, which are the truth
            continue
        if attribute in ("samples", "imgs") and isinstance(listed, list):
            pairs = all(isinstance(each, tuple) and len(each) == 2 for each in listed)
            listed = [each[1] for each in listed] if pairs else None
        if not isinstance(listed, list | tuple | np.ndarray | torch.Tensor):
            continue
        if len(listed) == total > 0 and np.ndim(listed[0]) == 0:
            return listed
    return None


def _class_names(dataset: Any, name: str) -> dict[int, str] | None:
    """The class names a dataset knows, by index."""
    told = _attribute(dataset, "class_to_idx", name)
    if not isinstance(told, Mapping):  # timm keeps it in a reader of its own
        told = _attribute(_attribute(dataset, "reader", name), "class_to_idx", name)
    told = told if isinstance(told, Mapping) else None
    return named_by(_attribute(dataset, "classes", name), told, f"{name}: the dataset")


def _attribute(dataset: Any, attribute: str, name: str) -> Any:
    """What a dataset says of itself, None where it says nothing.

    Raises:
        DataError: asking for it fails.
    """
    try:
        return getattr(dataset, attribute, None)
    except PASSED:
        raise
    except Exception as error:
        raise DataError(
            f"{name}: the dataset's {attribute} cannot be had: it raised {type(error).__name__}:"
            f" {error}; mend it, or give a list of (image, label)"
        ) from error


# ---- columns


def as_columns(source: Any, columns: tuple[str | None, str | None]) -> dict[Any, Any] | None:
    """`source` as column to its values, where that is what it is: a dict of columns or of the
    images of each class, a data frame, or (images, labels).
    """
    frame: Any = source
    # of pandas, or alike; asked of its type, since a dataset may answer to any name
    if hasattr(type(frame), "columns") and hasattr(type(frame), "to_dict"):
        return {str(column): list(frame[column]) for column in frame.columns}
    if isinstance(source, tuple | list) and len(source) == 2 and _are_columns(*source):
        return {columns[0] or "image": source[0], columns[1] or "label": source[1]}
    if isinstance(source, Mapping) and not isinstance(source, datasets.DatasetDict):
        kinds = (list, tuple, np.ndarray, torch.Tensor)
        wanted = [chosen or tiers for chosen, tiers in zip(columns, (IMAGES, LABELS), strict=True)]
        named = all(
            (want in source) if isinstance(want, str) else any(c in source for t in want for c in t)
            for want in wanted
        )
        if named and all(isinstance(each, kinds) for each in source.values()):
            return dict(source)
        if source and all(isinstance(each, list) and each for each in source.values()):
            # class -> its images
            pairs = [(each, label) for label, found in source.items() for each in found]
            if all(_shows(image) and not isinstance(image, tuple | list) for image, _ in pairs):
                return {"image": [image for image, _ in pairs], "label": [k for _, k in pairs]}
    return None


def _are_columns(images: Any, labels: Any) -> bool:
    """Whether these are many images and their labels, and not two examples."""
    kinds = (list, tuple, np.ndarray, torch.Tensor)
    if not isinstance(images, kinds) or not isinstance(labels, kinds):
        return False
    if isinstance(images, np.ndarray | torch.Tensor):
        return images.ndim >= 3 or images.dtype == object
    if len(images) != 2 or len(labels) != 2:
        return True
    # each has two: the second of the first is an image or a label
    return _shows(images[1]) and not _shows(labels[0])


def _shows(value: Any) -> bool:
    """Whether this is an image, or the name of a file with one, rather than a label."""
    if isinstance(value, str):
        return Path(value).suffix.lower() in Image.registered_extensions()
    return not isinstance(value, int | np.integer | Mapping)


def from_columns(table: Mapping[str, Any], columns: tuple, name: str) -> Source:
    """A dict of columns: images (N,) of any kind, or one array (N, H, W[, C]) or tensor
    (N, [C,] H, W); and labels (N,).
    """
    image, label = choose_columns(columns, table, name)
    images, labels = table[image], table[label]
    if len(images) != len(labels):
        raise DataError(
            f"{name}: {len(images)} images in {image!r}, but {len(labels)} labels in {label!r};"
            " give one for each"
        )
    origin: dict[str, Any] = {"columns": {"image": image, "label": label}}
    if isinstance(images, np.ndarray | torch.Tensor) and images.ndim >= 3:
        kind = "tensor" if isinstance(images, torch.Tensor) else "array"
        origin["source"] = f"{kind} of shape {tuple(images.shape)}"
        reader = Arrays(id(images), images)
        return Source(reader, list(labels), None, None, origin)
    origin["source"] = f"{len(table)} columns of {len(images)}"
    pairs = list(zip(images, labels, strict=True))
    ids = [str(each) if isinstance(each, str | Path) else i for i, each in enumerate(images)]
    return Source(Items(id(pairs), pairs, (None, None)), list(labels), None, ids, origin)
