"""Strategy: what the search asks of a strategy."""

from typing import Protocol

import torch
from torch import Tensor


class Strategy(Protocol):
    """What `search.search` and `relaxation.RelaxedBlock` ask of a strategy.

    Attributes:
        partial: operations see 1/partial of the channels.
        edge_normalization: weigh the edges into a node by a softmax over β.
        warmup: share of the search during which only weights are trained; at least one step, where
            it is not 0.
        learning_rate: of α and β, for Adam; None scales it so that α can move by about 2 in the
            steps there are.
    """

    partial: int
    edge_normalization: bool
    warmup: float
    learning_rate: float | None

    def weights(self, alpha: Tensor, *, progress: float, generator: torch.Generator) -> Tensor:
        """Operation weights (E, 6) from α (E, 6); `progress` runs from 0 to 1 through the
        search.
        """
        ...
