"""`Images`: labelled images for one model, cheap to split and to index, with a cache of their uint8
pixels.

Sources of images (datasets, folders, lists) are read in sources.py; this file needs only an object
with `read(rows)`.
"""

import hashlib
import json
import logging
import os
import struct
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor

from timm_repair.errors import DataError
from timm_repair.preprocessing import Preprocessing

logger = logging.getLogger(__name__)

CACHE_BYTES = 2 * 1024**3
# what PIL and numpy raise on damaged files; anything else is a bug and must surface as one
UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    Image.DecompressionBombError,
)
_CHUNK = 256  # images decoded at once
_EXPECTED_BYTES = 64 * 1024**2  # of images that may wait, decoded, to be fetched
_THREADED_PIXELS = 96 * 96  # below, starting a thread costs more than decoding the image


@cache
def _threads(process: int) -> ThreadPoolExecutor:
    """Threads to decode in, of this process: PIL decodes and resizes outside the interpreter lock,
    but a fork takes no threads along.
    """
    return ThreadPoolExecutor(min(8, os.cpu_count() or 1), thread_name_prefix="timm_repair-decode")


class Reader(Protocol):
    """Where raw images come from."""

    # equal for two readers of the same source, in which equal ids are then the same example
    key: Any

    def read(self, rows: list[int]) -> list:
        """For each row something `preprocessing.open_image` takes, or the exception met."""


class UnreadableError(DataError):
    """One image that cannot be decoded; `row` is its number in the source."""

    def __init__(self, message: str, row: int):
        super().__init__(message)
        self.row = row


