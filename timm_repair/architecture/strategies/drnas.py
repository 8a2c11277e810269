"""DrNAS (Chen et al., ICLR 2021): the weights of an edge's operations are drawn from a Dirichlet
distribution, whose concentrations are learnt.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Dirichlet, kl_divergence
from torch.nn import functional as F

from timm_repair.errors import OptionError
from timm_repair.runtime.randomness import own_randomness


@dataclass(frozen=True, kw_only=True)
class DrNas:
    """See `Strategy`. w ~ Dirichlet(elu(α) + 1), differentiated through the sample; `divergence` is
    the weight of its distance from the uniform distribution, the paper's 0.001.

    The paper widens partial channels in two stages and prunes operations in between; here it is one
    stage.
    """

    partial: int = 4
    edge_normalization: bool = True
    warmup: float = 0.3
    learning_rate: float | None = None
    divergence: float = 1e-3

    def __post_init__(self):
        if self.divergence < 0:
            raise OptionError(f"divergence must not be negative, got {self.divergence}")

    def weights(self, alpha: Tensor, *, progress: float, generator: torch.Generator) -> Tensor:
        seed = int(torch.randint(2**62, (), generator=generator))
        with own_randomness(seed):  # torch's distributions know no generator
            drawn = _distribution(alpha.cpu()).rsample()
        return drawn.to(alpha)

    def penalty(self, alpha: Tensor, *, progress: float) -> Tensor:
        """KL to the uniform Dirichlet distribution, the mean over edges."""
        own = _distribution(alpha)
        uniform = Dirichlet(torch.ones_like(alpha))
        return self.divergence * kl_divergence(own, uniform).mean()

    def final(self, alpha: Tensor) -> Tensor:
        """Their mean."""
        return _distribution(alpha).mean


def _distribution(alpha: Tensor) -> Dirichlet:
    return Dirichlet(F.elu(alpha.float()) + 1)
