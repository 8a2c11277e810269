"""What is between the camera and what it sees, or on its lens: veils, flakes, drops, something that
hides a part.
"""

import math

import torch
from torch import Tensor

from timm_repair.diagnosis.draws import Draws
from timm_repair.diagnosis.parts.optics import along, gaussian
from timm_repair.diagnosis.parts.part import Kind, Knob, each


def fractal(draws: Draws, x: Tensor, roughness: Tensor) -> Tensor:
    """(N, 1, H, W) from 0 to 1: clouds at all scales, each `roughness` (N,) times as strong as the
    next coarser one. Made by moving midpoints, on a torus.
    """
    height, width = x.shape[-2:]
    side = 2 ** math.ceil(math.log2(max(height, width, 2)))
    rest = 2 * draws.uniform("clouds", side * side - 1) - 1
    field, size = x.new_zeros(len(x), side, side), torch.ones_like(roughness).view(-1, 1, 1)

    def moved(cells: int) -> Tensor:
        nonlocal rest
        here, rest = rest[:, : cells**2], rest[:, cells**2 :]
        return size * here.view(-1, cells, cells)

    step = side
    while step >= 2:
        half, cells = step // 2, side // step
        corner = field[:, ::step, ::step]
        square = corner + corner.roll(-1, 1)
        middle = (square + square.roll(-1, 2)) / 4 + moved(cells)
        above = middle + middle.roll(1, 1) + corner + corner.roll(-1, 2)
        beside = middle + middle.roll(1, 2) + corner + corner.roll(-1, 1)
        field[:, half::step, half::step] = middle
        field[:, ::step, half::step] = above / 4 + moved(cells)
        field[:, half::step, ::step] = beside / 4 + moved(cells)
        step, size = half, size * roughness.view(-1, 1, 1)
    field = field[:, None, :height, :width]
    low, high = field.amin((2, 3), keepdim=True), field.amax((2, 3), keepdim=True)
    return (field - low) / (high - low).clamp(min=1e-3)


def _veil(x: Tensor, draws: Draws, amount: Tensor, through: Tensor, roughness: Tensor) -> Tensor:
    return x * each(through) + each(amount) * fractal(draws, x, roughness)


def _frost(
    x: Tensor, draws: Draws, amount: Tensor, through: Tensor, uneven: Tensor, tint: Tensor
) -> Tensor:
    # many dim crystals and few bright ones, of all sizes
    ice = fractal(draws, x, torch.full_like(uneven, 1.1)) ** 3
    ice = (ice - ice.mean((2, 3), keepdim=True)) / ice.std((2, 3), keepdim=True).clamp(min=1e-3)
    ice = (each(amount) + each(uneven) * ice).clamp(min=0)
    if x.shape[1] == 3:
        colour = torch.stack([1 - tint, torch.ones_like(tint), 1 + tint], 1)[..., None, None]
        ice = ice * colour
    return x * each(through) + ice


def _specks(x: Tensor, draws: Draws, share: Tensor, size: Tensor, level: Tensor) -> Tensor:
    field = gaussian(draws.normal("specks", 1, *x.shape[-2:]), size)
    field = field / field.std((2, 3), keepdim=True).clamp(min=1e-6)
    beyond = torch.special.ndtri(1 - each(share))
    return x + (each(level) - x) * ((field - beyond) * 4 + 0.5).clamp(0, 1)


def _fall(
    x: Tensor,
    draws: Draws,
    amount: Tensor,
    length: Tensor,
    size: Tensor,
    share: Tensor,
    haze: Tensor,
) -> Tensor:
    field = gaussian(draws.normal("flakes", 1, *x.shape[-2:]), size)
    field = field / field.std((1, 2, 3), keepdim=True).clamp(min=1e-6)
    beyond = torch.special.ndtri(1 - each(share))
    flakes = ((field - beyond) * 4 + 0.5).clamp(0, 1) / each(share)
    steep = 90 + 45 * (2 * draws.uniform("falling") - 1)
    # those too far away to be seen one by one brighten all of the image
    return x + each(haze) + each(amount) * along(flakes, length, steep, torch.ones_like(length))


def _occlude(x: Tensor, draws: Draws, share: Tensor, level: Tensor) -> Tensor:
    height, width = x.shape[-2:]
    side = share.sqrt().view(-1, 1, 1)

    def inside(name: str, pixels: int, view: tuple[int, int]) -> Tensor:
        places = (torch.arange(pixels, device=x.device) + 0.5).view(1, *view) / pixels
        start = draws.uniform(name).view(-1, 1, 1) * (1 - side)
        soft = pixels * torch.minimum(places - start, start + side - places) + 0.5
        return soft.clamp(0, 1)

    mask = (inside("top", height, (-1, 1)) * inside("left", width, (1, -1)))[:, None]
    return x + (each(level) - x) * mask


KINDS = (
    Kind(
        "occlusion",
        _occlude,
        (
            Knob("share", "of {:.0%} of the image", 0.01, 0.9, varies=False),
            Knob("level", "brightness {:.2f}", 0, 1, 0.2, varies=False),
        ),
        ((0.1, 0.1), (0.3, 0.1), (0.2, 0.6)),
        family="occlusion",
    ),
    Kind(
        "veil",
        _veil,
        (
            Knob("amount", "of {:.2f}", 0.02, 3),
            Knob("through", "over × {:.2f} of the image", 0.05, 1.5, varies=False),
            Knob("roughness", "roughness {:.2f}", 0.05, 1, varies=False),
        ),
        ((0.3, 0.8, 0.25), (0.6, 0.5, 0.25)),
        family="veil",
    ),
    Kind(
        "frost",
        _frost,
        (
            Knob("amount", "of {:.2f}", 0.02, 1),
            Knob("through", "over × {:.2f} of the image", 0.05, 1.5, varies=False),
            Knob("uneven", "uneven by {:.2f}", 0.005, 0.5),
            Knob("tint", "{:+.0%} blue", -0.6, 0.6, 0.3),
        ),
        ((0.25, 0.9, 0.05, 0.1),),
        family="veil",
        varying=0.3,
    ),
    Kind(
        "falling flakes",
        _fall,
        (
            Knob("amount", "{:.2f} brighter", 0.01, 1),
            Knob("length", "in streaks of {:.1f} pixels", 1.05, 40, varies=False),
            Knob("size", "{:.1f} pixels wide", 0.2, 4, varies=False),
            Knob("share", "on {:.0%} of the image", 0.01, 0.6),
            Knob("haze", "in a haze of {:.2f}", 0, 0.6, 0.1, varies=False),
        ),
        ((0.1, 8, 0.7, 0.1, 0.05),),
        family="specks",
        varying=0.2,
    ),
    Kind(
        "specks",
        _specks,
        (
            Knob("share", "on {:.0%} of the image", 0.005, 0.9),
            Knob("size", "of {:.1f} pixels", 0.2, 6, varies=False),
            Knob("level", "brightness {:.2f}", 0, 1, 0.2, varies=False),
        ),
        ((0.1, 0.8, 0.9), (0.2, 2, 0.9), (0.1, 1, 0.2)),
        family="specks",
    ),
)
