"""DARTS (Liu et al., ICLR 2019), first order: softmax over α, all channels, no edge
normalization.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Darts:
    """See `Strategy`. DARTS has no warm-up; here gates start at zero and α has no gradient until
    they open, so a short one is kept.
    """

    partial: int = 1
    edge_normalization: bool = False
    warmup: float = 0.1
    learning_rate: float | None = None

    def weights(self, alpha: Tensor, *, progress: float, generator: torch.Generator) -> Tensor:
        return torch.softmax(alpha, 1)
