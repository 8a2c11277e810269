"""Augmentation: what training asks of an augmentation."""

from typing import Protocol

import torch
from torch import Tensor


class Augmentation(Protocol):
    """How training images are changed at random. Drawing and applying are apart: a fixed view of an
    image is drawn once and applied again, and all processes draw for the whole batch, while each
    reads its own part of it.
    """

    def varies(self, size: tuple[int, int]) -> bool:
        """Whether two drawings for images of `size` (height, width) may differ."""
        ...

    def draw(self, count: int, size: tuple[int, int], generator: torch.Generator) -> Tensor:
        """Parameters of `count` images of `size` (height, width): (count, k), on the CPU."""
        ...

    def __call__(self, pixels: Tensor, drawn: Tensor) -> Tensor:
        """The changed images, uint8 (n, C, H, W), from `pixels` of the same shape, which stay as
        they are, and their parameters (n, k).
        """
        ...
