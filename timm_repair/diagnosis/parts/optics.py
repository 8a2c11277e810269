"""What a lens and a moving camera do: blur of several shapes, vignette."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from timm_repair.diagnosis.draws import Draws
from timm_repair.diagnosis.parts.geometry import affine, displaced
from timm_repair.diagnosis.parts.part import Kind, Knob, each

_REACH = 20  # pixels, the largest half width of a kernel
_STEPS = 6  # magnifications that a zoom blur is the mean of


def _grid(reach: int, like: Tensor) -> tuple[Tensor, Tensor]:
    line = torch.arange(-reach, reach + 1, dtype=like.dtype, device=like.device)
    yy, xx = torch.meshgrid(line, line, indexing="ij")
    return yy, xx


def _reach(sizes: Tensor, x: Tensor) -> int:
    return max(1, min(math.ceil(float(sizes.max())), _REACH, min(x.shape[-2:]) - 1))


def convolved(x: Tensor, kernels: Tensor) -> Tensor:
    """Each image with its own of `kernels` (N, K, K), mirrored at the borders."""
    n, c, h, w = x.shape
    kernels = kernels / kernels.sum((1, 2), keepdim=True)
    reach = kernels.shape[-1] // 2
    padded = F.pad(x, (reach,) * 4, mode="reflect").reshape(1, n * c, h + 2 * reach, w + 2 * reach)
    return F.conv2d(padded, kernels.repeat_interleave(c, 0)[:, None], groups=n * c).view(x.shape)


def gaussian(x: Tensor, sigma: Tensor) -> Tensor:
    """Each image convolved with a Gaussian of its own `sigma` (N,), in two passes."""
    n, c, h, w = x.shape
    reach = _reach(3 * sigma, x)
    line = torch.arange(-reach, reach + 1, dtype=x.dtype, device=x.device)
    away = line / sigma.clamp(min=0.05).view(-1, 1)
    # cut off where it is for this image, whatever is in the batch
    weights = (-0.5 * away**2).exp() * (away.abs() <= 3)
    weights = (weights / weights.sum(1, keepdim=True)).repeat_interleave(c, 0)
    flat = F.pad(x, (reach,) * 4, mode="reflect").reshape(1, n * c, h + 2 * reach, w + 2 * reach)
    flat = F.conv2d(flat, weights[:, None, None], groups=n * c)
    return F.conv2d(flat, weights[:, None, :, None], groups=n * c).view(x.shape)


def _gaussian(x: Tensor, draws: Draws, sigma: Tensor) -> Tensor:
    return gaussian(x, sigma)


def _defocus(x: Tensor, draws: Draws, radius: Tensor) -> Tensor:
    yy, xx = _grid(_reach(radius + 1, x), x)
    # its edge is as wide as a pixel, so that the radius can grow by less than one
    return convolved(x, (radius.view(-1, 1, 1) - torch.hypot(yy, xx) + 0.5).clamp(0, 1))


def _motion(
    x: Tensor, draws: Draws, length: Tensor, angle: Tensor, around: Tensor, fading: Tensor
) -> Tensor:
    return along(x, length, angle + around * (2 * draws.uniform("direction") - 1), fading)


def along(x: Tensor, length: Tensor, degrees: Tensor, fading: Tensor) -> Tensor:
    """Each image blurred along a line of `length` (N,) pixels at an angle (N,), which at its end is
    weaker than at its beginning by `fading` (N,) from 0 to 1. One pixel is no blur.
    """
    turned = torch.deg2rad(degrees).view(-1, 1, 1)
    length = length.clamp(min=1).view(-1, 1, 1)
    yy, xx = _grid(_reach(length, x), x)
    line = xx * turned.cos() + yy * turned.sin()
    across = yy * turned.cos() - xx * turned.sin()
    # it begins and ends at once: a Gaussian would take fine detail that a shaken camera leaves
    ends = (line + 1).clamp(0, 1) * (length - line).clamp(0, 1)
    fades = 1 - fading.view(-1, 1, 1) * (line / length).clamp(0, 1)
    thin = ((0.625 - across.abs()) * 4).clamp(0, 1)  # of pixels, not of means of two
    return convolved(x, ends * fades * thin)


def _zoom(x: Tensor, draws: Draws, more: Tensor) -> Tensor:
    total, zero = x, torch.zeros_like(more)
    for step in range(1, _STEPS + 1):
        scale = 1 / (1 + more * step / _STEPS)
        rows = torch.stack([scale, zero, zero], 1), torch.stack([zero, scale, zero], 1)
        total = total + affine(x, torch.stack(rows, 1))
    return total / (_STEPS + 1)


def _scatter(x: Tensor, draws: Draws, pixels: Tensor) -> Tensor:
    # whole pixels: glass takes them from elsewhere and does not mix them
    return displaced(x, draws.normal("scatter", 2, *x.shape[-2:]) * each(pixels), "nearest")


def _vignette(x: Tensor, draws: Draws, darker: Tensor) -> Tensor:
    lines = (torch.linspace(-1, 1, side, device=x.device) for side in x.shape[-2:])
    yy, xx = torch.meshgrid(*lines, indexing="ij")
    return x * (1 - each(darker) * (xx**2 + yy**2) / 2)


KINDS = (
    Kind("zoom blur", _zoom, (Knob("", "of {:.2f}", 0.02, 1.5),), ((0.1,), (0.3,)), family="blur"),
    Kind(
        "motion blur",
        _motion,
        (
            Knob("length", "of {:.1f} pixels", 1.05, 40),
            Knob("direction", "at {:.0f}°", -180, 180, 15, varies=False),
            Knob("directions", "± {:.0f}°", 0, 90, 15, varies=False),
            Knob("fading", "fading by {:.0%}", 0, 1, 0.4, varies=False),
        ),
        ((4, 0, 45, 0.6), (8, 0, 45, 0.6), (5, 90, 45, 0.6), (5, 0, 90, 0.6)),
        family="blur",
    ),
    Kind(
        "defocus",
        _defocus,
        (Knob("", "of {:.1f} pixels", 0.3, 16),),
        ((1,), (3,)),
        family="blur",
    ),
    Kind(
        "Gaussian blur",
        _gaussian,
        (Knob("", "σ {:.2f} pixels", 0.15, 8),),
        ((0.6,), (1.5,), (4,)),
        family="blur",
    ),
    Kind(
        "scattered pixels", _scatter, (Knob("", "by {:.2f} pixels", 0.05, 8),), ((0.5,), (1.5,)),
        family="blur",
    ),
    Kind("vignette", _vignette, (Knob("", "{:.0%} darker", 0.02, 1),), ((0.4,),), family="tone"),
)  # fmt: skip
