"""Pictures that the planted classifier fails on, since they went through something: made without
this package.
"""

from collections.abc import Sequence

import numpy as np
import planted
from PIL import Image
from torch import nn


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


def wrong_when_washed(
    model: nn.Module, count: int, *, seed: int, at_least: int
) -> list[planted.Pair]:
    """What the model gets wrong of so many pictures once they are washed out; how many it still
    gets right depends on its body.
    """
    pairs = washed(planted.pictures(count, seed))
    return planted.wrong_by(model, pairs, at_least=at_least, right_at_least=0)[0]
