"""Pairs: rows of a comparison against the original and against each other, example by example."""

from dataclasses import dataclass
from itertools import combinations

from timm_repair.errors import OptionError, RepairError, did_you_mean
from timm_repair.report.repeats import Repeats, holm
from timm_repair.report.rows import Rows
from timm_repair.report.scores import Scores


@dataclass(frozen=True)
class Pair:
    """One row against another on one population.

    Args:
        row, other: labels; what is better of `row` counts as fixed.
        found: the answers of `other` as before, those of `row` as after.
        p_value: McNemar's, corrected (Holm) for the number of pairs of this population.
    """

    row: str
    other: str
    found: Repeats
    p_value: float


def populations(rows: Rows) -> tuple[str, ...]:
    """Names of what was measured; none where every row failed."""
    reports = [row.report for row in rows.values() if row.done]
    return tuple(each.population for each in reports[0].scores) if reports else ()


def original(rows: Rows, population: str) -> Repeats:
    """The original on a population, as a repair that changed nothing."""
    _require(rows, population)
    found: dict[int, Scores] = {}
    for row in rows.values():
        for seed, report in row.reports.items():
            each = report.population(population)
            found.setdefault(seed, Scores(population, each.labels, each.before, each.before))
    return Repeats(tuple(found.values()), tuple(found))


def between(rows: Rows, row: str, other: str, population: str) -> Repeats:
    """One row against another under the seeds that both have: what `row` has right and `other`
    wrong counts as fixed.

    Raises:
        OptionError: there is no such row or population.
        RepairError: no seed has results of both.
    """
    _require(rows, population)
    for label in (row, other):
        if label not in rows:
            raise OptionError(f"the comparison has no row {label!r}{did_you_mean(label, rows)}")
    mine, theirs = (rows[label].reports for label in (row, other))
    seeds = tuple(seed for seed in mine if seed in theirs)
    if not seeds:
        raise RepairError(f"no seed has results of both {row!r} and {other!r}: one failed")
    answers = [(mine[s].population(population), theirs[s].population(population)) for s in seeds]
    return Repeats(tuple(Scores(population, a.labels, b.after, a.after) for a, b in answers), seeds)


def pairs(rows: Rows, population: str, against: str | None = None) -> list[Pair]:
    """Every row against every later one, or all others `against` one; of rows that have results
    under a common seed.
    """
    labels = [label for label, row in rows.items() if row.done]
    chosen = list(combinations(labels, 2))
    if against is not None:
        chosen = [(label, against) for label in labels if label != against]
    chosen = [(a, b) for a, b in chosen if rows[a].reports.keys() & rows[b].reports.keys()]
    found = [between(rows, a, b, population) for a, b in chosen]
    corrected = holm([each.p_value for each in found])
    return [Pair(*pair, each, p) for pair, each, p in zip(chosen, found, corrected, strict=True)]


def _require(rows: Rows, population: str) -> None:
    if population not in (known := populations(rows)):
        raise OptionError(
            f"the comparison has no population {population!r}{did_you_mean(population, known)}"
        )
