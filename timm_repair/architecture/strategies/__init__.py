"""Search strategies: how α becomes operation weights, and how α and the weights take turns.

- `"pc_darts"` (pc_darts.py, the paper's choice): partial channels and edge normalization; the
  cheapest, and the default.
- `"darts"` (darts.py): softmax over α on all channels; for blocks of few channels.
- `"snas"` (snas.py): sampled softmax that cools, one batch for weights and α; `"gdas"` (gdas.py):
  one operation an edge is sampled; `"drnas"` (drnas.py): weights drawn from a Dirichlet
  distribution; `"bayes_nas"` (bayes_nas.py): switches with a sparse prior.

A strategy is a frozen dataclass with the fields and the method of `Strategy` (strategy.py); ours
are found by name, yours is passed as an object. They are siblings: none inherits from another.
"""

from dataclasses import is_dataclass
from typing import Any

from timm_repair.architecture.strategies.bayes_nas import BayesNas
from timm_repair.architecture.strategies.darts import Darts
from timm_repair.architecture.strategies.drnas import DrNas
from timm_repair.architecture.strategies.gdas import Gdas
from timm_repair.architecture.strategies.pc_darts import PCDarts
from timm_repair.architecture.strategies.snas import Snas
from timm_repair.architecture.strategies.strategy import Strategy
from timm_repair.errors import OptionError
from timm_repair.options import by_name, check_types

STRATEGIES = {
    "pc_darts": PCDarts,
    "darts": Darts,
    "snas": Snas,
    "gdas": Gdas,
    "drnas": DrNas,
    "bayes_nas": BayesNas,
}


def named(strategy: str | Strategy, **options: Any) -> Strategy:
    """The strategy of that name with `options` as its fields, or the object itself.

    Raises:
        OptionError: unknown name or option.
    """
    return _checked(by_name("strategy", strategy, STRATEGIES, contract=Strategy, **options))


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
