"""Comparison: several methods on the same examples, under one seed or several."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from timm_repair.errors import ConfigError, DataError
from timm_repair.report import compared, pairs
from timm_repair.report.pairs import Pair
from timm_repair.report.repeats import Repeats
from timm_repair.report.report import Report
from timm_repair.report.rows import Row, Run
from timm_repair.report.versions import VERSION, check_version

SPLIT = "split"  # the protocol of `repair`


@dataclass(frozen=True)
class Comparison:
    """Several methods on the same examples, by label: `print` it for tables.

    Args:
        rows: label to `Row`.
        protocol: what they were repaired and measured on, see docs/comparing.md.

    Raises:
        DataError: populations, labels or predictions before differ, so the rows were not measured
            on the same thing.
    """

    rows: Mapping[str, Row]
    protocol: str = SPLIT

    def __post_init__(self):
        object.__setattr__(self, "rows", dict(self.rows))
        if not self.rows:
            raise DataError("a comparison needs at least one report")
        first: dict[int, tuple[str, Report]] = {}
        for label, row in self.rows.items():
            for seed, report in row.reports.items():
                _require_same(label, report, *first.setdefault(seed, (label, report)))
        names = {tuple(each.population for each in r.scores) for _, r in first.values()}
        if len(names) > 1:
            raise DataError("the seeds have different populations; give all the same holdout")

    @classmethod
    def of(
        cls, reports: Mapping[str, Report | Sequence[Report]], protocol: str = SPLIT
    ) -> "Comparison":
        """Of reports that are there already: one a label, or several with different seeds."""
        rows = {}
        for label, given in reports.items():
            several = [given] if isinstance(given, Report) else given
            rows[label] = Row(label, tuple(Run(report.seed, report) for report in several))
        return cls(rows, protocol)

    @property
    def reports(self) -> dict[str, Report]:
        """Label to the report of the first seed, of the rows that have one."""
        return {label: row.report for label, row in self.rows.items() if row.done}

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(dict.fromkeys(run.seed for row in self.rows.values() for run in row.runs))

    @property
    def populations(self) -> tuple[str, ...]:
        """Names of what was measured; none where every row failed."""
        return pairs.populations(self.rows)

    def original(self, population: str) -> Repeats:
        """The original on a population, as a repair that changed nothing."""
        return pairs.original(self.rows, population)

    def between(self, row: str, other: str, population: str) -> Repeats:
        """One row against another, example by example, see `pairs.between`."""
        return pairs.between(self.rows, row, other, population)

    def pairs(self, population: str, against: str | None = None) -> list[Pair]:
        """Every row against every later one, or all others `against` one, see `pairs.pairs`."""
        return pairs.pairs(self.rows, population, against)

    def __str__(self) -> str:
        """Tables for a terminal."""
        return compared.text(self.rows, self.protocol)

    def to_dict(self, *, reports: bool = True) -> dict:
        """Plain JSON.

        Args:
            reports: with the reports; without them it is a table of contents, for a folder that
                holds each report beside its model.
        """

        def run(each: Run) -> dict:
            report = each.report.to_dict() if reports and each.report is not None else None
            return {"seed": each.seed, "error": each.error, "report": report}

        return {
            "version": VERSION,
            "protocol": self.protocol,
            "rows": {label: [run(each) for each in row.runs] for label, row in self.rows.items()},
        }

    @classmethod
    def from_dict(cls, data: Mapping) -> "Comparison":
        """Inverse of `to_dict`; reads older versions too. ConfigError as `Report.from_dict`."""
        if isinstance(data, Mapping) and "protocol" not in data:  # before there were seeds
            check_version(data, {"version", "rows"}, "comparison")
            return cls.of({k: Report.from_dict(report) for k, report in data["rows"].items()})
        check_version(data, {"version", "protocol", "rows"}, "comparison")
        try:
            rows = {
                label: Row(
                    label,
                    tuple(
                        Run(
                            each["seed"],
                            None if each["report"] is None else Report.from_dict(each["report"]),
                            each["error"],
                        )
                        for each in runs
                    ),
                )
                for label, runs in data["rows"].items()
            }
        except (KeyError, TypeError, AttributeError) as error:
            raise ConfigError(f"this comparison is damaged ({error!r}); save it again") from error
        return cls(rows, data["protocol"])


def _require_same(label: str, report: Report, first: str, reference: Report) -> None:
    """Raise DataError unless both were measured on the same."""
    if [each.population for each in report.scores] != [
        each.population for each in reference.scores
    ]:
        raise DataError(
            f"{label!r} and {first!r} have different populations; give both the same holdout"
        )
    for mine, other in zip(report.scores, reference.scores, strict=True):
        for name in ("labels", "before"):
            if not torch.equal(getattr(mine, name), getattr(other, name)):
                raise DataError(
                    f"{label!r} and {first!r} differ in {name} on {mine.population!r}: other"
                    " examples, or another original; repair the same model with the same holdout"
                    " and seed"
                )
