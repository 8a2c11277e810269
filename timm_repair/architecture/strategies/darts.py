"""DARTS (Liu et al., ICLR 2019), first order: softmax over α, all channels, no edge
normalization.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from timm_repair.architecture.strategies.strategy import require_not_negative
from timm_repair.options import check_types


@dataclass(frozen=True, kw_only=True)
class Darts:
    """See `Strategy`. DARTS has no warm-up; here gates start at zero and α has no gradient until
    they open, so a short one is kept.

    Args:
        decay: β-decay (Ye et al., CVPR 2022): weight, at the end of the search, of the mean over
            edges of log Σ exp α, which keeps α from running apart; it grows from zero. The paper's
            is 50; 0 leaves it out.
    """

    partial: int = 1
    edge_normalization: bool = False
    warmup: float = 0.1
    learning_rate: float | None = None
    decay: float = 0.0

    def __post_init__(self):
        check_types(self)
        require_not_negative(decay=self.decay)

    def weights(self, alpha: Tensor, *, progress: float, generator: torch.Generator) -> Tensor:
        return torch.softmax(alpha, 1)

    def penalty(self, alpha: Tensor, *, progress: float) -> Tensor | None:
        return self.decay * progress * alpha.logsumexp(1).mean() if self.decay else None
