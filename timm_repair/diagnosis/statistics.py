"""Statistics of single images, in which a fit compares populations and a classifier tells them
apart: colours, spectrum by scale and direction, noise by brightness, edges of blocks, layout, and
the model's first maps.
"""

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

from timm_repair.diagnosis.parts.part import luma

_BANDS, _SECTORS = 7, 8
_NOISE_BINS = 6
_LEVELS = (0.1, 0.25, 0.4, 0.6, 0.75, 0.9)


class Statistics:
    """Images (N, C, H, W) from 0 to 1 to numbers (N, D), float32.

    Args:
        shape: of one image.
        maps: the model's first maps, see `early.first_maps`.
        device: where the images are.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        maps: Callable[[Tensor], Tensor] | None = None,
        device: torch.device | str | None = None,
    ):
        _, height, width = shape
        self.maps, self.pixels = maps, height * width
        fy, fx = torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width)[None]
        radius = torch.hypot(fy, fx)
        edges = torch.logspace(math.log10(1 / min(height, width)), math.log10(0.5), _BANDS + 1)
        band = torch.bucketize(radius, edges[1:-1])
        angle = torch.atan2(fy.expand_as(radius), fx.expand_as(radius)).remainder(math.pi)
        sector = (angle * _SECTORS / math.pi).round().long() % _SECTORS
        weight = (radius > 0).float().flatten()
        self.bands = _averaging(band.flatten(), weight, _BANDS).to(device)
        sectors = _averaging((band * _SECTORS + sector).flatten(), weight, _BANDS * _SECTORS)
        self.sectors = sectors[:, sectors.any(0)].to(device)

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        x = (x.clamp(0, 1) * 255).round() / 255  # as it would be stored
        light = luma(x)
        found = [*self._colours(x), *self._spectra(x, light), *_noise(x, light)]
        found += [_flatness(x), *_blocks(x), *_brightness(x, light), *_layout(light)]
        if self.maps is not None:
            maps = self.maps(x)
            found += [maps.mean((2, 3)), _log(_std(maps), 1e-2)]
        return torch.cat(found, 1)

    def _colours(self, x: Tensor) -> list[Tensor]:
        found = [x.mean((2, 3)), _log(_std(x), 1e-3)]
        if x.shape[1] == 3:
            chroma = x.amax(1) - x.amin(1)
            found += [chroma.mean((1, 2))[:, None], (chroma < 0.02).float().mean((1, 2))[:, None]]
            centred = x - x.mean((2, 3), keepdim=True)
            scale = centred.square().mean((2, 3)).add(1e-6).sqrt()
            pairs = [(centred[:, i] * centred[:, j]).mean((1, 2)) / (scale[:, i] * scale[:, j])
                     for i, j in ((0, 1), (1, 2), (0, 2))]  # fmt: skip
            # how closely channels go together, as Fisher's z: colours and noise of each channel
            found.append(torch.atanh(torch.stack(pairs, 1).clamp(-0.999, 0.999)) / 3)
        return found

    def _spectra(self, x: Tensor, light: Tensor) -> list[Tensor]:
        found = [_log(self._power(light[:, 0]) @ self.sectors, 1e-5)]
        if x.shape[1] == 3:
            for other in (0, 2):
                opponent = x[:, other] - x[:, 1]
                found.append(_log(self._power(opponent) @ self.bands, 1e-5))
                found.append(opponent.mean((1, 2))[:, None])
        return found

    def _power(self, plane: Tensor) -> Tensor:
        return torch.fft.rfft2(plane).abs().square().flatten(1) / self.pixels


def _averaging(index: Tensor, weight: Tensor, bins: int) -> Tensor:
    """(values, bins): the matrix that takes the mean of the values of each bin."""
    chosen = F.one_hot(index, bins).float() * weight[:, None]
    return chosen / chosen.sum(0).clamp(min=1)


def _std(x: Tensor) -> Tensor:
    """(N, C) over the pixels; torch's own takes several times as long."""
    return (x.square().mean((2, 3)) - x.mean((2, 3)).square()).clamp(min=0).sqrt()


def _log(x: Tensor, floor: float) -> Tensor:
    return (x + floor).log()


