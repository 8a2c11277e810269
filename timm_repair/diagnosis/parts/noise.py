"""What a sensor adds: noise of several kinds."""

import torch
from torch import Tensor
from torch.nn import functional as F

from timm_repair.diagnosis.draws import Draws
from timm_repair.diagnosis.parts.part import Kind, Knob, each


def _white(x: Tensor, draws: Draws) -> Tensor:
    return draws.normal("noise", *x.shape[1:])


def _gaussian(x: Tensor, draws: Draws, sigma: Tensor) -> Tensor:
    return x + each(sigma) * _white(x, draws)


def _shot(x: Tensor, draws: Draws, photons: Tensor) -> Tensor:
    most = each(photons)
    counts = x * most + (x * most).sqrt() * _white(x, draws)
    return counts.round() / most  # a photon is there or not: dark pixels have few levels


def _speckle(x: Tensor, draws: Draws, sigma: Tensor) -> Tensor:
    return x + each(sigma) * x * _white(x, draws)


def _luminance(x: Tensor, draws: Draws, sigma: Tensor) -> Tensor:
    return x + each(sigma) * draws.normal("luminance", 1, *x.shape[2:])


def _coarse(x: Tensor, draws: Draws, sigma: Tensor) -> Tensor:
    height, width = x.shape[-2:]
    small = draws.normal("coarse", x.shape[1], max(2, height // 3), max(2, width // 3))
    large = F.interpolate(small, size=(height, width), mode="bilinear", align_corners=False)
    return x + each(sigma) * 1.5 * large


def _impulse(x: Tensor, draws: Draws, share: Tensor) -> Tensor:
    drawn = draws.uniform("impulse", *x.shape[1:])
    half = each(share) / 2
    x = torch.where(drawn < half, torch.zeros_like(x), x)
    return torch.where(drawn > 1 - half, torch.ones_like(x), x)


def _salt(x: Tensor, draws: Draws, share: Tensor) -> Tensor:
    drawn = draws.uniform("salt", 1, *x.shape[2:])
    half = each(share) / 2
    x = torch.where(drawn < half, torch.zeros_like(x), x)
    return torch.where(drawn > 1 - half, torch.ones_like(x), x)


KINDS = (
    Kind("Gaussian noise", _gaussian, (Knob("", "σ {:.3f}", 0.003, 1),), ((0.05,), (0.2,)),
         family="noise"),
    Kind("shot noise", _shot, (Knob("", "of {:.0f} photons", 1, 5000),), ((120,), (20,)),
         family="noise"),
    Kind("speckle noise", _speckle, (Knob("", "σ {:.2f}", 0.005, 2),), ((0.1,), (0.4,)),
         family="noise"),
    Kind("luminance noise", _luminance, (Knob("", "σ {:.3f}", 0.003, 1),), ((0.06,),),
         family="noise"),
    Kind("coarse noise", _coarse, (Knob("", "σ {:.3f}", 0.003, 1),), ((0.05,), (0.15,)),
         family="noise"),
    Kind("impulse noise", _impulse, (Knob("", "on {:.1%} of the values", 0.001, 0.9),),
         ((0.03,), (0.1,)), family="noise"),
    Kind("salt and pepper", _salt, (Knob("", "on {:.1%} of the pixels", 0.001, 0.9),),
         ((0.03,), (0.1,)), family="noise"),
)  # fmt: skip
