"""Readers of raw images (see `pool.Reader`) and what is found in plain lists and torch datasets.

Folders, files, Hugging Face datasets and Hub ids are opened in opening.py.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch

from timm_repair.errors import DataError, LabelError
from timm_repair.images.pool import UNREADABLE, Reader
from timm_repair.images.preprocessing import open_image

IMAGE_NAMES = ("image", "img", "pixel_values")
LABEL_NAMES = ("label", "labels", "fine_label", "target")


@dataclass
class Source:
    """What one kind of source gives: a reader, the labels as they are there, their names, ids, and
    provenance.
    """

    reader: Reader
    labels: Sequence
    names: Sequence[str] | None = None
    ids: Sequence | None = None
    origin: dict = field(default_factory=dict)


@dataclass
class Files:
    """Reader of image files."""

    key: Any
    paths: Sequence[Path]

    def read(self, rows: list[int]) -> list:
        return [self.paths[row] for row in rows]


@dataclass
class Column:
    """Reader of a dataset with one column: encoded images, or paths that start at `root`."""

    key: Any
    dataset: datasets.Dataset
    root: Path | None = None

    def read(self, rows: list[int]) -> list:
        raws = self.dataset[rows][self.dataset.column_names[0]]
        return [self.root / raw if self.root and isinstance(raw, str) else raw for raw in raws]


@dataclass
class Items:
    """Reader of a list or torch dataset of (image, label) pairs or dicts."""

    key: Any
    examples: Any
    image_names: tuple[str, ...]
    label_names: tuple[str, ...]

    def pair(self, row: int) -> tuple[Any, Any]:
        """(image, label) of one example."""
        item = self.examples[row]
        if isinstance(item, Mapping):
            found = [
                [item[key] for key in keys if key in item]
                for keys in (self.image_names, self.label_names)
            ]
            if all(len(values) == 1 for values in found):
                return found[0][0], found[1][0]
            raise DataError(
                f"example {row} has {', '.join(item)}; say which with image_column= and"
                " label_column="
            )
        if isinstance(item, tuple | list) and len(item) == 2:
            return item[0], item[1]
        raise DataError(
            f"example {row} must be (image, label) or a dict of them, not {type(item).__name__}"
        )

    def read(self, rows: list[int]) -> list:
        return [self._image(row) for row in rows]

    def _image(self, row: int) -> Any:
        try:
            return self.pair(row)[0]
        except DataError:
            raise
        except UNREADABLE as error:
            # a torch dataset that decodes: judged with the other unreadable images
            return error


@dataclass
class Kept:
    """Reader of examples kept in memory: encoded images, paths, or the error met on the way."""

    raws: list
    # their ids follow from what they hold, so they are comparable across streams
    key: Any = "content"

    def read(self, rows: list[int]) -> list:
        return [self.raws[row] for row in rows]


def choose_columns(
    chosen: tuple[str | None, str | None], features: Mapping, name: str
) -> tuple[str, str]:
    """The (image, label) columns among `features` (column to its type): `chosen`, else by type,
    else by usual names.

    Raises:
        DataError: none fits, or several do.
    """
    return (
        _column(chosen[0], "image", datasets.Image, IMAGE_NAMES, features, name),
        _column(chosen[1], "label", datasets.ClassLabel, LABEL_NAMES, features, name),
    )


def _column(
    chosen: str | None, kind: str, feature: type, usual: tuple, features: Mapping, name: str
) -> str:
    if chosen is not None:
        if chosen not in features:
            raise DataError(
                f"{name}: no column {chosen!r} for {kind}_column=; there are {', '.join(features)}"
            )
        return chosen
    typed = [column for column, f in features.items() if isinstance(f, feature)]
    likely = (
        [column for column in typed or features if column in usual] if len(typed) != 1 else typed
    )
    if len(likely) != 1:
        raise DataError(
            f"{name}: which column holds the {kind}? There are {', '.join(features)}; say so with"
            f" {kind}_column="
        )
    return likely[0]


def from_examples(examples: Any, columns: tuple[str | None, str | None], name: str) -> Source:
    """A list or torch dataset of (image, label), or of dicts with the keys `columns` (or the usual
    ones).
    """
    if isinstance(examples, torch.utils.data.IterableDataset) or not hasattr(examples, "__len__"):
        raise DataError(
            f"{name}: {type(examples).__name__} has no length; repair needs random access:"
            " list(dataset)"
        )
    image, label = columns
    # the reader holds `examples`, so no other object can come by its id()
    reader = Items(
        id(examples),
        examples,
        (image,) if image else IMAGE_NAMES,
        (label,) if label else LABEL_NAMES,
    )
    origin = {"source": f"{type(examples).__name__} of {len(examples)}", "columns": None}
    known = getattr(examples, "origin", None)  # of our own datasets: what they made of what
    origin |= known if isinstance(known, dict) else {}
    names = class_names(examples, name)
    if len(examples) == 0:
        return Source(reader, [], names, None, origin)
    try:
        first, label = reader.pair(0)
        if isinstance(first, torch.Tensor):
            open_image(first)  # refuses it and says why
        # torchvision's: spares decoding every image for its label
        targets = getattr(examples, "targets", None)
        if (
            (targets is not None and len(targets) == len(examples) and np.ndim(targets[0]) == 0)
            and targets[0] == label
            and getattr(examples, "target_transform", None) is None
        ):
            return Source(reader, list(targets), names, None, origin)
        pairs = [reader.pair(row) for row in range(len(examples))]
    except UNREADABLE as error:  # DataError among them
        raise DataError(f"{name}: {error}") from error
    ids = [str(image) if isinstance(image, str | Path) else i for i, (image, _) in enumerate(pairs)]
    return Source(reader, [label for _, label in pairs], names, ids, origin)


def class_names(dataset: Any, name: str) -> list[str] | None:
    """The class names a dataset knows by torchvision's and timm's conventions, through Subset and
    ConcatDataset.
    """
    parts = getattr(dataset, "datasets", None) or (
        [dataset.dataset] if hasattr(dataset, "dataset") else []
    )
    if parts:
        found = [class_names(part, name) for part in parts]
        if any(names != found[0] for names in found):
            raise LabelError(
                f"{name}: the parts of the dataset name their classes differently; give names as"
                " labels"
            )
        return found[0]
    classes = getattr(dataset, "classes", None)
    if classes is None:
        holder = dataset if hasattr(dataset, "class_to_idx") else getattr(dataset, "reader", None)
        index = getattr(holder, "class_to_idx", None)
        classes = sorted(index, key=index.get) if index else None
    return None if classes is None else [c if isinstance(c, str) else ", ".join(c) for c in classes]
