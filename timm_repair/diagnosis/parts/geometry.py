"""Where things are in the image: turned, stretched, magnified, displaced."""

import torch
from torch import Tensor
from torch.nn import functional as F

from timm_repair.diagnosis.draws import Draws
from timm_repair.diagnosis.parts.part import Kind, Knob


def affine(x: Tensor, matrices: Tensor, border: str = "reflection") -> Tensor:
    """`x` sampled at `matrices` (N, 2, 3) of its own coordinates, which run from -1 to 1."""
    grid = F.affine_grid(matrices, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode=border, align_corners=False)


def displaced(x: Tensor, flow: Tensor, mode: str = "bilinear") -> Tensor:
    """`x` sampled `flow` (N, 2, H, W; x and y) pixels away."""
    n, _, h, w = x.shape
    still = x.new_tensor([[1.0, 0, 0], [0, 1, 0]]).expand(n, 2, 3)
    grid = F.affine_grid(still, list(x.shape), align_corners=False)
    away = flow.permute(0, 2, 3, 1) * x.new_tensor([2 / w, 2 / h])
    return F.grid_sample(x, grid + away, mode=mode, padding_mode="reflection", align_corners=False)


def _matrices(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    zero = torch.zeros_like(a)
    return torch.stack([torch.stack([a, b, zero], 1), torch.stack([c, d, zero], 1)], 1)


def _rotate(x: Tensor, draws: Draws, most: Tensor) -> Tensor:
    angle = torch.deg2rad(most) * (2 * draws.uniform("rotation") - 1)
    ratio = x.shape[2] / x.shape[3]
    matrices = _matrices(angle.cos(), -angle.sin() * ratio, angle.sin() / ratio, angle.cos())
    return affine(x, matrices, "zeros")


def _magnify(x: Tensor, draws: Draws, factor: Tensor) -> Tensor:
    zero = torch.zeros_like(factor)
    return affine(x, _matrices(1 / factor, zero, zero, 1 / factor))


def _stretch(x: Tensor, draws: Draws, factor: Tensor) -> Tensor:
    zero = torch.zeros_like(factor)
    root = factor.sqrt()  # the area stays
    return affine(x, _matrices(1 / root, zero, zero, root))


def _jitter(x: Tensor, draws: Draws, pixels: Tensor) -> Tensor:
    moved = (2 * draws.uniform("affine", 2, 3) - 1) * pixels.view(-1, 1, 1)
    still = x.new_tensor([[1.0, 0, 0], [0, 1, 0]])
    return affine(x, still + moved * 2 / x.shape[3])


def _elastic(x: Tensor, draws: Draws, pixels: Tensor) -> Tensor:
    coarse = draws.normal("elastic", 2, 5, 5) * pixels.view(-1, 1, 1, 1)
    return displaced(
        x, F.interpolate(coarse, size=x.shape[-2:], mode="bicubic", align_corners=False)
    )


KINDS = (
    Kind("upside down", lambda x, draws: x.flip(2), (), ((),), family="orientation"),
    Kind("mirrored", lambda x, draws: x.flip(3), (), ((),), family="orientation"),
    Kind(
        "rotation",
        _rotate,
        (Knob("", "by up to {:.0f}°", 0.5, 180, varies=False),),
        ((8,), (25,), (80,)),
        family="geometry",
    ),
    Kind(
        "magnification",
        _magnify,
        (Knob("", "× {:.2f}", 0.4, 4),),
        ((0.8,), (1.25,)),
        family="geometry",
    ),
    Kind(
        "stretching",
        _stretch,
        (Knob("", "× {:.2f}", 0.3, 3),),
        ((0.75,), (1.33,)),
        family="geometry",
    ),
    Kind(
        "affine jitter",
        _jitter,
        (Knob("", "of up to {:.1f} pixels", 0.05, 40, varies=False),),
        ((2,), (5,)),
        family="geometry",
    ),
    Kind(
        "elastic displacement",
        _elastic,
        (Knob("", "of {:.1f} pixels", 0.05, 30, varies=False),),
        ((1,), (3,)),
        family="geometry",
    ),
)
