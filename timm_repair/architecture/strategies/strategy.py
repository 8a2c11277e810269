"""Strategy: what the search asks of a strategy, and what a strategy may have besides."""

from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from timm_repair.errors import OptionError


class Strategy(Protocol):
    """What `search.search` and `relaxation.RelaxedBlock` ask of a strategy.

    Attributes:
        partial: operations see 1/partial of the channels.
        edge_normalization: weigh the edges into a node by a softmax over β.
        warmup: share of the search during which only weights are trained; at least one step, where
            it is not 0.
        learning_rate: of α and β, for Adam; None scales it so that α can move by about 2 in the
            steps there are.

    It may have besides, see the functions below: `joint`, `penalty`, `final`, `prior`.
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


def require_temperatures(hottest: float, coldest: float) -> None:
    """Raise OptionError where a search cannot cool from the one to the other."""
    if not 0 < coldest <= hottest:
        raise OptionError(
            f"a search cools from hottest={hottest} to coldest={coldest}: both must be positive,"
            " and hottest the larger"
        )


def cooled(hottest: float, coldest: float, progress: float) -> float:
    """The temperature, falling linearly."""
    return hottest + progress * (coldest - hottest)


def gumbel(alpha: Tensor, generator: torch.Generator) -> Tensor:
    """Gumbel noise for each of α (E, 6)."""
    return -torch.empty(alpha.shape).exponential_(generator=generator).log().to(alpha)


def likeliest(alpha: Tensor) -> Tensor:
    """One at the largest of each row of α (E, 6), zero elsewhere."""
    return F.one_hot(alpha.argmax(1), alpha.shape[1]).to(alpha)


def require_not_negative(**values: float) -> None:
    """Raise OptionError where one is."""
    for name, value in values.items():
        if value < 0:
            raise OptionError(f"{name} must not be negative, got {value}")


def joint(strategy: Strategy) -> bool:
    """Whether weights and α follow the loss of the same batch in one step (single-level), by the
    attribute `joint`; without it they take turns on disjoint parts of the data (bi-level).
    """
    return bool(getattr(strategy, "joint", False))


def penalty(strategy: Strategy, alpha: Tensor, progress: float) -> list[Tensor]:
    """What is added to the loss of a step that moves α (E, 6), by `penalty(alpha, progress=)`;
    empty without it, or where that gives None.
    """
    own = getattr(strategy, "penalty", None)
    value = None if own is None else cast(Any, own)(alpha, progress=progress)
    return [] if value is None else [value]


def prior(strategy: Strategy, alpha: Tensor) -> nn.Module | None:
    """What is learnt beside α (E, 6), by `prior(alpha)`: a module whose buffers are part of the
    search, with `penalty(alpha)`, `observe(alpha, gradient, examples)` after each step that moves α
    and `chosen(alpha)`, the operation of each edge (E,). None without it.
    """
    own = getattr(strategy, "prior", None)
    return None if own is None else cast(Any, own)(alpha)


def final(strategy: Strategy, alpha: Tensor, generator: torch.Generator) -> Tensor:
    """Operation weights (E, 6) at the end of the search, by `final(alpha)`, which a strategy that
    samples has; without it those of `weights`.
    """
    own = getattr(strategy, "final", None)
    if own is not None:
        return cast(Any, own)(alpha)
    return strategy.weights(alpha, progress=1.0, generator=generator)
