"""DARTS (Liu et al., ICLR 2019), first order: softmax over α, all channels, no edge normalization."""

from dataclasses import dataclass

import torch
from torch import Tensor

from timm_repair.errors import OptionError
from timm_repair.options import check_types


@dataclass(frozen=True, kw_only=True)
class Darts:
    """See `Strategy`. DARTS has no warm-up; here gates start at zero and α has no gradient until they open, so a short one is kept."""

    partial: int = 1
    edge_normalization: bool = False
    warmup: float = 0.1
    learning_rate: float | None = None

    def __post_init__(self):
        check_types(self)
        if self.partial < 1 or not 0 <= self.warmup < 1 or (self.learning_rate or 1.0) <= 0:
            raise OptionError("partial is at least 1, warmup a share from 0 to below 1, learning_rate positive or None")

    def weights(self, alpha: Tensor, *, progress: float, generator: torch.Generator) -> Tensor:
        return torch.softmax(alpha, 1)
