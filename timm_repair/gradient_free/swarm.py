"""A particle swarm behind ask and tell: pymoo's."""

from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from timm_repair.gradient_free.patching import beginning
from timm_repair.gradient_free.told import Told

PHI = 4.1
CONSTRICTION = 2 / (PHI - 2 + sqrt(PHI**2 - 4 * PHI))
_ROOM = 10  # ranges of its layer that a weight may leave it by: no bound that is met


class Swarm(Told):
    """Particles in the box [low, high]^size: v ← w v + c (r1 (own best - x) + r2 (best - x)), with
    r1, r2 ~ U(0, 1), and x ← x + v. At first v is 0.

    Args:
        ends: low and high, numbers or one of each a coordinate.
        first: (particles, size) where they begin; None draws them in the box, the first at its
            centre.
        inertia, pull: w and c of the velocity's equation.
        fastest: largest velocity as a share of the box.
    """

    def __init__(
        self,
        size: int,
        *,
        ends: tuple[ArrayLike, ArrayLike],
        particles: int,
        inertia: float,
        pull: float,
        seed: int,
        first: np.ndarray | None = None,
        fastest: float = 0.2,
    ):
        self.coefficients: dict[str, Any] = {"w": inertia, "c1": pull, "c2": pull}
        self.fastest = fastest
        low, high = (np.broadcast_to(np.asarray(end, dtype=np.float64), size) for end in ends)
        if first is None:
            first = np.random.default_rng(seed).uniform(low, high, (particles, size))
            first[0] = (low + high) / 2
        super().__init__(low, high, first, seed)

    def algorithm(self, first: Any) -> Any:
        """See `Told`."""
        from pymoo.algorithms.soo.nonconvex.pso import PSO

        return PSO(
            pop_size=len(self.first),
            **self.coefficients,
            adaptive=False,
            initial_velocity="zero",
            pertube_best=False,
            max_velocity_rate=self.fastest,
            sampling=first,
        )


def constricted(siblings: np.ndarray, *, particles: int, attraction: float, seed: int) -> Swarm:
    """Arachne's swarm over weights: v ← χ (v + r1 (own best - x) + r2 (best - x)), with
    r1, r2 ~ U(0, attraction), and |v| at most five times the range of the weight's layer.

    Args:
        siblings: as from `Patch.siblings`.
    """
    *_, low, high = siblings
    width = np.maximum(high - low, 1e-12)
    return Swarm(
        siblings.shape[1],
        ends=(low - _ROOM * width, high + _ROOM * width),
        particles=particles,
        inertia=CONSTRICTION,
        pull=CONSTRICTION * attraction,
        seed=seed,
        first=beginning(siblings, particles, seed),
        fastest=5 / (2 * _ROOM + 1),
    )
