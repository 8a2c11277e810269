"""Decoding: whatever holds one image, as an upright PIL image of the mode that a model takes.

What its values mean is never guessed: a range or a layout that may be read in two ways is refused.
"""

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps
from torch import Tensor

from timm_repair.errors import DataError
from timm_repair.images.scales import Scales, in_bytes

_DAMAGED_TAGS = (OSError, SyntaxError, ValueError, EOFError, TypeError, KeyError, AttributeError)
_LAYOUTS = (
    "an array image must be uint8 of shape (height, width[, 1, 3 or 4]), a tensor of shape ([1, 3"
    " or 4,] height, width); floats are taken from 0 to 1"
)
_PIECE = 64 * 1024  # bytes read at once where a file is told from others; all of a small one
_LIKELY = {3: 0, 1: 1, 4: 2}  # numbers of channels, the usual ones first


def open_image(raw: Any, scales: Scales | None = None) -> Image.Image:
    """A PIL image, the right way up, from a PIL image, path, file bytes, `{"bytes", "path"}`, array
    (H, W[, C]) or tensor ([C,] H, W).

    Args:
        scales: of the source that it is from; None where it is alone.

    Raises:
        DataError: it is nothing of these, or its values or layout may be read in two ways.
        ValueError: there is none, as in a table with a gap, or it has no pixels.
    """
    if isinstance(raw, Exception):
        raise raw
    if isinstance(raw, Mapping):
        raw = raw.get("bytes") or raw.get("path")
    if raw is None or (isinstance(raw, float) and raw != raw) or (isinstance(raw, str) and not raw):
        raise ValueError(f"there is no image, only {raw!r}")
    if isinstance(raw, bytes | bytearray | memoryview):
        raw = io.BytesIO(raw)
    if isinstance(raw, str | Path | io.BytesIO):
        raw = Image.open(raw)
    if isinstance(raw, Image.Image):
        if 0 in raw.size:
            raise ValueError(f"the image has {raw.width} x {raw.height} pixels")
        return _upright(raw)
    if isinstance(raw, Tensor):
        return _from_array(_numbers(raw), True, scales or Scales())
    if isinstance(raw, np.ndarray):
        return _from_array(raw, False, scales or Scales())
    raise DataError(
        f"cannot read an image from {type(raw).__name__}; give a PIL image, a path or a uint8 array"
    )


def _numbers(raw: Tensor) -> np.ndarray:
    """The values of a tensor; raises DataError for one that is quantized or sparse."""
    if raw.is_quantized or raw.layout != torch.strided:
        kind, fix = ("quantized", "dequantize") if raw.is_quantized else ("sparse", "to_dense")
        raise DataError(f"a {kind} tensor is no image; give image.{fix}()")
    plain = raw.detach().cpu()
    return (plain.float() if plain.is_floating_point() else plain).numpy()


def as_prepared(raw: Any, size: tuple[int, ...], scales: Scales | None = None) -> Tensor | None:
    """Uint8 (C, H, W) of a float tensor from 0 to 1 that has the model's `size` already: a
    transform made it, and it is neither resized nor cropped again. None for everything else.
    """
    if isinstance(raw, Tensor) and raw.is_floating_point() and tuple(raw.shape) == tuple(size):
        return torch.from_numpy(in_bytes(_numbers(raw), scales or Scales()))
    return None


