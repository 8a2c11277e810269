"""Search strategies: how α becomes operation weights, and how α and the weights take turns.

A strategy is a frozen dataclass with these fields and one method; ours are found by name, yours is
passed as an object. They are siblings: none inherits from another.
"""

from dataclasses import is_dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from timm_repair.errors import OptionError, did_you_mean
from timm_repair.options import check_types, make
from timm_repair.strategies.darts import Darts
from timm_repair.strategies.pc_darts import PCDarts


class Strategy(Protocol):
    """What `search.search` and `relax.RelaxedBlock` ask of a strategy.

    Attributes:
        partial: operations see 1/partial of the channels.
        edge_normalization: weigh the edges into a node by a softmax over β.
        warmup: share of the search during which only weights are trained.
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


STRATEGIES = {"pc_darts": PCDarts, "darts": Darts}


def get(strategy: str | Strategy, **options: Any) -> Strategy:
    """The strategy of that name with `options` as its fields, or the object itself.

    Raises:
        OptionError: unknown name or option.
    """
    if not isinstance(strategy, str):
        if options:
            raise OptionError(
                f"options {', '.join(options)} go with a strategy's name; set them on your object"
                " instead"
            )
        return _checked(strategy)
    if strategy not in STRATEGIES:
        raise OptionError(f"unknown strategy {strategy!r}{did_you_mean(strategy, STRATEGIES)}")
    return _checked(make(STRATEGIES[strategy], options))


def _checked(strategy: Strategy) -> Strategy:
    if is_dataclass(strategy):
        check_types(strategy)
    rate = 1.0 if strategy.learning_rate is None else strategy.learning_rate
    if strategy.partial < 1 or not 0 <= strategy.warmup < 1 or rate <= 0:
        raise OptionError(
            "a strategy's partial is at least 1, warmup a share from 0 to below 1, learning_rate"
            " positive or None"
        )
    return strategy
