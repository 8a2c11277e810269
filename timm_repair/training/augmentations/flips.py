"""Flips: random horizontal flips and shifts."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True, kw_only=True)
class Flips:
    """Each image is flipped or not, and shifted, see `Augmentation`.

    Args:
        hflip: probability of being mirrored left to right.
        shift: largest shift as a share of the image's side; the border is filled by reflection.
    """

    hflip: float = 0.5
    shift: float = 0.125

    def varies(self, size: tuple[int, int]) -> bool:
        return 0 < self.hflip < 1 or any(self._border(size))

    def draw(self, count: int, size: tuple[int, int], generator: torch.Generator) -> Tensor:
        """(count, 3): flipped or not, and the row and column at which an image is cut out of itself
        with borders on all sides.
        """
        border = self._border(size)
        flipped = torch.rand(count, generator=generator) < self.hflip
        if not any(border):
            return torch.stack([flipped.long(), *[torch.zeros(count, dtype=torch.long)] * 2], 1)
        places = [torch.randint(2 * m + 1, (count, 1), generator=generator) for m in border]
        return torch.cat([flipped.long()[:, None], *places], 1)

    def __call__(self, pixels: Tensor, drawn: Tensor) -> Tensor:
        count, _, height, width = pixels.shape
        flipped, rows, columns = drawn.unbind(1)
        pixels = torch.where(flipped.bool().view(-1, 1, 1, 1), pixels.flip(3), pixels)
        dy, dx = self._border((height, width))
        if not dy and not dx:
            return pixels
        # reflected borders: a black one would be a corruption of its own
        padded = F.pad(pixels.float(), (dx, dx, dy, dy), mode="reflect").to(pixels.dtype)
        rows = rows[:, None] + torch.arange(height)
        columns = columns[:, None] + torch.arange(width)
        channels = torch.arange(pixels.shape[1])[None, :, None, None]
        images = torch.arange(count)[:, None, None, None]
        return padded[images, channels, rows[:, None, :, None], columns[:, None, None, :]]

    def _border(self, size: tuple[int, int]) -> tuple[int, int]:
        return round(self.shift * size[0]), round(self.shift * size[1])