def to_mode(image: Image.Image, channels: int, scales: Scales | None = None) -> Image.Image:
    """`image` in RGB (3 channels) or L (1). Alpha is dropped; 16 bits become 8 by / 256, where PIL
    would clip at 255.

    Args:
        scales: of the source that it is from; None where it is alone.

    Raises:
        DataError: the range of its values is not agreed on, or differs from the rest.
    """
    if image.mode == "I" or image.mode.startswith("I;"):
        values = np.asarray(image)
        # a file of 16 bits says so; 32 bits, and what never was a file, may hold any range
        deep = image.format == "PNG" or (image.format is not None and image.mode != "I")
        image = Image.fromarray(
            (values // 256).astype(np.uint8) if deep else in_bytes(values, scales or Scales())
        )
    if image.mode == "F":
        raise DataError(
            "a floating point image (mode F) has no agreed range; convert it to 8 or 16 bits first"
        )
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # the direct way to RGB gives the same pixels and a warning
    return image.convert("L" if channels == 1 else "RGB")


def require_bounded(image: Image.Image, config: Mapping[str, Any]) -> None:
    """Raise PIL's DecompressionBombError for an image that timm's transform would make larger than
    PIL's own bound: its shorter side is scaled to the model's, so a strip grows without limit.
    """
    limit, short = Image.MAX_IMAGE_PIXELS, min(image.size)
    if limit is None or config.get("crop_mode", "center") != "center" or short == 0:
        return
    scale = max(config["input_size"][1:]) / (config.get("crop_pct") or 1) / short
    pixels = int(image.width * scale * image.height * scale)
    if pixels > limit:
        raise Image.DecompressionBombError(
            f"{image.width} x {image.height} pixels would be {pixels:,} when scaled to the model's"
            f" size, above PIL's bound of {limit:,} (Image.MAX_IMAGE_PIXELS)"
        )


def file_digest(raw: Any) -> bytes | None:
    """SHA-256 (16 bytes) of an image as it is encoded; of a large file its size and four pieces of
    it. None for what cannot be read.
    """
    if isinstance(raw, Mapping):
        raw = raw.get("bytes") or raw.get("path")
    digest = hashlib.sha256()
    if isinstance(raw, bytes | bytearray | memoryview):
        digest.update(raw)
    elif isinstance(raw, Image.Image):
        digest.update(f"{raw.mode} {raw.size}".encode() + raw.tobytes())
    elif isinstance(raw, Tensor | np.ndarray):
        array = np.ascontiguousarray(_numbers(raw) if isinstance(raw, Tensor) else raw)
        digest.update(f"{array.dtype} {array.shape}".encode() + array.tobytes())
    elif isinstance(raw, str | Path):
        try:
            with Path(raw).open("rb") as file:
                size = file.seek(0, io.SEEK_END)
                digest.update(str(size).encode())
                for start in range(0, size, max(_PIECE, (size - _PIECE) // 3)):
                    file.seek(start)
                    digest.update(file.read(_PIECE))
        except (OSError, ValueError):
            return None
    else:
        return None
    return digest.digest()[:16]


def _upright(image: Image.Image) -> Image.Image:
    """`image` turned as its EXIF orientation says, as viewers and `datasets` show it."""
    try:
        turned = image.getexif().get(ExifTags.Base.Orientation, 1)
        if turned not in range(2, 9):
            return image
        upright = ImageOps.exif_transpose(image)
        upright.format = image.format  # a file as before: its mode says how many bits it has
        return upright
    except _DAMAGED_TAGS:  # the pixels may be whole; if not, decoding them says so
        return image


def _from_array(array: np.ndarray, first: bool, scales: Scales) -> Image.Image:
    """Of (H, W), or with channels `first` or last as its kind usually has them."""
    if array.ndim == 3:
        array = np.moveaxis(array, _channel_axis(array.shape, 0 if first else 2, "the image"), 2)
        array = array[..., 0] if array.shape[2] == 1 else array
    if array.ndim != 2 and array.ndim != 3 or array.size == 0:
        raise DataError(f"{_LAYOUTS}, not {array.dtype} {array.shape}")
    if array.dtype.kind not in "biuf":
        raise DataError(f"{_LAYOUTS}, not {array.dtype}")
    return Image.fromarray(np.ascontiguousarray(in_bytes(array, scales)))


def _channel_axis(shape: tuple[int, ...], usual: int, what: str) -> int:
    """Which of the first and the last of the three axes holds the channels.

    Raises:
        DataError: neither can, or the unusual one is likelier.
    """
    other = 2 - usual
    fits = [axis for axis in (usual, other) if shape[axis] in _LIKELY]
    if not fits:
        raise DataError(f"{_LAYOUTS}, not {tuple(shape)}")
    if len(fits) == 2 and _LIKELY[shape[other]] < _LIKELY[shape[usual]]:
        raise DataError(
            f"{what} of shape {tuple(shape)} may have its channels first or last; give PIL images"
            f". Otherwise {_LAYOUTS}"
        )
    return fits[0]
