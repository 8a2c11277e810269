"""Readers of raw images (see `pool.Reader`), which columns hold images and labels, and what parts
them.
"""

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets

from timm_repair.errors import DataError
from timm_repair.images.pool import Reader

# usual names of columns; a later tier counts where there is none of an earlier one
IMAGES = (
    ("image", "img", "pixel_values"),
    ("file_name", "path", "filename", "image_path", "filepath", "file"),
)
LABELS = (("label", "labels", "fine_label", "target"), ("class", "category", "class_name", "y"))


def nfc(text: str) -> str:
    """`text` with each accented letter as one character: file systems differ in that."""
    return unicodedata.normalize("NFC", text)


@dataclass
class Source:
    """What one kind of source gives.

    Args:
        reader: of the raw images.
        labels: (N,) as they are there.
        names: of the labels, by the dataset's index.
        ids: of all that the reader can read; None for their places.
        origin: provenance, plain JSON.
        left_out: what was not read, and how much of it.
        rows: (N,) which of the reader's these are; None for all.
    """

    reader: Reader
    labels: Sequence
    names: Sequence[str] | Mapping[int, str] | None = None
    ids: Sequence | None = None
    origin: dict = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)
    rows: Sequence[int] | None = None


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
class Kept:
    """Reader of examples kept in memory: encoded images, paths, or the error met on the way."""

    raws: list
    # their ids follow from what they hold, so they are comparable across streams
    key: Any = "content"
    in_memory = True

    def read(self, rows: list[int]) -> list:
        return [self.raws[row] for row in rows]


def separator(file: Path) -> str:
    """What parts the columns of a text file: a comma, unless its first line has only others."""
    if file.suffix.lower() == ".tsv":
        return "\t"
    with file.open(encoding="utf-8-sig", errors="replace") as lines:
        titles = lines.readline()
    return next((each for each in (",", ";", "\t") if each in titles), ",")


def choose_columns(
    chosen: tuple[str | None, str | None], features: Mapping, name: str
) -> tuple[str, str]:
    """The (image, label) columns among `features` (column to its type): `chosen`, else by type,
    else by usual names.

    Raises:
        DataError: none fits, or several do.
    """
    return (
        _column(chosen[0], "image", datasets.Image, IMAGES, features, name),
        _column(chosen[1], "label", datasets.ClassLabel, LABELS, features, name),
    )


def usually(columns: Iterable, usual: tuple[tuple[str, ...], ...]) -> list:
    """Those of `columns` that are called as the first tier of `usual` that any is called as, in
    capitals or not.
    """
    columns = list(columns)
    tiers = [[column for column in columns if str(column).lower() in tier] for tier in usual]
    return next(filter(None, tiers), [])


def _column(
    chosen: str | None, kind: str, feature: type, usual: tuple, features: Mapping, name: str
) -> str:
    there = ", ".join(map(str, features))
    if chosen is not None:
        if chosen not in features:
            raise DataError(f"{name}: no column {chosen!r} for {kind}_column=; there are {there}")
        return chosen
    typed = [column for column, f in features.items() if isinstance(f, feature)]
    likely = typed
    if len(typed) != 1:
        likely = usually(typed or features, usual)
    if len(likely) != 1:
        raise DataError(
            f"{name}: which column holds the {kind}? There are {there}; say so with {kind}_column="
        )
    return likely[0]
