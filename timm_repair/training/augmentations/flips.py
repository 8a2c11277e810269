"""Flips: random horizontal flips and shifts."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from timm_repair.training.options import Training


@dataclass(frozen=True)
class Flips:
    """Each of n images is flipped or not, and shifted, see `Augmentation`.

    Args:
        flipped: (n,) bool, mirrored left to right.
        rows, columns: (n,) where the image is cut out of itself with borders of `border` (height,
            width) pixels, from 0 to twice that.
    """

    flipped: Tensor
    rows: Tensor
    columns: Tensor
    border: tuple[int, int]

    @classmethod
    def draw(
        cls, count: int, size: tuple[int, int], options: Training, generator: torch.Generator
    ) -> "Flips":
        """`count` random ones for images of `size` (height, width)."""
        border = round(options.shift * size[0]), round(options.shift * size[1])
        flipped = torch.rand(count, generator=generator) < options.hflip
        if not any(border):
            return cls(
                flipped,
                torch.zeros(count, dtype=torch.long),
                torch.zeros(count, dtype=torch.long),
                border,
            )
        return cls(
            flipped,
            *(
                torch.randint(2 * most + 1, (count, 1), generator=generator).flatten()
                for most in border
            ),
            border,
        )

    @classmethod
    def joined(cls, several: "Sequence[Flips]") -> "Flips":
        """Those of several sets of images in one row; they have the same border."""
        return cls(
            *(
                torch.cat([getattr(each, part) for each in several])
                for part in ("flipped", "rows", "columns")
            ),
            several[0].border,
        )

    def __getitem__(self, indices: Tensor | slice) -> "Flips":
        return Flips(self.flipped[indices], self.rows[indices], self.columns[indices], self.border)

    def __call__(self, pixels: Tensor) -> Tensor:
        """The changed images, uint8 (n, C, H, W), from `pixels` of the same shape."""
        count, _, height, width = pixels.shape
        pixels = torch.where(self.flipped.view(-1, 1, 1, 1), pixels.flip(3), pixels)
        dy, dx = self.border
        if not dy and not dx:
            return pixels
        # reflected borders: a black one would be a corruption of its own
        padded = F.pad(pixels.float(), (dx, dx, dy, dy), mode="reflect").to(pixels.dtype)
        rows = self.rows[:, None] + torch.arange(height)
        columns = self.columns[:, None] + torch.arange(width)
        return padded.permute(0, 2, 3, 1)[
            torch.arange(count)[:, None, None], rows[:, :, None], columns[:, None]
        ].permute(0, 3, 1, 2)
