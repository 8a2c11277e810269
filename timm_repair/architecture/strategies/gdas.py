"""GDAS (Dong and Yang, CVPR 2019): one operation of every edge is sampled, and α learns through the
probabilities that it was sampled by.

The paper runs the sampled operation alone. Here all run, and those that were not sampled count for
nothing: it saves no time, and α learns what each of them would have done.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from timm_repair.architecture.strategies.strategy import require_temperatures
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
        return self.hottest + progress * (self.coldest - self.hottest)

    def weights(self, alpha: Tensor, *, progress: float, generator: torch.Generator) -> Tensor:
        noise = -torch.empty(alpha.shape).exponential_(generator=generator).log().to(alpha)
        soft = torch.softmax((alpha.log_softmax(1) + noise) / self.temperature(progress), 1)
        hard = F.one_hot(soft.argmax(1), alpha.shape[1]).to(alpha)
        return hard + (soft - soft.detach())

    def final(self, alpha: Tensor) -> Tensor:
        """The operation that is sampled the most often."""
        return F.one_hot(alpha.argmax(1), alpha.shape[1]).to(alpha)
