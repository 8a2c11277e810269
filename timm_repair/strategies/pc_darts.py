"""PC-DARTS (Xu et al., ICLR 2020), the paper's choice: partial channels, edge normalization, warm-up of the weights.

PC-DARTS sends the channels it does not sample past the operation by identity. Here that bypass is the raw layer's own input, and the
sampled slice rotates from node to node instead of shuffling channels: a shuffle would permute what the inherited weights expect.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from timm_repair.errors import OptionError
from timm_repair.options import check_types


@dataclass(frozen=True, kw_only=True)
class PCDarts:
    """See `Strategy`. Defaults are PC-DARTS's own where a repair's few steps allow: 1/4 of the channels, 30 % warm-up."""

    partial: int = 4
    edge_normalization: bool = True
    warmup: float = 0.3
    learning_rate: float | None = None

    def __post_init__(self):
        check_types(self)
        if self.partial < 1 or not 0 <= self.warmup < 1 or (self.learning_rate or 1.0) <= 0:
            raise OptionError("partial is at least 1, warmup a share from 0 to below 1, learning_rate positive or None")

    def weights(self, alpha: Tensor, *, progress: float, generator: torch.Generator) -> Tensor:
        return torch.softmax(alpha, 1)