class Pool:
    """A source with its decoded pixels: each row is kept when first decoded, until the byte budget
    is full.
    """

    def __init__(
        self, reader: Reader, ids: Sequence, preprocessing: Preprocessing, budget: int = CACHE_BYTES
    ):
        self.reader, self.ids, self.preprocessing, self.budget = (
            reader,
            tuple(ids),
            preprocessing,
            budget,
        )
        self.unreadable: dict[int, UnreadableError] = {}
        self.expected: dict[int, Future] = {}
        self.process = os.getpid()
        self.cache = self.slot = None

    def __getstate__(self) -> dict:
        # the other process decodes again
        return self.__dict__ | {"cache": None, "slot": None, "expected": {}}

    def expect(self, rows: Tensor) -> None:
        """Begin to decode `rows` (n,), which will be fetched soon, beside what the caller does."""
        _, height, width = self.preprocessing.input_size
        if height * width < _THREADED_PIXELS:
            return
        if self.slot is None:
            self._allocate()
        self._own()
        missing = [
            row
            for row in rows[self.slot[rows] < 0].unique().tolist()
            if row not in self.unreadable and row not in self.expected
        ]
        raws = self.reader.read(missing) if missing else []  # here: a reader need not stand threads
        for row, raw in zip(missing, raws, strict=True):
            self.expected[row] = _threads(os.getpid()).submit(self._decode_one, row, raw)
        most = max(
            2 * len(missing), _EXPECTED_BYTES // (self.preprocessing.input_size[0] * height * width)
        )
        for row in list(self.expected)[:-most]:  # of loops that ended before they fetched them
            self.expected.pop(row).cancel()

    def _own(self) -> None:
        """Forget what another process expected: a fork takes its threads not along, and would wait
        for ever.
        """
        if self.process != os.getpid():
            self.process, self.expected = os.getpid(), {}

    def _allocate(self) -> None:
        channels, height, width = self.preprocessing.input_size
        rows = min(len(self.ids), self.budget // (channels * height * width))
        self.cache = torch.empty((rows, channels, height, width), dtype=torch.uint8)
        self.slot = torch.full((len(self.ids),), -1)  # row -> place in the cache, -1 where absent
        self.used = 0

    def fetch(self, rows: Tensor) -> Tensor:
        """Uint8 (n, C, H, W) of `rows` (n,); raises UnreadableError for the first that cannot be
        decoded.
        """
        if self.slot is None:
            self._allocate()
        slots = self.slot[rows]
        if (slots >= 0).all():
            return self.cache.index_select(0, slots)  # ten times faster than cache[slots]
        pixels = torch.empty((len(rows), *self.cache.shape[1:]), dtype=torch.uint8)
        known = slots >= 0
        pixels[known] = self.cache.index_select(0, slots[known])
        for places in (~known).nonzero().flatten().split(_CHUNK):
            chunk = rows[places].tolist()
            images = self._decode(chunk)
            for place, row, image in zip(places.tolist(), chunk, images, strict=True):
                if image is not None:
                    pixels[place] = image
                    self._keep(row, image)
            for row, image in zip(chunk, images, strict=True):
                if image is None:
                    raise self.unreadable[row]
        return pixels

    def _keep(self, row: int, image: Tensor) -> None:
        if self.used < len(self.cache) and self.slot[row] < 0:
            self.cache[self.used] = image
            self.slot[row] = self.used
            self.used += 1

    def _decode(self, rows: list[int]) -> list[Tensor | None]:
        self._own()
        expected = {
            row: self.expected.pop(row) for row in dict.fromkeys(rows) if row in self.expected
        }
        new = [row for row in rows if row not in expected]
        raws = self.reader.read(new) if new else []
        _, height, width = self.preprocessing.input_size
        apply = (
            _threads(os.getpid()).map
            if height * width >= _THREADED_PIXELS and len(new) > 1
            else map
        )
        decoded = iter(list(apply(self._decode_one, new, raws)))
        return [expected[row].result() if row in expected else next(decoded) for row in rows]

    def _decode_one(self, row: int, raw: Any) -> Tensor | None:
        try:
            return self.preprocessing.decode(raw)
        except DataError as error:
            raise DataError(f"image {self.ids[row]!r}: {error}") from error
        except UNREADABLE as error:
            reason = f"image {self.ids[row]!r} cannot be read ({type(error).__name__}: {error})"
            self.unreadable[row] = UnreadableError(
                f"{reason}; mend or remove it, or set on_unreadable='skip'", row
            )
            return None


def _as_indices(indices: Sequence[int] | Tensor) -> Tensor:
    indices = torch.as_tensor(indices)
    # a mask works too
    return indices.nonzero().flatten() if indices.dtype == torch.bool else indices.long()


class Images(torch.utils.data.Dataset):
    """Labelled images for one model, decoded when first needed; made by `as_images`,
    `collect_failures` or `prepare`.

    The pixels stay in memory (uint8) within the byte budget of the pool, which all subsets share;
    what exceeds it is decoded anew each time. Pickling keeps the source and leaves the pixels
    behind.

    Args:
        pool: the source and its cache.
        rows: (N,) which rows of the pool these are.
        labels: (N,) class indices of the model.
        name: what these are, for messages.
        error_rate: share of the pool these failures were drawn from that the model gets wrong; None
            if unknown.
        origin: plain JSON: source, columns, how labels were mapped, what was skipped.
        on_unreadable: "stop" raises for an image that cannot be decoded; "skip" puts the next
            readable one of its class in this set in its place, with a logged warning.
        answers: (N,) classes that the original model predicts for them; None where nobody asked it.
    """

    def __init__(
        self,
        pool: Pool,
        rows: Tensor,
        labels: Tensor,
        *,
        name: str,
        error_rate: float | None = None,
        origin: dict | None = None,
        on_unreadable: str = "stop",
        answers: Tensor | None = None,
    ):
        self.labels, self.answers = labels, answers
        self.ids = tuple(pool.ids[row] for row in rows.tolist())
        self.name, self.error_rate, self.origin, self.on_unreadable = (
            name,
            error_rate,
            origin or {},
            on_unreadable,
        )
        self._pool, self._rows = pool, rows

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        return f"Images({self.name!r}, n={len(self)}, input_size={self.preprocessing.input_size})"

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"example {index} of {len(self)}")
        return self.pixels([index])[0], int(self.labels[index])

    @property
    def preprocessing(self) -> Preprocessing:
        return self._pool.preprocessing

    @property
    def keys(self) -> list[tuple]:
        """What identifies each example within this process: two sets share an example where they
        share a key.
        """
        return [(self._pool.reader.key, i) for i in self.ids]

    def subset(
        self,
        indices: Sequence[int] | Tensor,
        *,
        own_cache: bool = False,
        name: str | None = None,
        error_rate: float | None = None,
        answers: Tensor | None = None,
    ) -> "Images":
        """The examples at `indices` (n,), renamed where `name` is given; `error_rate` and `answers`
        (n,) default to this set's.

        Shares the cache of decoded pixels with this set, unless `own_cache`: for a few examples of
        a source larger than its budget, most of which are not needed again.
        """
        indices, pool = _as_indices(indices), self._pool
        if answers is None and self.answers is not None:
            answers = self.answers[indices]
        if own_cache:
            pool = Pool(pool.reader, pool.ids, pool.preprocessing, pool.budget)
        return Images(
            pool,
            self._rows[indices],
            self.labels[indices],
            name=name or self.name,
            error_rate=self.error_rate if error_rate is None else error_rate,
            origin=self.origin,
            on_unreadable=self.on_unreadable,
            answers=answers,
        )

    def pixels(self, indices: Sequence[int] | Tensor) -> Tensor:
        """Uint8 (n, C, H, W) of the examples at `indices` (n,), after timm's transform and before
        its normalisation.
        """
        rows = self._rows[_as_indices(indices)]
        while True:
            try:
                return self._pool.fetch(rows)
            except UnreadableError as error:
                if self.on_unreadable != "skip":
                    raise
                rows = torch.where(rows == error.row, self._substitute(error), rows)

    def expect(self, indices: Sequence[int] | Tensor) -> None:
        """Begin to decode the examples at `indices` (n,), whose pixels will be wanted next, beside
        what the caller does.
        """
        self._pool.expect(self._rows[_as_indices(indices)])

    def _substitute(self, error: UnreadableError) -> int:
        place = int((self._rows == error.row).nonzero()[0])
        same_class = self._rows[self.labels == self.labels[place]].tolist()
        after = same_class.index(error.row)
        for row in same_class[after + 1 :] + same_class[:after]:
            if row not in self._pool.unreadable:
                logger.warning(
                    "%s: %s; used image %r instead", self.name, error, self._pool.ids[row]
                )
                return row
        raise error

    def readable(self) -> Tensor:
        """(N,) bool: which images can be decoded. Decodes all, so the cache holds them afterwards
        as far as it goes.
        """
        for chunk in self._rows.split(_CHUNK):
            try:
                self._pool.fetch(chunk)
            except UnreadableError:
                pass  # noted in pool.unreadable with the others of this chunk
        return torch.tensor(
            [row not in self._pool.unreadable for row in self._rows.tolist()], dtype=torch.bool
        )

    def first_unreadable(self) -> UnreadableError | None:
        """The error of the first image that `readable` found damaged."""
        return next(
            (self._pool.unreadable[r] for r in self._rows.tolist() if r in self._pool.unreadable),
            None,
        )

    def digests(self) -> list[bytes]:
        """SHA-256 of each example's decoded pixels, to find the same image under two names. Decodes
        all.
        """
        chunks = torch.arange(len(self)).split(_CHUNK)
        return [
            hashlib.sha256(image.numpy()).digest()
            for chunk in chunks
            for image in self.pixels(chunk)
        ]

    def describe(self) -> dict:
        """Provenance as plain JSON: `origin`, the number of examples, SHA-256 over their ids and
        labels.
        """
        digest = hashlib.sha256()
        for i, label in zip(self.ids, self.labels.tolist(), strict=True):
            digest.update(f"{json.dumps(i)}\t{label}\n".encode())
        return self.origin | {"n": len(self), "sha256": digest.hexdigest()}
