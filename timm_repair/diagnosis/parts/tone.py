"""How bright and how coloured: exposure, contrast, colours, and the order of the channels."""

import math

import torch
from torch import Tensor

from timm_repair.diagnosis.draws import Draws
from timm_repair.diagnosis.parts.part import Kind, Knob, each, luma


def _brighten(x: Tensor, draws: Draws, more: Tensor) -> Tensor:
    value = x.amax(1, keepdim=True)  # V of HSV; hue and saturation stay
    return x * (value + each(more)).clamp(0, 1) / value.clamp(min=1 / 255)


def _shift(x: Tensor, draws: Draws, *levels: Tensor) -> Tensor:
    return x + torch.stack(levels, 1)[..., None, None]


def _expose(x: Tensor, draws: Draws, factor: Tensor) -> Tensor:
    return x * each(factor)


def _gamma(x: Tensor, draws: Draws, exponent: Tensor) -> Tensor:
    return x.clamp(min=1e-4) ** each(exponent)


def _contrast(x: Tensor, draws: Draws, factor: Tensor) -> Tensor:
    mean = x.mean((2, 3), keepdim=True)
    return mean + (x - mean) * each(factor)


def _levels(x: Tensor, draws: Draws, low: Tensor, high: Tensor) -> Tensor:
    return each(low) + each(high - low) * x


def _solarize(x: Tensor, draws: Draws, above: Tensor) -> Tensor:
    return torch.where(x > each(above), 1 - x, x)


def _grey(x: Tensor, draws: Draws) -> Tensor:
    return luma(x).expand_as(x)


def _saturate(x: Tensor, draws: Draws, factor: Tensor) -> Tensor:
    grey = luma(x)
    return grey + (x - grey) * each(factor)


def _hue(x: Tensor, draws: Draws, degrees: Tensor) -> Tensor:
    angle, third = torch.deg2rad(degrees), math.pi * 2 / 3  # about the grey axis
    weights = [(1 + 2 * (angle + third * k).cos()) / 3 for k in range(3)]
    rows = [torch.stack([weights[(i - j) % 3] for j in range(3)], 1) for i in range(3)]
    return torch.einsum("nij,njhw->nihw", torch.stack(rows, 1), x)


KINDS = (
    Kind("inverted", lambda x, draws: 1 - x, (), ((),), family="inverted"),
    Kind(
        "channels swapped", lambda x, draws: x.flip(1), (), ((),), colour=True, family="channels"
    ),
    Kind("hue", _hue, (Knob("", "turned by {:+.0f}°", -180, 180, 20),), ((40,), (-40,)), True,
         family="colour"),
    Kind("no colour", _grey, (), ((),), True, family="colour"),
    Kind("saturation", _saturate, (Knob("", "× {:.2f}", 0.1, 20),), ((0.4,), (2,)), True,
         family="colour"),
    Kind(
        "colour cast",
        _shift,
        tuple(Knob(name, name + " {:+.2f}", -0.6, 0.6, 0.1) for name in ("red", "green", "blue")),
        ((0.05, 0.0, -0.05),),
        True,
        family="colour",
    ),
    Kind("exposure", _expose, (Knob("", "× {:.2f}", 0.03, 8),), ((0.5,), (1.6,)), family="tone"),
    Kind("gamma", _gamma, (Knob("", "{:.2f}", 0.1, 6),), ((0.6,), (1.8,)), family="tone"),
    Kind("brightness", _brighten, (Knob("", "{:+.2f}", -0.9, 0.9, 0.1),), ((0.15,), (-0.15,)),
         family="tone"),
    Kind("solarization", _solarize, (Knob("", "above {:.2f}", 0.02, 0.98, 0.3),),
         ((0.25,), (0.4,), (0.5,), (0.6,), (0.75,)), family="inverted"),
    Kind("contrast", _contrast, (Knob("", "× {:.2f}", 0.01, 8),), ((0.75,), (0.3,), (1.5,)),
         family="contrast"),
    Kind(
        "levels",
        _levels,
        (Knob("low", "from {:.2f}", -0.5, 0.9, 0.1), Knob("high", "to {:.2f}", 0.05, 2, 0.1)),
        ((0.2, 0.8), (0.05, 0.95)),
        family="contrast",
    ),
)  # fmt: skip
