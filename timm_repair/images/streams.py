"""`Stream`: a dataset that is read from its start, in order, and never held as a whole.

Only so many examples are kept as the caller asks for, their images still encoded.
"""

import hashlib
import io
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import torch
from PIL import Image
from torch import Tensor

from timm_repair.errors import DataError
from timm_repair.images.decoding import open_image, to_mode
from timm_repair.images.examples import pair_of
from timm_repair.images.loading_errors import raise_loading
from timm_repair.images.pool import PASSED, UNREADABLE
from timm_repair.images.readers import Kept, Source, choose_columns
from timm_repair.images.scales import Scales

logger = logging.getLogger(__name__)

BUFFER = 10_000  # examples of a stream kept in memory where nobody said how many

_PNG_MODES = {"1", "L", "LA", "P", "RGB", "RGBA", "I;16"}


class Generated:
    """The items of a generator or of a torch IterableDataset, as the examples of a dataset."""

    features = None

    def __init__(self, items: Iterable, columns: tuple[str | None, str | None], name: str):
        self.items, self.columns, self.name = items, columns, name

    def with_format(self, _: None) -> "Generated":
        return self

    def __iter__(self) -> Iterator[dict]:
        number, items = 0, None
        while True:
            try:
                items = iter(self.items) if items is None else items
                item = next(items)
            except StopIteration:
                return
            except PASSED:
                raise
            except Exception as error:
                raise DataError(
                    f"{self.name}: the stream broke off after {number} examples: it raised"
                    f" {type(error).__name__}: {error}"
                ) from error
            image, label = pair_of(item, self.columns, f"{self.name}: example {number}")
            yield {"image": image, "label": label}
            number += 1


@dataclass
class Stream:
    """The examples of a `datasets.IterableDataset`.

    Args:
        dataset: it is read from its start by each call of `pairs`.
        columns: (image, label), None where they are to be found.
        name: what these are, for messages.
        root: where relative paths start.
        token: of the user, never to be shown.
        names: of the classes by label, once known.
        origin: provenance, as in `Source`.
        scales: of arrays and of images that are no files.

    Raises:
        DataError: no column, or more than one, may hold the images or the labels.
    """

    dataset: datasets.IterableDataset | Generated
    columns: tuple[str | None, str | None]
    name: str
    root: Path | None = None
    token: str | bool | None = field(default=None, repr=False)
    names: list[str] | None = None
    origin: dict = field(default_factory=dict)
    scales: Scales = field(default_factory=Scales)

    def __post_init__(self):
        self.dataset = self.dataset.with_format(None)
        features = self.dataset.features
        if features is None or isinstance(
            self.dataset, Generated
        ):  # after a map(), or of a generator: the first example will tell
            return
        image, label = self._settle(features)
        self.names = (
            features[label].names if isinstance(features[label], datasets.ClassLabel) else None
        )
        self.dataset = self.dataset.select_columns([image, label] if image != label else [image])
        if isinstance(features[image], datasets.Image):
            self.dataset = self.dataset.cast_column(image, datasets.Image(decode=False))

    def _settle(self, features: Mapping) -> tuple[str, str]:
        found = self.columns = choose_columns(self.columns, features, self.name)
        self.origin["columns"] = dict(zip(("image", "label"), found, strict=True))
        return found

    def pairs(self) -> Iterator[tuple[Any, Any]]:
        """(encoded image, path or the error met; label as it is there) of each example, in order.

        Raises:
            DataError: the stream breaks off, or an example lacks a column.
        """
        examples, count = iter(self.dataset), 0
        while True:
            try:
                example = next(examples, None)
            except PASSED:
                raise
            except Exception as error:
                said = f"{self.name}: the stream broke off after {count} examples"
                raise_loading(said, error, self.token)
                raise  # never: the line before does
            if example is None:
                return
            if self.dataset.features is None and not count:
                self._settle({column: _kind(value) for column, value in example.items()})
            image, label = self.columns
            if not {image, label} <= example.keys():
                raise DataError(
                    f"{self.name}: example {count} has {', '.join(example)}; all must have {image}"
                    f" and {label}"
                )
            yield self._encoded(example[image], count), example[label]
            count += 1

    def _encoded(self, raw: Any, place: int) -> Any:
        if isinstance(raw, str) and self.root:
            return self.root / raw
        if raw is None or isinstance(raw, dict | bytes | str | Path | Tensor):
            return raw
        try:
            image, file = open_image(raw, self.scales), io.BytesIO()
            if image.format is None and image.mode.startswith("I"):  # a file of it would be deep
                image = to_mode(image, 1, self.scales)
            # without loss; fast rather than small
            image.save(
                file,
                **(
                    {"format": "PNG", "compress_level": 1}
                    if image.mode in _PNG_MODES
                    else {"format": "TIFF"}
                ),
            )
        except DataError as error:
            raise DataError(f"{self.name}: example {place}: {error}") from error
        except UNREADABLE as error:  # judged with the other unreadable images
            return error.with_traceback(None)
        return file.getvalue()

    def source(self, most: int | None) -> Source:
        """The first `most` examples, or `BUFFER` with a warning if there are more, kept in memory.

        Raises:
            DataError: as `pairs`.
        """
        pairs = self.pairs()
        kept = list(islice(pairs, most or BUFFER))
        if most is None and next(pairs, None) is not None:
            logger.warning(
                "%s: only the first %d examples of the stream were read, there are more; to read"
                " more give max_examples=, for others than the first dataset.shuffle(seed=...,"
                " buffer_size=...)",
                self.name,
                len(kept),
            )
        raws, labels = [raw for raw, _ in kept], [label for _, label in kept]
        origin = self.origin | {"stream": {"read": len(kept), "kept": len(kept)}}
        return Source(Kept(raws), labels, self.names, identities(raws), origin)


def _kind(value: Any) -> Any:
    """The feature an example's value tells of: an image, or nothing in particular."""
    encoded = isinstance(value, dict) and "bytes" in value and "path" in value
    return datasets.Image() if encoded or isinstance(value, Image.Image) else None


def identities(raws: Iterable[Any], start: int = 0) -> list[str]:
    """What tells images of streams apart: SHA-256 of an encoded image (first 20 digits), or its
    path, or else its place.

    By content and not by place: the same example has another place in `stream.skip(5)` or
    `stream.shuffle(seed=0)`.
    """
    return [_identity(raw, place) for place, raw in enumerate(raws, start)]


def _identity(raw: Any, place: int) -> str:
    if isinstance(raw, dict):
        raw = raw.get("bytes") or raw.get("path")
    if isinstance(raw, Tensor):
        raw = raw.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()
    if isinstance(raw, bytes):
        return hashlib.sha256(raw).hexdigest()[:20]
    return str(raw) if isinstance(raw, str | Path) else f"example {place}"
