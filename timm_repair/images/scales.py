"""Scales: what the values of arrays and of integer images mean: they go to 1, to 255 or to 65535.

A range is never guessed image by image: what is known of the whole source decides, and an image
that contradicts it is refused.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image

from timm_repair.errors import DataError

UNIT, BYTES, WORDS = 1, 255, 65535  # the largest value of each scale
_ROUNDING = 1e-5  # by which a float that was computed may exceed 1 or fall below 0
_DARK = 4095  # up to here 16 bits may be 12 of a camera, which would be 16 times too dark


@dataclass
class Scales:
    """The scale of each kind of values (floats, uint16, int32 images) of one source.

    Args:
        known: by kind, what `survey` found; it holds for images too that alone would be read
            otherwise.
        seen: by kind, as which the images were read that came one by one; in whatever order they
            come, all must be alike.
    """

    known: dict[str, int] = field(default_factory=dict)
    seen: dict[str, int] = field(default_factory=dict)

    def survey(self, raws: Iterable[Any]) -> None:
        """Decide by all of `raws` together, as far as these are decoded; what cannot be an image is
        left to be refused when it is opened.
        """
        for raw in raws:
            values = _decoded(raw)
            kind = None if values is None else _kind(values)
            if values is None or kind is None:
                continue
            try:
                possible = _possible(values)
            except DataError:
                continue
            told = len(possible) == 1 and not _dark(values)  # else it says nothing of the others
            if told and self.seen.get(kind) in (None, possible[0]):
                self.known.setdefault(kind, possible[0])

    def of(self, values: np.ndarray) -> int:
        """The largest value of the scale of one image.

        Raises:
            DataError: it has another scale than those before it, or which it has cannot be told.
        """
        kind, possible = _kind(values), _possible(values)
        if kind is None or values.size == 0 or not values.any():
            return possible[0]  # black on any scale
        known, high = self.known.get(kind), float(values.max())
        if known is not None and known in possible:
            return known
        if _dark(values):
            raise DataError(
                f"an image of {values.dtype} has values to {high:.6g}, which may be of 12 bits or"
                " of 16; scale it to uint8 (0 to 255), or to all of uint16 (0 to 65535)"
            )
        others = known or self.seen.setdefault(kind, possible[0])
        if others != possible[0]:
            raise DataError(
                f"its values go to {high:.6g}, so from 0 to {possible[0]}, those of others from 0"
                f" to {others}: convert all to uint8 (0 to 255)"
            )
        return possible[0]


def in_bytes(values: np.ndarray, scales: Scales) -> np.ndarray:
    """Uint8 from 0 to 255 of an array of any type of numbers.

    Raises:
        DataError: it has no scale, or another than the rest of its source.
    """
    if values.dtype.kind == "b":
        return values.astype(np.uint8) * 255
    if _kind(values) is None:
        return values.astype(np.uint8, copy=False)
    scale = scales.of(values)
    if scale == UNIT:
        return (values.clip(0, 1) * 255).round().astype(np.uint8)
    return (values // 256 if scale == WORDS else values).astype(np.uint8)


def _decoded(raw: Any) -> np.ndarray | None:
    """The values of an array, a tensor, or an integer image that is no file."""
    if isinstance(raw, torch.Tensor) and raw.layout == torch.strided and not raw.is_quantized:
        plain = raw.detach().cpu()
        return (plain.float() if plain.is_floating_point() else plain).numpy()
    if isinstance(raw, Image.Image) and raw.format is None and raw.mode.startswith("I"):
        return np.asarray(raw)
    return raw if isinstance(raw, np.ndarray) else None


def _kind(values: np.ndarray) -> str | None:
    """What shares a scale; None where the type says it already, or is none of numbers."""
    kind, size = values.dtype.kind, values.dtype.itemsize
    if kind not in "iuf" or (kind == "u" and size == 1):
        return None
    return "floats" if kind == "f" else f"{kind}{size}"


def _dark(values: np.ndarray) -> bool:
    """Whether these are integers of more than 8 bits, and cannot be told to be of 16."""
    return values.dtype.kind in "iu" and BYTES < values.max() <= _DARK


def _possible(values: np.ndarray) -> tuple[int, ...]:
    """The scales that one image alone may have, the likelier one first.

    Raises:
        DataError: none.
    """
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    if values.dtype.kind == "f":
        whole = bool((values == values.round()).all())
        if low >= -_ROUNDING and high <= 1 + _ROUNDING:
            return (UNIT, BYTES) if whole else (UNIT,)
        if low >= 0 and high <= BYTES and whole:
            return (BYTES,)
        raise DataError(
            f"an image of {values.dtype} has values {low:.3g} to {high:.3g}: neither 0 to 1 nor"
            " whole numbers to 255, so a transform was already applied, and what it did cannot be"
            " told. The model's own mean and std are applied later: give un-transformed images"
            " (PIL, uint8, or floats from 0 to 1), e.g. without Normalize"
        )
    if low >= 0 and high <= BYTES:
        return (BYTES, WORDS)
    if low >= 0 and high <= WORDS and values.dtype.itemsize in (2, 4):
        return (WORDS,)
    raise DataError(
        f"an integer image of {values.dtype} has values {low:.6g} to {high:.6g}; give uint8 (0 to"
        " 255) or uint16 (0 to 65535)"
    )
