"""DrNAS (Chen et al., ICLR 2021): the weights of an edge's operations are drawn from a Dirichlet
distribution, whose concentrations are learnt.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Dirichlet, kl_divergence
from torch.nn import functional as F

from timm_repair.architecture.operations import CANDIDATES, NONE_PRIOR
from timm_repair.architecture.strategies.strategy import require_not_negative
from timm_repair.options import check_types
from timm_repair.runtime.randomness import own_randomness


@dataclass(frozen=True, kw_only=True)
class DrNas:
    """See `Strategy`. w ~ Dirichlet(elu(α) + 1), differentiated through the sample; `divergence` is
    the weight of its distance from that at the beginning, the paper's 0.001.

    The paper widens partial channels in two stages and prunes operations in between; here it is one
    stage.
    """

    partial: int = 4
    edge_normalization: bool = True
    warmup: float = 0.3
    learning_rate: float | None = None
    divergence: float = 1e-3

    def __post_init__(self):
        check_types(self)
        require_not_negative(divergence=self.divergence)

    def weights(self, alpha: Tensor, *, progress: float, generator: torch.Generator) -> Tensor:
        seed = int(torch.randint(2**62, (), generator=generator))
        with own_randomness(seed):  # torch's distributions know no generator
            drawn = _distribution(alpha.cpu()).rsample()
        return drawn.to(alpha)

    def penalty(self, alpha: Tensor, *, progress: float) -> Tensor:
        """KL to the distribution that the search begins with, the mean over edges: the uniform one
        but for the lead of "none", which would be lost on edges that matter to nothing.
        """
        none = torch.arange(alpha.shape[1], device=alpha.device) == CANDIDATES.index("none")
        first = Dirichlet((1 + NONE_PRIOR * none).expand_as(alpha))
        return self.divergence * kl_divergence(_distribution(alpha), first).mean()

    def final(self, alpha: Tensor) -> Tensor:
        """Their mean."""
        return _distribution(alpha).mean


def _distribution(alpha: Tensor) -> Dirichlet:
    return Dirichlet(F.elu(alpha.float()) + 1)
