"""Differential evolution behind ask and tell: pymoo's DE/rand/1/bin."""

from typing import Any, cast

import numpy as np

from timm_repair.gradient_free.patching import beginning
from timm_repair.gradient_free.told import Told

DITHER = 0.5, 1.0  # F is drawn between them, once a generation


class Evolution(Told):
    """A population in a box: y = clip(a + F (b - c)), of which each coordinate is taken with
    probability `crossover`, and one in any case; y takes the place of x where it costs less.

    Args:
        ends: (size,) low and high.
        first: (population, size) where it begins; at least four.
    """

    def __init__(
        self,
        ends: tuple[np.ndarray, np.ndarray],
        *,
        first: np.ndarray,
        crossover: float,
        seed: int,
    ):
        self.ends, self.crossover = ends, crossover
        low, high = ends
        # a + F (b - c) stays within this, so that the library, which draws anew what leaves its
        # box, has nothing to do
        super().__init__(2 * low - high, 2 * high - low, np.clip(first, low, high), seed)

    @classmethod
    def of_weights(
        cls, siblings: np.ndarray, *, population: int, crossover: float, seed: int
    ) -> "Evolution":
        """Of weights that reach to twice the least and largest of their layer, or to half where
        these have the other sign.

        Args:
            siblings: as from `Patch.siblings`.
        """
        *_, least, most = siblings
        low = np.where(least < 0, 2 * least, least / 2)
        high = np.where(most > 0, 2 * most, most / 2)
        first = beginning(siblings, population, seed)
        return cls((low, high), first=first, crossover=crossover, seed=seed)

    def algorithm(self, first: Any) -> Any:
        """See `Told`."""
        from pymoo.algorithms.soo.nonconvex.de import DE, Variant
        from pymoo.core.repair import Repair
        from pymoo.operators.control import NoParameterControl

        low, high = self.ends

        class Clip(Repair):
            def _do(self, problem: Any, X: np.ndarray, **_: Any) -> np.ndarray:
                return np.clip(X, low, high)

        self.dither = np.random.default_rng(self.seed)
        # the hints of both are narrower than what they take
        self.variant = cast(Any, Variant)(
            selection="rand",
            n_diffs=1,
            crossover="bin",
            CR=self.crossover,
            F=DITHER[0],
            prob_mut=0.0,
            control=NoParameterControl,
            repair=Clip(),
        )
        return cast(Any, DE)(pop_size=len(self.first), sampling=first, variant=self.variant)

    def ask(self):
        """See `Told`."""
        self.variant.F.set(float(self.dither.uniform(*DITHER)))
        return super().ask()
