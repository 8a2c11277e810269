"""Operations: what AugMix's chains are made of, each image by its own level.

A level runs from 0 to 10, as in AutoAugment, whose operations these are. An operation takes uint8
(n, C, H, W), levels (n,) and signs (n,), and gives uint8.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as images

from timm_repair.training.transforming.warping import placing, warped

Operation = Callable[[Tensor, Tensor, Tensor], Tensor]


def autocontrast(pixels: Tensor, level: Tensor, sign: Tensor) -> Tensor:
    """Every channel stretched to 0 … 255."""
    return images.autocontrast(pixels)


def equalize(pixels: Tensor, level: Tensor, sign: Tensor) -> Tensor:
    """Every channel with a flat histogram."""
    return images.equalize(pixels)


def posterize(pixels: Tensor, level: Tensor, sign: Tensor) -> Tensor:
    """The first 4 - ⌊0.4 · level⌋ bits."""
    dropped = 4 + _whole(level, 4)
    kept = (255 >> dropped) << dropped
    return pixels & kept.to(pixels.dtype).view(-1, 1, 1, 1)


def solarize(pixels: Tensor, level: Tensor, sign: Tensor) -> Tensor:
    """Inverted from 256 - ⌊25.6 · level⌋ on."""
    threshold = (256 - _whole(level, 256)).view(-1, 1, 1, 1)
    return torch.where(pixels < threshold, pixels, 255 - pixels)


def rotate(pixels: Tensor, level: Tensor, sign: Tensor) -> Tensor:
    """By ⌊3 · level⌋ degrees."""
    return warped(pixels, placing(rotation=sign * _whole(level, 30)))


def shear_x(pixels: Tensor, level: Tensor, sign: Tensor) -> Tensor:
    """By 0.03 · level, to the side."""
    return warped(pixels, placing(shear_x=sign * level * 0.03))


def shear_y(pixels: Tensor, level: Tensor, sign: Tensor) -> Tensor:
    """By 0.03 · level, up or down."""
    return warped(pixels, placing(shear_y=sign * level * 0.03))


def translate_x(pixels: Tensor, level: Tensor, sign: Tensor) -> Tensor:
    """By ⌊level / 30 of the width⌋ pixels."""
    shift = sign * _whole(level, pixels.shape[3] / 3)
    return warped(pixels, shift=torch.stack([shift, torch.zeros_like(shift)], 1))


def translate_y(pixels: Tensor, level: Tensor, sign: Tensor) -> Tensor:
    """By ⌊level / 30 of the height⌋ pixels."""
    shift = sign * _whole(level, pixels.shape[2] / 3)
    return warped(pixels, shift=torch.stack([torch.zeros_like(shift), shift], 1))


OPERATIONS: tuple[Operation, ...] = (
    autocontrast,
    equalize,
    posterize,
    rotate,
    solarize,
    shear_x,
    shear_y,
    translate_x,
    translate_y,
)


def _whole(level: Tensor, most: float) -> Tensor:
    return (level * most / 10).long()
