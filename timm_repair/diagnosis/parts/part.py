"""What a part of a pattern is: a function of images with a few strengths that have names and
units.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from timm_repair.diagnosis.draws import Draws


@dataclass(frozen=True)
class Knob:
    """One strength of a part.

    Args:
        name: what it is; empty where the part has only one and its name says it.
        words: a format of its value for a reader, as "σ {:.3f}".
        low, high: between which it lies.
        step: None for a strength that is fitted in relative steps and varies over images by a
            factor; else its natural step, and it varies by a sum.
        varies: whether it may differ between images by a spread of its own.
    """

    name: str
    words: str
    low: float
    high: float
    step: float | None = None
    varies: bool = True

    def inner(self, value: float) -> float:
        """`value` as the coordinate that a fit moves by about 1."""
        return math.log(max(value, self.low)) if self.step is None else value / self.step

    def outer(self, coordinate: float) -> float:
        """The way back, within the bounds."""
        value = math.exp(min(coordinate, 50)) if self.step is None else coordinate * self.step
        return float(min(max(value, self.low), self.high))

    def per_image(self, value: float, spread: float, draw: Tensor) -> Tensor:
        """(N,) strengths around `value`, from `draw` (N,) of variance 1."""
        if self.step is None:
            found = value * (spread * draw).exp()
        else:
            found = value + spread * draw
        return found.clamp(self.low, self.high)


@dataclass(frozen=True)
class Kind:
    """One kind of part.

    Args:
        name: the field's term.
        act: images (N, C, H, W) from 0 to 1, draws, and a strength (N,) a knob to images; they
            may leave the range, which is clamped after each part.
        knobs: its strengths.
        starts: where a fit begins, one or several.
        colour: it needs three channels.
        varying: how much it is taken to vary over images before that is fitted: weather is never
            the same.
        family: what kinds that may be taken for each other have in common.
    """

    name: str
    act: Callable[..., Tensor]
    knobs: tuple[Knob, ...]
    starts: tuple[tuple[float, ...], ...]
    colour: bool = False
    family: str = ""
    varying: float = 0.0

    def __call__(self, x: Tensor, draws: Draws, *strengths: Tensor) -> Tensor:
        return self.act(x, draws, *strengths).clamp(0, 1)


def each(strength: Tensor) -> Tensor:
    """(N,) as (N, 1, 1, 1)."""
    return strength.view(-1, 1, 1, 1)


def luma(x: Tensor) -> Tensor:
    """(N, 1, H, W): the brightness that the eye sees."""
    if x.shape[1] == 1:
        return x
    return (x * x.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, keepdim=True)
