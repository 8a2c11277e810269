"""Tasks: comparisons of the same methods on several tasks, and Wilcoxon's signed-rank test over
them, as in Table 6 of the paper.

A task is a comparison: a model with its failures. One number a task is tested: by how much more is
right after one method than after the other.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

from scipy.stats import wilcoxon

from timm_repair.errors import DataError, OptionError, did_you_mean
from timm_repair.report.comparison import Comparison
from timm_repair.report.repeats import holm
from timm_repair.report.wording import clean, middle, p_text, signed, table, wrap

REPEATS = ("mean", "each")
LEAST = 6  # tasks that differ: of fewer the least p-value there can be is above 0.05


@dataclass(frozen=True)
class SignedRank:
    """One row against another over tasks.

    Args:
        row, other: labels.
        differences: of the accuracies after the repair, `row` less `other`, one a task.
        p_value: Wilcoxon's, two-sided; tasks without a difference do not count.
    """

    row: str
    other: str
    differences: tuple[float, ...]
    p_value: float

    @property
    def better(self) -> int:
        """Tasks on which `row` is better."""
        return sum(each > 0 for each in self.differences)

    @property
    def worse(self) -> int:
        return sum(each < 0 for each in self.differences)


@dataclass(frozen=True)
class Tasks:
    """Comparisons by the name of their task: `print` it for tables.

    Args:
        comparisons: each with the rows and the populations that are asked for; others may have more
            of both.
        repeats: "mean" takes the mean over a comparison's seeds, so that a task counts once.
            "each" counts every seed, as the paper does with its five repeats; seeds that measure on
            the same images are no independent tasks, and its p-values are too small.
    """

    comparisons: Mapping[str, Comparison]
    repeats: str = "mean"

    def __post_init__(self):
        object.__setattr__(self, "comparisons", dict(self.comparisons))
        if not self.comparisons:
            raise DataError("give at least one comparison")
        if self.repeats not in REPEATS:
            raise OptionError(
                f"unknown repeats {self.repeats!r}{did_you_mean(self.repeats, REPEATS)}"
            )
        if not self.rows or not self.populations:
            raise DataError("the comparisons have no row, or no population, in common")

    @property
    def rows(self) -> tuple[str, ...]:
        """Labels that all comparisons have."""
        return _common([comparison.rows for comparison in self.comparisons.values()])

    @property
    def populations(self) -> tuple[str, ...]:
        """Names that all comparisons with a result have."""
        named = [c.populations for c in self.comparisons.values() if c.populations]
        return _common(named) if named else ()

    def signed_rank(self, row: str, other: str, population: str) -> SignedRank:
        """One row against another on one population.

        Raises:
            OptionError: not all comparisons have the row, or the population.
        """
        for label in (row, other):
            if label not in self.rows:
                raise OptionError(f"not all have a row {label!r}{did_you_mean(label, self.rows)}")
        if population not in self.populations:
            raise OptionError(
                f"not all have a population {population!r}"
                f"{did_you_mean(population, self.populations)}"
            )
        differences: list[float] = []
        for comparison in self.comparisons.values():
            mine, theirs = (comparison.rows[label].reports for label in (row, other))
            found = [
                mine[seed].population(population).accuracy_after
                - theirs[seed].population(population).accuracy_after
                for seed in mine
                if seed in theirs
            ]
            differences += [fmean(found)] if found and self.repeats == "mean" else found
        return SignedRank(row, other, tuple(differences), signed_rank(differences))

    def __str__(self) -> str:
        count = len(self.comparisons)
        names = ", ".join(middle(name, 40) for name in self.comparisons)
        lines = wrap(f"{count} task{'s' * (count > 1)}: {names}")
        for population in self.populations:
            lines += ["", *self._table(population)]
        return "\n".join([*lines, "", *wrap(self._legend())])

    def _table(self, population: str) -> list[str]:
        first, *others = self.rows
        found = [self.signed_rank(first, other, population) for other in others]
        corrected = holm([each.p_value for each in found])
        body = [["against", "tasks", "better", "worse", "median", "p", "p (Holm)"]]
        for each, p in zip(found, corrected, strict=True):
            differences = each.differences
            body.append(
                [
                    middle(each.other, 24),
                    str(len(differences)),
                    str(each.better),
                    str(each.worse),
                    signed(median(differences)) if differences else "-",
                    p_text(each.p_value),
                    p_text(p),
                ]
            )
        return [f"{clean(first, 30)!r} on {clean(population, 40)!r}", *table(body, indent="")]

    def _legend(self) -> str:
        each = (
            "Every seed counts as a task, as in the paper; where seeds measure on the same images"
            " they are not independent, and p is too small."
            if self.repeats == "each"
            else "Of several seeds of a task the mean counts, once."
        )
        few = (
            f" Of fewer than {LEAST} tasks p cannot be below 0.05."
            if len(self.comparisons) < LEAST
            else ""
        )
        return (
            "Wilcoxon's signed-rank test over tasks, of the accuracies after the repair; median: of"
            f" the differences, in points. {each}{few}"
        )


def signed_rank(differences: Sequence[float]) -> float:
    """Wilcoxon's two-sided p-value; 1 where nothing differs."""
    # equal shares of different counts differ in their last bits
    counted = [round(each, 12) for each in differences if abs(each) > 1e-12]
    if not counted:
        return 1.0
    found: Any = wilcoxon(counted)  # a named tuple, which SciPy's hints leave open
    return float(found.pvalue)


def _common(each: Sequence) -> tuple[str, ...]:
    first, *others = each
    return tuple(name for name in first if all(name in other for other in others))
