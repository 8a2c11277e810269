"""PC-DARTS (Xu et al., ICLR 2020), the paper's choice: partial channels, edge normalization,
warm-up of the weights.

PC-DARTS sends the channels it does not sample past the operation by identity. Here that bypass is
the raw layer's own input, and the sampled slice rotates from node to node instead of shuffling
channels: a shuffle would permute what the inherited weights expect.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from timm_repair.architecture.strategies.strategy import require_not_negative
from timm_repair.options import check_types


@dataclass(frozen=True, kw_only=True)
class PCDarts:
    """See `Strategy`. Defaults are PC-DARTS's own where a repair's few steps allow: 1/4 of the
    channels, 30 % warm-up.

    Args:
        decay: β-decay (Ye et al., CVPR 2022): weight, at the end of the search, of the mean over
            edges of log Σ exp α, which keeps α from running apart; it grows from zero. The paper's
            is 50; 0 leaves it out.
    """

    partial: int = 4
    edge_normalization: bool = True
    warmup: float = 0.3
    learning_rate: float | None = None
    decay: float = 0.0

    def __post_init__(self):
        check_types(self)
        require_not_negative(decay=self.decay)

    def weights(self, alpha: Tensor, *, progress: float, generator: torch.Generator) -> Tensor:
        return torch.softmax(alpha, 1)

    def penalty(self, alpha: Tensor, *, progress: float) -> Tensor | None:
        return self.decay * progress * alpha.logsumexp(1).mean() if self.decay else None