def _noise(x: Tensor, light: Tensor) -> list[Tensor]:
    """What is left of fine detail: how much, how peaked, and how it depends on the brightness
    around, which tells kinds of noise apart.
    """
    # Immerkaer's kernel: blind to flat and to evenly sloping surfaces
    fine = x.diff(n=2, dim=2).diff(n=2, dim=3) / 6
    size = fine.abs()
    square = size.square()
    l1, l2 = size.mean((1, 2, 3)), square.mean((1, 2, 3))
    l4 = square.square().mean((1, 2, 3))
    found = [torch.stack([_log(l1, 1e-3), _log(l2, 1e-5), _log(l4 / (l2**2 + 1e-9), 1.0)], 1)]
    around = F.avg_pool2d(light, 3, 1)[:, 0].flatten(1)
    size = size.mean(1).clamp(max=0.3).flatten(1)  # single wild pixels say nothing of the rest
    edges = torch.linspace(0, 1, _NOISE_BINS + 1).tolist()
    inside = [((around >= a) & (around < b)).float() for a, b in pairwise([*edges[:-1], 1.1])]
    few = 0.01 * size.shape[1]  # drawn to the image's own mean where a bin has few pixels
    mean = size.mean(1)
    sizes = [((size * each).sum(1) + few * mean) / (each.sum(1) + few) for each in inside]
    return [*found, _log(torch.stack(sizes, 1), 2e-3)]


def _flatness(x: Tensor) -> Tensor:
    across, down = (x.diff(dim=d).abs() for d in (3, 2))
    flat = [(d < 0.003).float().mean((1, 2, 3)) for d in (across, down)]
    strong = [(d > 0.25).float().mean((1, 2, 3)) for d in (across, down)]
    skew = [_log(d.square().mean((1, 2, 3)), 1e-5) for d in (across, down)]
    return torch.stack(flat + strong + skew, 1)


def _blocks(x: Tensor) -> list[Tensor]:
    """How much larger steps are at the borders of blocks of 8 pixels, and that the fewest levels
    are used.
    """
    found = []
    for dim in (3, 2):
        steps = x.diff(dim=dim).abs().mean((1, 5 - dim))
        border = torch.arange(1, x.shape[dim], device=x.device) % 8 == 0
        if border.any():
            found.append(
                _log(steps[:, border].mean(1), 1e-3) - _log(steps[:, ~border].mean(1), 1e-3)
            )
    levels = (x[:, 0] * 255).round().long().flatten(1)
    used = torch.zeros(len(x), 256, device=x.device).scatter_(1, levels, 1.0).mean(1)
    found.append(_log(used, 0.01))
    return [torch.stack(found, 1)]


def _brightness(x: Tensor, light: Tensor) -> list[Tensor]:
    flat = light.flatten(1)
    # shares below some levels, with soft edges: steps would not tell a fit which way to go
    below = [((level - flat) * 8 + 0.5).clamp(0, 1).mean(1) for level in _LEVELS]
    ends = [(x < 0.01), (x > 0.99)]
    ends = [flat.amin(1), flat.amax(1), *(end.float().mean((1, 2, 3)) for end in ends)]
    return [torch.stack(below + ends, 1)]


def _layout(light: Tensor) -> list[Tensor]:
    """Where it is bright, where there is contrast, where there is detail, and whether edges point
    to the centre.
    """
    mean = F.adaptive_avg_pool2d(light, 3).flatten(1)
    coarse = F.adaptive_avg_pool2d(light, 4)
    variance = F.adaptive_avg_pool2d(light.square(), 4) - coarse.square()
    across, down = light[..., :-1, :].diff(dim=3), light[..., :-1].diff(dim=2)
    detail = F.adaptive_avg_pool2d(across.abs() + down.abs(), 3).flatten(1)
    detail = _log(detail, 2e-3)
    lines = (torch.linspace(-1, 1, side, device=light.device) for side in across.shape[-2:])
    yy, xx = torch.meshgrid(*lines, indexing="ij")
    radius = torch.hypot(yy, xx).clamp(min=1e-6)
    outer = (radius > 0.5).float()
    outward = ((across * xx + down * yy) / radius * outer).abs().mean((1, 2, 3))
    around = ((down * xx - across * yy) / radius * outer).abs().mean((1, 2, 3))
    return [
        mean - mean.mean(1, keepdim=True),
        _log(variance.clamp(min=0).flatten(1), 1e-4),
        detail - detail.mean(1, keepdim=True),
        (_log(outward, 2e-3) - _log(around, 2e-3))[:, None],
    ]
