"""One corruption, or several populations with one each? And is a pattern real?"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from timm_repair.diagnosis.applying import Weighted, seen_through
from timm_repair.diagnosis.choosing import chosen
from timm_repair.diagnosis.draws import Draws
from timm_repair.diagnosis.fitting import Fit, Settings
from timm_repair.diagnosis.parts.overlay import read_off
from timm_repair.diagnosis.telling import Told, told_apart

SMALLEST = 30  # failures of a population, and
SHARE = 0.1  # of all at least
APART = 0.2  # least silhouette coefficient of populations: below, one is cut in two
AXES = 8  # principal ones, in which populations are looked for
BETTER = 0.03  # by so much less must failures be told from what two patterns make than from one's


@dataclass(frozen=True)
class Samples:
    """What patterns are fitted to, and judged on.

    Args:
        statistics: images to (N, D).
        fitted, judged: retained images (N, C, H, W) from 0 to 1, different ones.
        failing: (M, D) statistics of the failures, or of their whole population.
        pixels: (M, C, H, W) of these, from 0 to 1.
        seed: of draws and of folds.
        most: parts of a pattern.
        looked_for: populations, at most.
    """

    statistics: Callable[[Tensor], Tensor]
    fitted: Tensor
    judged: Tensor
    failing: Tensor
    pixels: Tensor
    seed: int
    most: int
    looked_for: int = 1

    def fit(self, rows: Tensor | None = None) -> Fit:
        """To all failures, or to some of them."""
        failing, pixels = (
            v if rows is None else v[rows.to(v.device)] for v in (self.failing, self.pixels)
        )
        draws = Draws(self.seed, range(len(self.fitted)), self.fitted.device)
        return Fit(self.statistics, self.fitted, failing, draws, read_off(pixels, self.fitted))

    def chosen(self, fit: Fit) -> tuple[Settings, list[float]]:
        """The parts of a pattern, and what is left after each, see `choosing.chosen`."""
        return chosen(fit, channels=self.fitted.shape[1], most=self.most)

    def told(self, patterns: Weighted, rows: Tensor | None = None) -> Told:
        """How well failures are told from retained images that no pattern was fitted to, seen
        through these.
        """
        made = self.made(patterns)
        return told_apart(made, self.failing if rows is None else self.failing[rows], self.seed)

    def made(self, patterns: Weighted) -> Tensor:
        """(N, D) statistics of these."""
        return self.statistics(self.seen(patterns))

    def seen(self, patterns: Weighted) -> Tensor:
        """The retained images to judge by, seen through these patterns."""
        return seen_through(patterns, self.judged, self.seed + 1, range(len(self.judged)))


def clusters(failing: Tensor, retained: Tensor, seed: int, most: int) -> list[Tensor]:
    """Row numbers of the populations that a mixture of Gaussians finds in the statistics (M, D) of
    failures; one where more explain no better.

    Args:
        retained: (N, D), for what counts as a large difference.
        most: populations.
    """
    from sklearn.decomposition import PCA
    from sklearn.metrics import silhouette_score
    from sklearn.mixture import GaussianMixture

    everything = [torch.arange(len(failing))]
    centre, scale = retained.mean(0), retained.std(0) + 1e-3
    x = ((failing - centre) / scale).clamp(-6, 6).cpu().numpy().astype(float)
    axes = min(AXES, len(x) - 1, x.shape[1])
    if len(x) < 2 * SMALLEST or axes < 2:
        return everything
    x = PCA(axes, random_state=seed, svd_solver="full").fit_transform(x)
    best, found = np.inf, everything
    for count in range(1, most + 1):
        mixture = GaussianMixture(count, n_init=3, random_state=seed, reg_covar=1e-2).fit(x)
        which = mixture.predict(x)
        sizes = np.bincount(which, minlength=count)
        if sizes.min() < max(SMALLEST, SHARE * len(x)):
            break
        if count > 1 and silhouette_score(x, which) < APART:
            break
        if (criterion := mixture.bic(x)) < best:
            best = criterion
            found = [torch.from_numpy((which == k).nonzero()[0]) for k in range(count)]
    return sorted(found, key=len, reverse=True)


def several(
    samples: Samples, one: tuple[Settings, Told], most: int
) -> list[tuple[Settings, Tensor, list[float], Fit]]:
    """A pattern for each population, where failures are told from what these make less well than
    from what `one` pattern makes; else nothing.
    """
    groups = clusters(samples.failing, samples.statistics(samples.fitted), samples.seed, most)
    if len(groups) == 1:
        return []
    found = []
    for rows in groups:
        fit = samples.fit(rows)
        settings, path = samples.chosen(fit)
        found.append((settings, rows, path, fit))
    told = samples.told([(settings, float(len(rows))) for settings, rows, *_ in found])
    if told.right > one[1].right - BETTER or not _different([s for s, *_ in found]):
        return []
    return found


def _different(patterns: Sequence[Settings]) -> bool:
    """Whether not all have the same kinds of parts with nearly the same strengths."""
    first = {s.name: s.values for s in patterns[0]}
    for other in patterns[1:]:
        these = {s.name: s.values for s in other}
        if these.keys() != first.keys():
            return True
        for name, values in these.items():
            if not np.allclose(values, first[name], rtol=0.25, atol=0.02):
                return True
    return False
