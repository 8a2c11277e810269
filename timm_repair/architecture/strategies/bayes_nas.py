"""BayesNAS (Zhou et al., ICML 2019): operations and edges have switches with a sparse prior, and
what the data do not hold open shuts.

The paper's Hessian is computed layer by layer. Here it is the diagonal of the empirical Fisher
information of the switches: the mean of their squared gradients.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from timm_repair.architecture.operations import CANDIDATES
from timm_repair.errors import OptionError
from timm_repair.options import check_types

NONE = CANDIDATES.index("none")
_NOTHING = 1e-12  # curvature below which the data say nothing of a switch


@dataclass(frozen=True, kw_only=True)
class BayesNas:
    """See `Strategy`. w = s · s_edge / 5 with free switches s = 1 + α; an edge's own is in the
    place of "none", which needs no weight.

    Args:
        sparsity: λ, weight of the prior.
        every: steps of α after which the prior is estimated anew.
        threshold: an operation of a smaller prior variance is left out.
    """

    partial: int = 4
    edge_normalization: bool = False
    warmup: float = 0.1
    learning_rate: float | None = None
    joint: bool = True
    sparsity: float = 0.001
    every: int = 10
    threshold: float = 0.1

    def __post_init__(self):
        check_types(self)
        if self.sparsity <= 0 or self.every < 1 or self.threshold <= 0:
            raise OptionError("sparsity, every and threshold must be positive")

    def weights(self, alpha: Tensor, *, progress: float, generator: torch.Generator) -> Tensor:
        switches = 1 + alpha
        weights = switches * switches[:, NONE : NONE + 1] / (alpha.shape[1] - 1)
        return weights * (torch.arange(alpha.shape[1], device=alpha.device) != NONE)

    def prior(self, alpha: Tensor) -> "SparsePrior":
        """What is learnt of the switches beside them."""
        return SparsePrior(self, alpha)


class SparsePrior(nn.Module):
    """The prior variances γ of the switches (E, 6), and the weights ω of their absolute values.

    γ = |s| / ω,   C = 1 / (1/γ + H/λ),   ω = sqrt(1/γ - C/γ²) = sqrt(H / (λ + γ H))
    """

    omega: Tensor
    gamma: Tensor
    squares: Tensor
    seen: Tensor

    def __init__(self, options: BayesNas, alpha: Tensor):
        super().__init__()
        self.options = options
        self.register_buffer("omega", torch.ones_like(alpha.detach()))
        self.register_buffer("gamma", (1 + alpha.detach()).abs())
        self.register_buffer("squares", torch.zeros_like(alpha.detach()))
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))

    def penalty(self, alpha: Tensor) -> Tensor:
        """λ Σ ω |s|."""
        return self.options.sparsity * (self.omega * (1 + alpha).abs()).sum()

    @torch.no_grad()
    def observe(self, alpha: Tensor, gradient: Tensor, examples: int) -> None:
        """Take in the gradient of a step, of loss and penalty over so many examples; estimate γ and
        ω anew when it is time to. Where the data say nothing of a switch its ω stays.
        """
        switches, options = 1 + alpha, self.options
        of_loss = gradient - options.sparsity * self.omega * switches.sign()
        # of a mean over examples: the variance of one is so many times larger
        self.squares += examples * of_loss.square()
        self.seen += 1
        if int(self.seen) % options.every:
            return
        curvature = self.squares / options.every
        self.squares.zero_()
        self.gamma.copy_(switches.abs() / self.omega)
        omega = (curvature / (options.sparsity + self.gamma * curvature)).sqrt()
        self.omega.copy_(torch.where(curvature > _NOTHING, omega, self.omega))

    def chosen(self, alpha: Tensor) -> Tensor:
        """(E,) number of each edge's operation: the strongest of those that are left open, whose
        variance with that of the edge, 1 / (1/γ + 1/γ_edge), is not below the threshold; none where
        there are none.
        """
        switches = (1 + alpha).abs()
        gamma = switches / self.omega.clamp(min=_NOTHING)
        whole = 1 / (1 / gamma + 1 / gamma[:, NONE : NONE + 1])
        strength = torch.where(whole >= self.options.threshold, switches, 0.0)
        strength[:, NONE] = _NOTHING
        return strength.argmax(1)
