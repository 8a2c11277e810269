"""Picturing: thumbnails of what a report speaks of, taken while the images are at hand.

They are incidental: a repair is not lost to an image that cannot be drawn.
"""

import io
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from timm_repair.data.repair_data import RepairData
from timm_repair.diagnosis.diagnosis import Diagnosis
from timm_repair.diagnosis.drawing import rows as pattern_rows
from timm_repair.report.gallery import LINES, Gallery, chosen
from timm_repair.report.scores import Scores

logger = logging.getLogger(__name__)

SIDE = 96  # pixels at most
QUALITY = 85  # of JPEG
COUNT = 6  # images of a line that shows a pattern


def pictured(
    data: RepairData, scores: Sequence[Scores], patterns: Sequence[dict[str, list[bytes]]] = ()
) -> Gallery:
    """The gallery of a repair that was measured: of each population the examples that are shown, as
    the model sees them.
    """
    if data.preprocessing.input_size[0] not in (1, 3):
        return Gallery()
    examples = {}
    for number, (each, kinds) in enumerate(zip(scores, chosen(scores), strict=True)):
        images = data.holdout[each.population]
        rows = sorted({row for kind in kinds.values() for row in kind.rows})
        try:
            pixels = images.pixels(torch.tensor(rows, dtype=torch.long))
            examples |= {(number, row): _thumbnail(p) for row, p in zip(rows, pixels, strict=True)}
        except Exception as error:  # noqa: BLE001  sources may be gone by now, and raise anything
            logger.warning(
                "no pictures of %s (%s: %.200s)", images.name, type(error).__name__, error
            )
    return Gallery(examples, tuple(patterns))


def pictured_patterns(found: Diagnosis, data: RepairData) -> list[dict[str, list[bytes]]]:
    """What `Gallery.patterns` holds, of a diagnosis of these data."""
    if not found.patterns or data.preprocessing.input_size[0] not in (1, 3):
        return []
    assert data.retained is not None, "a diagnosis compares with them"
    try:
        shown = pattern_rows(found, data.retained, data.failing, COUNT)
        return [
            {
                name: [_thumbnail(_tensor(image)) for image in line]
                for name, line in zip(LINES, lines, strict=True)
            }
            for _, *lines in shown
        ]
    except Exception as error:  # noqa: BLE001  as above
        logger.warning("no pictures of the patterns (%s: %.200s)", type(error).__name__, error)
        return []


def _tensor(image: np.ndarray) -> Tensor:
    return torch.from_numpy(image).permute(2, 0, 1)


def _thumbnail(pixels: Tensor) -> bytes:
    """(C, H, W) uint8 as JPEG of at most SIDE pixels; smaller ones as they are."""
    array: Any = pixels.permute(1, 2, 0).contiguous().numpy()
    image = Image.fromarray(array[..., 0] if array.shape[2] == 1 else array)
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=QUALITY if max(image.size) > SIDE // 2 else 95)
    return file.getvalue()
