"""Uploads: images that somebody dropped, looked at before anything is done with them. What is wrong
with one is said of that one; the others are taken.
"""

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from timm_repair.errors import DataError
from timm_repair.images.decoding import open_image, require_bounded, to_mode
from timm_repair.images.preprocessing import Preprocessing
from timm_repair.report.wording import clean, middle

SIDE = 160  # pixels of a thumbnail at most


@dataclass(frozen=True)
class Bounds:
    """What is taken at once: images, bytes of each, pixels of each."""

    count: int = 24
    size: int = 20 * 2**20
    pixels: int = 50_000_000


@dataclass(frozen=True)
class Upload:
    """An image that can be shown and answered.

    Args:
        name: what it was called.
        content: the file's bytes.
        format: as PIL has it.
        image: the right way up, in the model's mode.
        thumbnail: a small JPEG.
    """

    name: str
    content: bytes
    format: str
    image: Image.Image
    thumbnail: bytes

    @property
    def digest(self) -> str:
        """What the same file has under any name."""
        return hashlib.sha256(self.content).hexdigest()[:24]


def uploaded(
    paths: Sequence[str | Path], preprocessing: Preprocessing, bounds: Bounds
) -> tuple[list[Upload], list[str]]:
    """The images of these files; and what is wrong with the others, a sentence each."""
    found, wrong = [], []
    for path in paths[: bounds.count]:
        try:
            found.append(_upload(Path(path), preprocessing, bounds))
        except Exception as error:  # noqa: BLE001  strangers' files make PIL raise anything
            reason = str(error) if isinstance(error, DataError) else _reason(error)
            wrong.append(f"{middle(Path(path).name, 40)}: {clean(reason, 200)}")
    if len(paths) > bounds.count:
        wrong.append(
            f"{len(paths) - bounds.count} more were left out: {bounds.count} images are taken at"
            " once"
        )
    return found, wrong


def _upload(path: Path, preprocessing: Preprocessing, bounds: Bounds) -> Upload:
    size = path.stat().st_size
    if size > bounds.size:
        raise DataError(f"{size / 2**20:,.0f} MB; at most {bounds.size / 2**20:,.0f} MB are taken")
    content = path.read_bytes()
    with Image.open(io.BytesIO(content)) as raw:
        if raw.width * raw.height > bounds.pixels:
            raise DataError(
                f"{raw.width:,} x {raw.height:,} pixels; at most"
                f" {bounds.pixels / 1e6:,.0f} million are taken"
            )
        require_bounded(raw, preprocessing.config)
        image = to_mode(open_image(raw), preprocessing.input_size[0])
        image.load()
        return Upload(path.name, content, raw.format or "", image, _thumbnail(image))


def _thumbnail(image: Image.Image) -> bytes:
    small = image.copy()
    small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    small.save(file, "JPEG", quality=88)
    return file.getvalue()


def _reason(error: Exception) -> str:
    # PIL warns of many, where a warning is an error it is one
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return "it has too many pixels, or would have when scaled to the model's size"
    return "it cannot be read as an image"
