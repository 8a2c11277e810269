"""A particle swarm behind ask and tell, which goes on after a kill: pymoo's (https://pymoo.org).

The library's state is not saved. It is deterministic by its seed, so the costs that it was told are
kept, and it is told them again.
"""

from collections.abc import Mapping
from math import inf
from typing import Any

import numpy as np
import torch
from torch import Tensor


class Swarm:
    """Particles in the box [low, high]^size, the first of them at the centre; the lowest cost wins.

    Args:
        ends: low and high.
        inertia, pull: w and c1 = c2 of the velocity's equation.
    """

    def __init__(
        self,
        size: int,
        *,
        ends: tuple[float, float],
        particles: int,
        inertia: float,
        pull: float,
        seed: int,
    ):
        self.size, self.ends, self.particles, self.seed = size, ends, particles, seed
        self.coefficients: dict[str, Any] = {"w": inertia, "c1": pull, "c2": pull}
        self._start()

    def _start(self) -> None:
        from pymoo.algorithms.soo.nonconvex.pso import PSO
        from pymoo.core.population import Population
        from pymoo.core.problem import Problem
        from pymoo.termination import get_termination

        self.told: list[list[float]] = []
        self.best = torch.zeros(self.size, dtype=torch.float64)
        self.best_cost = inf
        low, high = self.ends
        self.problem = Problem(n_var=self.size, n_obj=1, xl=low, xu=high)
        first = np.random.default_rng(self.seed).uniform(low, high, (self.particles, self.size))
        first[0] = (low + high) / 2
        self.algorithm = PSO(
            pop_size=self.particles,
            **self.coefficients,
            adaptive=False,
            initial_velocity="zero",
            pertube_best=False,
            sampling=Population.new("X", first),  # type: ignore[arg-type]
        )
        self.algorithm.setup(
            self.problem,
            seed=self.seed % 2**31,
            verbose=False,
            termination=get_termination("n_gen", 10**9),
        )
        self.asked: Any = None

    def ask(self) -> Tensor:
        """Where the particles are now, (particles, size) float64."""
        self.asked = self.algorithm.ask()
        return torch.from_numpy(np.array(self.asked.get("X"), dtype=np.float64))

    def tell(self, costs: Tensor) -> None:
        """What each of them costs, (particles,)."""
        from pymoo.core.evaluator import Evaluator
        from pymoo.problems.static import StaticProblem

        values = costs.double().tolist()
        places = np.array(self.asked.get("X"), dtype=np.float64)
        Evaluator().eval(StaticProblem(self.problem, F=np.array(values)[:, None]), self.asked)
        self.algorithm.tell(infills=self.asked)
        self.told.append(values)
        if min(values) < self.best_cost:
            self.best_cost, place = min(values), values.index(min(values))
            self.best = torch.from_numpy(places[place].copy())

    def state_dict(self) -> dict:
        """The costs it was told, for `load_state_dict`."""
        return {"told": self.told}

    def load_state_dict(self, state: Mapping) -> None:
        """Go on from there: the same costs lead the same seed to the same place."""
        self._start()
        for costs in state["told"]:
            self.ask()
            self.tell(torch.tensor(costs, dtype=torch.float64))
