"""SNAS (Xie et al., ICLR 2019): architectures are sampled by a softmax of α with Gumbel noise,
which cools to one operation; weights and α follow the loss of the same batch.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from timm_repair.architecture.strategies.strategy import (
    cooled,
    gumbel,
    likeliest,
    require_temperatures,
)
from timm_repair.options import check_types


@dataclass(frozen=True, kw_only=True)
class Snas:
    """See `Strategy`. w = softmax((α + G) / T), T falling linearly from `hottest` to `coldest`; the
    paper's are 1 and 0.03.
    """

    partial: int = 4
    edge_normalization: bool = False
    warmup: float = 0.1
    learning_rate: float | None = None
    hottest: float = 1.0
    coldest: float = 0.03
    joint: bool = True

    def __post_init__(self):
        check_types(self)
        require_temperatures(self.hottest, self.coldest)

    def temperature(self, progress: float) -> float:
        return cooled(self.hottest, self.coldest, progress)

    def weights(self, alpha: Tensor, *, progress: float, generator: torch.Generator) -> Tensor:
        return torch.softmax((alpha + gumbel(alpha, generator)) / self.temperature(progress), 1)

    def final(self, alpha: Tensor) -> Tensor:
        """The operation that it cools to."""
        return likeliest(alpha)
