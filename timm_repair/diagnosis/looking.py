"""How much retained images to which a mistake of preprocessing was made look like the failures, and
to how many of these it happened.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from timm_repair.diagnosis.findings import Pattern
from timm_repair.diagnosis.fitting import Fit
from timm_repair.diagnosis.parts import KINDS
from timm_repair.diagnosis.telling import told_apart
from timm_repair.diagnosis.undoing import Mistake

CLOSER = 0.08  # of the distance between the populations may be left
ALL = 0.9  # a share that may be larger is all of them
UNTOLD = 0.4  # of what tells failures from retained images may be left
# families of parts that no mistake of preprocessing looks like; and how much less than a mistake a
# pattern of them must leave, to be what happened instead
DEGRADING = ("blur", "noise", "jpeg", "pixelation", "posterization", "specks", "occlusion")
BETTER = 0.25
_SHARES = [k / 20 for k in range(1, 21)]


@dataclass(frozen=True)
class Done:
    """A mistake made to retained images: their statistics (N, D), the distance from the failures
    that is left, and `nearest`, what is left where it was made to that share of them with which it
    is least.
    """

    mistake: Mistake
    made: Tensor
    after: float
    nearest: float


def degraded(patterns: Sequence[Pattern]) -> float | None:
    """The distance from the failures that is left by the one pattern they have, where all of its
    parts degrade images; else None.
    """
    if len(patterns) != 1 or not patterns[0].parts:
        return None
    families = {KINDS[part.kind].family for part in patterns[0].parts}
    return patterns[0].path[-1] if families <= set(DEGRADING) else None


class Looks:
    """How much retained images look like the failures of a fit, with a mistake made to them.

    Args:
        degraded: see `degraded`.
    """

    def __init__(self, fit: Fit, seed: int, degraded: float | None = None):
        self.fit, self.seed, self.degraded = fit, seed, degraded
        self.before = _squared(fit.residuals(fit.plain))

    def done(self, mistake: Mistake) -> Done:
        """The mistake made to them."""
        made = self.fit.statistics(mistake.do(self.fit.retained).clamp(0, 1).contiguous())
        failing = self.fit.mean, self.fit.std
        nearest = min(self._mixed(_moments(made), _moments(self.fit.plain), failing))
        return Done(mistake, made, _squared(self.fit.residuals(made)), nearest[0])

    def share(self, done: Done, least: float) -> float:
        """To how many of the failures the mistake happened, from 0 to 1; 1 where that may be
        nearly all, for other samples of the same size. `least` is known of their answers.
        """
        rng, fit = np.random.default_rng(self.seed), self.fit
        found = []
        for _ in range(40):
            made, plain, failing = (
                v[torch.from_numpy(rng.integers(0, len(v), len(v))).to(v.device)]
                for v in (done.made, fit.plain, fit.failing)
            )
            there = failing.mean(0), failing.std(0)
            found.append(min(self._mixed(_moments(made), _moments(plain), there))[1])
        share = max(float(np.median(found)), least)
        return share if max(share, np.percentile(found, 97.5)) <= ALL else 1.0

    def same(self, after: float) -> bool:
        """Whether what is left is no more than samples of this size leave."""
        most = max(CLOSER * self.before, 2 * self.fit.noise)
        return after < min(most, 0.6 * self.before)

    def explained(self, done: Done) -> bool:
        """Whether a classifier tells failures from them much less than from retained images."""
        plain, made = (
            told_apart(v, self.fit.failing, self.seed).right - 0.5
            for v in (self.fit.plain, done.made)
        )
        return made <= UNTOLD * plain

    def better_explained(self, done: Done) -> bool:
        """Whether images were degraded instead: taking back what was never done to blurred ones
        sharpens them, and mends many.
        """
        return self.degraded is not None and self.degraded < BETTER * done.after

    def _mixed(
        self, made: tuple[Tensor, Tensor], plain: tuple[Tensor, Tensor], failing: tuple
    ) -> list[tuple[float, float]]:
        """(distance, share) for the mistake made to each of some shares."""
        found = []
        for share in _SHARES:
            mean, square = (share * a + (1 - share) * b for a, b in zip(made, plain, strict=True))
            std = (square - mean.square()).clamp(min=0).sqrt()
            found.append((_squared(self.fit.apart((mean, std), failing)), share))
        return found


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """(D,) means, and means of squares, of statistics (N, D)."""
    x = x.double()
    return x.mean(0), x.square().mean(0)


def _squared(residuals: np.ndarray) -> float:
    return float(np.square(residuals).sum())
