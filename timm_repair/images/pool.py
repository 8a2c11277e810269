"""`Pool`: the images of one source, decoded in threads, read ahead, and kept as uint8 pixels."""

import os
import struct
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from hashlib import sha256
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from timm_repair.errors import DataError, RepairError
from timm_repair.images.decoding import (
    as_prepared,
    file_digest,
    open_image,
    require_bounded,
    to_mode,
)
from timm_repair.images.preprocessing import Preprocessing
from timm_repair.images.scales import Scales

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
# what is passed on of all that a user's own dataset or transform may raise: it says enough already
PASSED = (RepairError, Warning, MemoryError, torch.OutOfMemoryError)
CHUNK = 256  # images decoded at once
EXPECTED_BYTES = 64 * 1024**2  # of images that may wait, decoded, to be fetched
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
        ...


class UnreadableError(DataError):
    """One image that cannot be decoded; `row` is its number in the source."""

    def __init__(self, message: str, row: int):
        super().__init__(message)
        self.row = row


class Pool:
    """A source with its decoded pixels: each row is kept when first decoded, until the byte budget
    is full.

    Args:
        transform: the user's own, in place of timm's: a PIL image to one of the model's size.
    """

    def __init__(
        self,
        reader: Reader,
        ids: Sequence,
        preprocessing: Preprocessing,
        budget: int = CACHE_BYTES,
        transform: Callable[[Image.Image], Any] | None = None,
    ):
        self.reader, self.transform = reader, transform
        self.ids = tuple(ids)
        self.preprocessing = preprocessing
        self.budget = budget
        self.scales, self.made = Scales(), Scales()  # of the source, and of what `transform` makes
        self.unreadable: dict[int, UnreadableError] = {}
        self.digests: dict[int, bytes] = {}
        self.expected: dict[int, Future] = {}
        self.process = os.getpid()
        self.cache: Tensor | None = None
        self.slot: Tensor | None = None  # row -> place in the cache, -1 where absent

    def __getstate__(self) -> dict:
        # the other process decodes again
        return self.__dict__ | {"cache": None, "slot": None, "expected": {}}

    def copy(self) -> "Pool":
        """The same source with a cache of its own, still empty."""
        pool = Pool(self.reader, self.ids, self.preprocessing, self.budget, self.transform)
        pool.unreadable, pool.digests = self.unreadable, self.digests
        pool.scales, pool.made = self.scales, self.made
        return pool

    def survey(self, rows: Tensor) -> None:
        """Decide by all of `rows` (n,) what their values mean, where having them costs nothing."""
        if getattr(self.reader, "in_memory", False):
            for chunk in rows.split(CHUNK):
                self.scales.survey(self.reader.read(chunk.tolist()))

    def expect(self, rows: Tensor) -> None:
        """Begin to decode `rows` (n,), which will be fetched soon, beside what the caller does."""
        _, height, width = self.preprocessing.input_size
        if height * width < _THREADED_PIXELS:
            return
        _, slot = self._allocated()
        self._own()
        missing = [
            row
            for row in rows[slot[rows] < 0].unique().tolist()
            if row not in self.unreadable and row not in self.expected
        ]
        raws = self.reader.read(missing) if missing else []  # here: a reader need not stand threads
        self.scales.survey(raws)
        for row, raw in zip(missing, raws, strict=True):
            self.expected[row] = _threads(os.getpid()).submit(self.decode_one, row, raw)
        most = max(
            2 * len(missing), EXPECTED_BYTES // (self.preprocessing.input_size[0] * height * width)
        )
        for row in list(self.expected)[:-most]:  # of loops that ended before they fetched them
            self.expected.pop(row).cancel()

    def _own(self) -> None:
        """Forget what another process expected: a fork takes its threads not along, and would wait
        for ever.
        """
        if self.process != os.getpid():
            self.process, self.expected = os.getpid(), {}

    def _allocated(self) -> tuple[Tensor, Tensor]:
        """The cache (places, C, H, W) and its slots (rows,), made when first needed."""
        if self.cache is None or self.slot is None:
            channels, height, width = self.preprocessing.input_size
            rows = min(len(self.ids), self.budget // (channels * height * width))
            self.cache = torch.empty((rows, channels, height, width), dtype=torch.uint8)
            self.slot = torch.full((len(self.ids),), -1)
            self.used = 0
        return self.cache, self.slot

    def fetch(self, rows: Tensor) -> Tensor:
        """Uint8 (n, C, H, W) of `rows` (n,); raises UnreadableError for the first that cannot be
        decoded.
        """
        cache, slot = self._allocated()
        slots = slot[rows]
        if (slots >= 0).all():
            return cache.index_select(0, slots)  # ten times faster than cache[slots]
        pixels = torch.empty((len(rows), *cache.shape[1:]), dtype=torch.uint8)
        known = slots >= 0
        pixels[known] = cache.index_select(0, slots[known])
        for places in (~known).nonzero().flatten().split(CHUNK):
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

    def pixel_digests(self, rows: Tensor) -> list[bytes]:
        """SHA-256 (16 bytes) of the decoded pixels of `rows` (n,), each computed once; of an image
        that cannot be decoded, one that no other has.
        """
        missing = [row for row in dict.fromkeys(rows.tolist()) if row not in self.digests]
        for start in range(0, len(missing), CHUNK):
            chunk = missing[start : start + CHUNK]
            while chunk:
                try:
                    pixels = self.fetch(torch.tensor(chunk))
                except UnreadableError as error:
                    self.digests[error.row] = f"unreadable {id(self)} {error.row}".encode()
                    chunk.remove(error.row)
                else:
                    digests = [sha256(each.numpy().data).digest()[:16] for each in pixels]
                    self.digests.update(zip(chunk, digests, strict=True))
                    break
        return [self.digests[row] for row in rows.tolist()]

    def file_digests(self, rows: Tensor) -> list[bytes | None]:
        """What tells the encoded images of `rows` (n,) apart, without decoding them; None where
        that cannot be read.
        """
        found: list[bytes | None] = []
        for chunk in rows.split(CHUNK):
            found += [file_digest(raw) for raw in self.reader.read(chunk.tolist())]
        return found

    def _keep(self, row: int, image: Tensor) -> None:
        cache, slot = self._allocated()
        if self.used < len(cache) and slot[row] < 0:
            cache[self.used] = image
            slot[row] = self.used
            self.used += 1

    def _decode(self, rows: list[int]) -> list[Tensor | None]:
        self._own()
        expected = {
            row: self.expected.pop(row) for row in dict.fromkeys(rows) if row in self.expected
        }
        new = [row for row in rows if row not in expected]
        raws = self.reader.read(new) if new else []
        self.scales.survey(raws)
        _, height, width = self.preprocessing.input_size
        apply = (
            _threads(os.getpid()).map
            if height * width >= _THREADED_PIXELS and len(new) > 1
            else map
        )
        decoded = iter(list(apply(self.decode_one, new, raws)))
        return [expected[row].result() if row in expected else next(decoded) for row in rows]

    def decode_one(self, row: int, raw: Any) -> Tensor | None:
        """Uint8 (C, H, W), or None for what cannot be decoded, with the reason in `unreadable`."""
        try:
            return self._decoded(raw)
        except DataError as error:
            reason = str(error)
        except UNREADABLE as error:
            reason = f"{type(error).__name__}: {error}"
        self.unreadable[row] = UnreadableError(
            f"image {self.ids[row]!r} cannot be read ({reason}); mend or remove it, or set"
            " on_unreadable='skip'",
            row,
        )
        return None

    def _decoded(self, raw: Any) -> Tensor:
        size = self.preprocessing.input_size
        if self.transform is None:
            prepared = as_prepared(raw, size, self.scales)
            if prepared is not None:
                return prepared
            image = open_image(raw, self.scales)
            require_bounded(image, self.preprocessing.config)
            return self.preprocessing.decode(image, self.scales)
        image = to_mode(open_image(raw, self.scales), size[0], self.scales)
        try:
            made = self.transform(image)
        except PASSED:
            raise
        except Exception as error:
            raise DataError(f"transform= raised {type(error).__name__}: {error}") from error
        image = to_mode(open_image(made, self.made), size[0], self.made)
        if image.size != (size[2], size[1]):
            raise DataError(
                f"transform= made {image.height} x {image.width} pixels of it, the model takes"
                f" {size[1]} x {size[2]}; resize and crop in it"
            )
        return torch.from_numpy(np.asarray(image).reshape(*size[1:], size[0]).copy()).permute(
            2, 0, 1
        )
