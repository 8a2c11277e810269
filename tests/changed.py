"""Pictures that the planted classifier fails on, since they went through something: made without
this package.
"""

from collections.abc import Sequence

import numpy as np
import planted
from PIL import Image


def rotated(pairs: Sequence[planted.Pair], *degrees: float) -> list[planted.Pair]:
    """The pictures turned by these angles in turn, on a ground of their own mean grey."""
    found = []
    for i, (image, label) in enumerate(pairs):
        grey = round(float(np.asarray(image).mean()))
        angle = degrees[i % len(degrees)]
        found.append((image.rotate(angle, Image.Resampling.BILINEAR, fillcolor=grey), label))
    return found


def washed(pairs: Sequence[planted.Pair], contrast: float = 0.4) -> list[planted.Pair]:
    """The pictures washed out: little contrast, and lighter."""
    found = []
    for image, label in pairs:
        pixels = contrast * np.asarray(image).astype(float) + 255 * (1 - contrast)
        found.append((Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8)), label))
    return found
