"""What is between the camera and what it sees, or on its lens: veils, flakes, drops, something that
hides a part.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from timm_repair.diagnosis.draws import Draws
from timm_repair.diagnosis.parts.optics import along, gaussian
from timm_repair.diagnosis.parts.part import Kind, Knob, each


def _clouds(draws: Draws, x: Tensor) -> Tensor:
    """(N, 1, H, W) from 0 to 1, uneven at several scales, most at the coarsest."""
    octaves = (
        F.interpolate(
            draws.uniform(f"veil {cells}", 1, cells, cells),
            size=x.shape[-2:],
            mode="bilinear",
            align_corners=False,
        )
        / weight
        for cells, weight in ((2, 1), (4, 1.5), (8, 3), (16, 5))
    )
    found = torch.stack(list(octaves)).sum(0)
    low, high = found.amin((2, 3), keepdim=True), found.amax((2, 3), keepdim=True)
    return (found - low) / (high - low).clamp(min=1e-3)


def _veil(x: Tensor, draws: Draws, amount: Tensor, through: Tensor) -> Tensor:
    return x * each(through) + each(amount) * _clouds(draws, x)


def _specks(x: Tensor, draws: Draws, share: Tensor, size: Tensor, level: Tensor) -> Tensor:
    field = gaussian(draws.normal("specks", 1, *x.shape[-2:]), size)
    field = field / field.std((2, 3), keepdim=True).clamp(min=1e-6)
    beyond = torch.special.ndtri(1 - each(share))
    return x + (each(level) - x) * ((field - beyond) * 4 + 0.5).clamp(0, 1)


def _fall(x: Tensor, draws: Draws, amount: Tensor, length: Tensor) -> Tensor:
    flakes = (draws.normal("flakes", 1, *x.shape[-2:]) - 0.5).clamp(min=0)
    steep = 90 + 45 * (2 * draws.uniform("falling") - 1)
    fallen = along(flakes, length, steep)
    return x + each(amount) * fallen / fallen.mean((2, 3), keepdim=True).clamp(min=1e-3)


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
        ),
        ((0.3, 0.8), (0.6, 0.6)),
        family="veil",
        varying=0.3,
    ),
    Kind(
        "falling flakes",
        _fall,
        (
            Knob("amount", "{:.2f} brighter", 0.01, 1),
            Knob("length", "in streaks of {:.1f} pixels", 0.5, 40, varies=False),
        ),
        ((0.1, 4), (0.3, 12)),
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
