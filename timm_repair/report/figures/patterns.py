"""What was found in common, to look at: retained images, the same with it done to them, and the
failures that look most like these.
"""

from collections.abc import Sequence

import numpy as np

from timm_repair.report.figures.drawing import INK, Figure, empty
from timm_repair.report.wording import clean

Shown = Sequence[np.ndarray]  # images (H, W, 1 or 3), uint8


def patterns(rows: Sequence[tuple[str, Shown, Shown, Shown]]) -> Figure:
    """For each pattern its words, retained images, what it makes of them, and failures; as many of
    one as of the other.
    """
    count = max(len(retained) for _, retained, *_ in rows)
    figure = empty(1.1 * count + 1.6, 3.9 * len(rows))
    for part, (words, *lines) in zip(
        figure.subfigures(len(rows), 1, squeeze=False)[:, 0], rows, strict=True
    ):
        part.suptitle(clean(words, 100), fontsize=11, color=INK, parse_math=False)
        axes = part.subplots(3, count, squeeze=False)
        names = ("retained", "the same,\nseen through it", "failures most\nlike these")
        for line, name, images in zip(axes, names, lines, strict=True):
            line[0].set_ylabel(name, fontsize=9, rotation=0, ha="right", va="center", color=INK)
            for ax in line:
                ax.set(xticks=[], yticks=[])
                ax.spines[:].set_visible(False)
            for ax, image in zip(line, images, strict=False):
                grey = image.shape[2] == 1
                shown = image[..., 0] if grey else image
                ax.imshow(shown, cmap="gray" if grey else None, vmin=0, vmax=255)
    return figure
