"""Told: what the optimizers share, ask and tell around pymoo (https://pymoo.org), which goes on
after a kill.

The library's state is not saved. It is deterministic by its seed, so the costs that it was told are
kept, and it is told them again.
"""

from collections.abc import Mapping
from math import inf
from typing import Any

import numpy as np
import torch
from torch import Tensor


class Told:
    """Places in a box, the lowest cost wins.

    A subclass sets what its `algorithm` needs, and then calls this.

    Args:
        low, high: (size,) the ends of the box that the library knows.
        first: (count, size) where it begins.
    """

    def __init__(self, low: np.ndarray, high: np.ndarray, first: np.ndarray, seed: int):
        self.low, self.high, self.first, self.seed = low, high, first, seed
        self._start()

    def algorithm(self, first: Any) -> Any:
        """The library's, made anew; `first` is its sampling."""
        raise NotImplementedError

    def _start(self) -> None:
        from pymoo.core.population import Population
        from pymoo.core.problem import Problem
        from pymoo.termination import get_termination

        size = self.first.shape[1]
        self.told: list[list[float]] = []
        self.best = torch.zeros(size, dtype=torch.float64)
        self.best_cost, self.stale = inf, 0
        self.problem = Problem(n_var=size, n_obj=1, xl=self.low, xu=self.high)
        first = Population.new("X", self.first.copy())  # type: ignore[arg-type]
        self.running = self.algorithm(first)
        self.running.setup(
            self.problem,
            seed=self.seed % 2**31,
            verbose=False,
            termination=get_termination("n_gen", 10**9),
        )
        self.asked: Any = None

    def ask(self) -> Tensor:
        """Places to be judged, (count, size) float64."""
        self.asked = self.running.ask()
        return torch.from_numpy(np.array(self.asked.get("X"), dtype=np.float64))

    def tell(self, costs: Tensor) -> None:
        """What each of them costs, (count,)."""
        from pymoo.core.evaluator import Evaluator
        from pymoo.problems.static import StaticProblem

        values = costs.double().tolist()
        places = np.array(self.asked.get("X"), dtype=np.float64)
        Evaluator().eval(StaticProblem(self.problem, F=np.array(values)[:, None]), self.asked)
        self.running.tell(infills=self.asked)
        self.told.append(values)
        self.stale += 1  # rounds since the best was found
        if min(values) < self.best_cost:
            self.best_cost, place = min(values), values.index(min(values))
            self.best, self.stale = torch.from_numpy(places[place].copy()), 0

    def state_dict(self) -> dict:
        """The costs it was told, for `load_state_dict`."""
        return {"told": self.told}

    def load_state_dict(self, state: Mapping) -> None:
        """Go on from there: the same costs lead the same seed to the same place."""
        self._start()
        for costs in state["told"]:
            self.ask()
            self.tell(torch.tensor(costs, dtype=torch.float64))
