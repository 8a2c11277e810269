"""PC-DARTS (Xu et al., ICLR 2020), the paper's choice: partial channels, edge normalization,
warm-up of the weights.

PC-DARTS sends the channels it does not sample past the operation by identity. Here that bypass is
the raw layer's own input, and the sampled slice rotates from node to node instead of shuffling
channels: a shuffle would permute what the inherited weights expect.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class PCDarts:
    """See `Strategy`. Defaults are PC-DARTS's own where a repair's few steps allow: 1/4 of the
    channels, 30 % warm-up.
    """

    partial: int = 4
    edge_normalization: bool = True
    warmup: float = 0.3
    learning_rate: float | None = None

    def weights(self, alpha: Tensor, *, progress: float, generator: torch.Generator) -> Tensor:
        return torch.softmax(alpha, 1)
