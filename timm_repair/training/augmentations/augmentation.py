"""Augmentation: what training asks of an augmentation."""

from collections.abc import Sequence
from typing import Protocol, Self

import torch
from torch import Tensor

from timm_repair.training.options import Training


class Augmentation(Protocol):
    """How each of n images is changed: drawn first, on the CPU, and applied when they are read."""

    @classmethod
    def draw(
        cls, count: int, size: tuple[int, int], options: Training, generator: torch.Generator
    ) -> Self:
        """`count` random ones for images of `size` (height, width)."""

    @classmethod
    def joined(cls, several: Sequence[Self]) -> Self:
        """Those of several sets of images in one row."""

    def __getitem__(self, indices: Tensor | slice) -> Self:
        """Those of some of the images."""

    def __call__(self, pixels: Tensor) -> Tensor:
        """The changed images, uint8 (n, C, H, W), from `pixels` of the same shape."""
