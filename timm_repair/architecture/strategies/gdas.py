"""GDAS (Dong and Yang, CVPR 2019): one operation of every edge is sampled, and α learns through the
probabilities that it was sampled by.

The paper runs the sampled operation alone. Here all run, and those that were not sampled count for
nothing: it saves no time, and α learns what each of them would have done.
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
class Gdas:
    """See `Strategy`. w is one at the argmax of softmax((log softmax α + G) / τ) and zero
    elsewhere, with the gradient of that softmax; τ falls linearly from `hottest` to `coldest`, the
    paper's 10 and 0.1.
    """

    partial: int = 4
    edge_normalization: bool = False
    warmup: float = 0.1
    learning_rate: float | None = None
    hottest: float = 10.0
    coldest: float = 0.1

    def __post_init__(self):
        check_types(self)
        require_temperatures(self.hottest, self.coldest)

    def temperature(self, progress: float) -> float:
        return cooled(self.hottest, self.coldest, progress)

    def weights(self, alpha: Tensor, *, progress: float, generator: torch.Generator) -> Tensor:
        noisy = alpha.log_softmax(1) + gumbel(alpha, generator)
        soft = torch.softmax(noisy / self.temperature(progress), 1)
        hard = likeliest(soft)
        return hard + (soft - soft.detach())

    def final(self, alpha: Tensor) -> Tensor:
        """The operation that is sampled the most often."""
        return likeliest(alpha)
