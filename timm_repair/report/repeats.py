"""Repeats: one thing that was measured under one seed or several, as one row of a table.

What is measured is a repair against the original, or one repair against another on the same
examples: both are `Scores`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean

import numpy as np
from scipy.stats import t as student

from timm_repair.errors import DataError
from timm_repair.report.scores import Scores

LEVEL = 0.95


@dataclass(frozen=True)
class Repeats:
    """The same population under several seeds; all numbers are means over them.

    Args:
        scores: one a seed.
        seeds: as many.
    """

    scores: tuple[Scores, ...]
    seeds: tuple[int, ...]

    def __post_init__(self):
        if not self.scores or len(self.scores) != len(self.seeds):
            raise DataError(
                f"{len(self.scores)} scores of {len(self.seeds)} seeds: give one a seed"
            )

    @property
    def n(self) -> float:
        return self._mean("n")

    @property
    def accuracy_before(self) -> float:
        return self._mean("accuracy_before")

    @property
    def accuracy_after(self) -> float:
        return self._mean("accuracy_after")

    @property
    def change(self) -> float:
        return self._mean("change")

    @property
    def fixed(self) -> float:
        return self._mean("fixed")

    @property
    def broken(self) -> float:
        return self._mean("broken")

    @property
    def negative_flip_rate(self) -> float:
        return self._mean("negative_flip_rate")

    @cached_property
    def interval(self) -> tuple[float, float]:
        """Of the change, 95 %: of one seed the paired bootstrap, of several see `_over_seeds`."""
        if len(self.scores) == 1:
            return self.scores[0].intervals(seed=self.seeds[0]).change
        within = [_variance(each.fixed, each.broken, each.n) for each in self.scores]
        low, high = _over_seeds([each.change for each in self.scores], within)
        return max(low, -1.0), min(high, 1.0)

    @cached_property
    def interval_after(self) -> tuple[float, float]:
        """Of the accuracy after the repair, likewise."""
        if len(self.scores) == 1:
            return self.scores[0].intervals(seed=self.seeds[0]).after
        right = [round(each.accuracy_after * each.n) for each in self.scores]
        within = [_variance(r, 0, each.n) for r, each in zip(right, self.scores, strict=True)]
        low, high = _over_seeds([each.accuracy_after for each in self.scores], within)
        return max(low, 0.0), min(high, 1.0)

    @property
    def p_value(self) -> float:
        """McNemar's exact test. Of several seeds the largest, and 1 where they disagree which of
        both is better: what it shows, each of the seeds shows.
        """
        signs = {np.sign(each.change) for each in self.scores}
        if {-1, 1} <= signs:
            return 1.0
        return max(each.p_value for each in self.scores)

    def _mean(self, name: str) -> float:
        return fmean(getattr(each, name) for each in self.scores)

    def summary(self) -> dict:
        """Plain JSON, for readers: it follows from the scores."""
        names = ("n", "accuracy_before", "accuracy_after", "change", "fixed", "broken")
        return {name: getattr(self, name) for name in (*names, "negative_flip_rate")} | {
            "interval": list(self.interval),
            "p_value": self.p_value,
        }


def mean_interval(values: Sequence[float]) -> tuple[float, tuple[float, float] | None]:
    """The mean, and its interval by Student's t; None for a single value."""
    if len(values) < 2:
        return fmean(values), None
    return fmean(values), _over_seeds(values, [0.0] * len(values))


def _variance(up: float, down: float, n: int) -> float:
    """Of a mean of n examples of which so many count +1 and so many -1. As in `Scores.intervals`,
    one more of each is added: ten examples that all agree do not show that all always do.
    """
    more, less = (up + 1) / (n + 2), (down + 1) / (n + 2)
    return (more + less - (more - less) ** 2) / n


def _over_seeds(values: Sequence[float], within: Sequence[float]) -> tuple[float, float]:
    """Of the mean over seeds: how far the seeds differ (Student's t), and how far the examples of
    one are a matter of chance (`within`, variances). The seeds may have measured on the same
    examples: these are not counted several times.
    """
    count, middle = len(values), fmean(values)
    between = float(np.var(values, ddof=1)) / count
    tail = (1 + LEVEL) / 2
    half = (
        student.ppf(tail, count - 1) ** 2 * between + student.ppf(tail, 10**6) ** 2 * fmean(within)
    ) ** 0.5
    return float(middle - half), float(middle + half)


def holm(p_values: Sequence[float]) -> list[float]:
    """These p-values, corrected for their number by Holm's method."""
    order = np.argsort(p_values, kind="stable")
    count, least, corrected = len(p_values), 0.0, [1.0] * len(p_values)
    for rank, index in enumerate(order):
        least = max(least, min(1.0, (count - rank) * p_values[index]))
        corrected[index] = least
    return corrected
