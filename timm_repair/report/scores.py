"""Scores: one population, before and after a repair."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from scipy.stats import binomtest
from torch import Tensor

from timm_repair.errors import DataError, OptionError
from timm_repair.report.examples import Examples


class Intervals(NamedTuple):
    """Bootstrap intervals (low, high), as shares of 1."""

    before: tuple[float, float]
    after: tuple[float, float]
    change: tuple[float, float]


@dataclass(frozen=True, eq=False, repr=False)
class Scores:
    """Answers of the original and of the repaired model to the same examples.

    Args:
        population: what the examples are, such as "failing" or "retained".
        labels: (N,) true class indices.
        before: (N,) classes predicted by the original model.
        after: (N,) classes predicted by the repaired model.
        examples: how sure both models were of each, and how its source calls it; None where that is
            not known.

    Raises:
        DataError: a field is not one integer per example, the lengths differ, or there is no
            example.
    """

    population: str
    labels: Tensor
    before: Tensor
    after: Tensor
    examples: Examples | None = None

    def __post_init__(self):
        for name in ("labels", "before", "after"):
            value = torch.as_tensor(getattr(self, name))
            if value.ndim != 1 or value.is_floating_point() or value.dtype == torch.bool:
                raise DataError(
                    f"{name} of population {self.population!r} must be a 1-D tensor of class"
                    f" indices, one per example; got shape {tuple(value.shape)} of {value.dtype}"
                )
            object.__setattr__(self, name, value.detach().cpu().long())
        if not len(self.labels) == len(self.before) == len(self.after):
            raise DataError(
                f"population {self.population!r} has {len(self.labels)} labels, {len(self.before)}"
                f" predictions before and {len(self.after)} after; predict the same examples, in"
                " the same order, with both models"
            )
        if not len(self.labels):
            raise DataError(f"population {self.population!r} has no example; leave it out")
        if self.examples is not None and len(self.examples) != self.n:
            raise DataError(
                f"population {self.population!r} has {self.n} examples, of which"
                f" {len(self.examples)} are told more"
            )

    def __repr__(self) -> str:
        """A line; the answers are in the fields."""
        return (
            f"Scores({self.population!r}, n={self.n}, {self.accuracy_before:.1%} ->"
            f" {self.accuracy_after:.1%}, fixed={self.fixed}, broken={self.broken})"
        )

    def __eq__(self, other) -> bool:
        return isinstance(other, Scores) and self.to_dict() == other.to_dict()

    @cached_property
    def _counts(self) -> tuple[int, int, int, int]:
        """Right twice, broken, fixed, wrong twice: the four outcomes that all the rest follows
        from.
        """
        before, after = self.before == self.labels, self.after == self.labels
        return (
            int((before & after).sum()),
            int((before & ~after).sum()),
            int((~before & after).sum()),
            int((~before & ~after).sum()),
        )

    @property
    def n(self) -> int:
        return len(self.labels)

    @property
    def accuracy_before(self) -> float:
        return (self._counts[0] + self._counts[1]) / self.n

    @property
    def accuracy_after(self) -> float:
        return (self._counts[0] + self._counts[2]) / self.n

    @property
    def change(self) -> float:
        return (self.fixed - self.broken) / self.n

    @property
    def fixed(self) -> int:
        """Examples wrong before and right after."""
        return self._counts[2]

    @property
    def broken(self) -> int:
        """Examples right before and wrong after."""
        return self._counts[1]

    @property
    def negative_flip_rate(self) -> float:
        """Share of all examples that the repair broke (Yan et al., positive-congruent training)."""
        return self.broken / self.n

    @cached_property
    def p_value(self) -> float:
        """McNemar's exact test, two-sided: how likely counts this unequal are if neither was
        likelier.
        """
        flips = self.fixed + self.broken
        return float(binomtest(self.fixed, flips, 0.5).pvalue) if flips else 1.0

    def by_class(self) -> dict[int, "Scores"]:
        """The same of each class that has examples, in ascending order: its accuracy is the class's
        recall.
        """
        return {label: self.at(self.labels == label) for label in self.labels.unique().tolist()}

    def at(self, rows: Tensor) -> "Scores":
        """The same of the examples at `rows`, numbers or a mask."""
        told = None if self.examples is None else self.examples.at(rows)
        return Scores(self.population, self.labels[rows], self.before[rows], self.after[rows], told)

    def intervals(self, *, seed: int = 0, resamples: int = 2000, level: float = 0.95) -> Intervals:
        """Percentile intervals of both accuracies and of their difference, from one paired
        bootstrap.

        Drawing N examples with replacement is drawing the four outcome counts from a multinomial:
        time is free of N. One broken and one fixed example are added to those that were seen, as
        Bonett and Price do for paired shares: ten examples of which none changed do not show that
        none ever does.
        """
        if not 0 < level < 1 or resamples < 1:
            raise OptionError(
                f"level must be between 0 and 1 and resamples positive; got {level} and {resamples}"
            )
        shares = (np.array(self._counts) + (0, 1, 1, 0)) / (self.n + 2)
        right, broken, fixed, _ = (
            np.random.default_rng(seed).multinomial(self.n, shares, size=resamples).T / self.n
        )
        tails = (1 - level) / 2, (1 + level) / 2
        drawn = right + broken, right + fixed, fixed - broken
        return Intervals(*(tuple(np.quantile(values, tails).tolist()) for values in drawn))

    def to_dict(self) -> dict:
        """Plain JSON: one integer per example and field, and a summary for readers, which
        `from_dict` computes anew.
        """
        names = (
            "n",
            "accuracy_before",
            "accuracy_after",
            "fixed",
            "broken",
            "negative_flip_rate",
            "p_value",
        )
        arrays = {name: getattr(self, name).tolist() for name in ("labels", "before", "after")}
        return {
            "population": self.population,
            "summary": {name: getattr(self, name) for name in names},
            **arrays,
            "examples": None if self.examples is None else self.examples.to_dict(),
        }

    @classmethod
    def from_dict(cls, data: Mapping) -> "Scores":
        """Inverse of `to_dict`."""
        fields = {
            name: torch.tensor(data[name], dtype=torch.long)
            for name in ("labels", "before", "after")
        }
        told = data.get("examples")  # before version 6 there were none
        return cls(
            data["population"],
            **fields,
            examples=None if told is None else Examples.from_dict(told),
        )
