"""Comparison: reports on the same examples side by side."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from timm_repair.errors import DataError
from timm_repair.report.properties import LEGEND, compared_rows
from timm_repair.report.report import Report
from timm_repair.report.versions import VERSION, check_version
from timm_repair.report.wording import WIDTH, clean, signed, table, wrap

REFERENCE = "finetune network"  # the row of a Comparison whose time is the unit, if there is one


@dataclass(frozen=True)
class Comparison:
    """Reports of several methods on the same examples, by label: `print` it for one table.

    Raises:
        DataError: populations, labels or predictions before differ, so the rows were not measured
            on the same thing.
    """

    rows: Mapping[str, Report]

    def __post_init__(self):
        object.__setattr__(self, "rows", dict(self.rows))
        if not self.rows:
            raise DataError("a comparison needs at least one report")
        (first, reference), *others = self.rows.items()
        for label, report in others:
            if [each.population for each in report.scores] != [
                each.population for each in reference.scores
            ]:
                raise DataError(
                    f"{label!r} and {first!r} have different populations; give both the same"
                    " holdout"
                )
            for mine, theirs in zip(report.scores, reference.scores, strict=True):
                for name in ("labels", "before"):
                    if not torch.equal(getattr(mine, name), getattr(theirs, name)):
                        raise DataError(
                            f"{label!r} and {first!r} differ in {name} on {mine.population!r}:"
                            " other examples, or another original; repair the same model with the"
                            " same holdout and seed"
                        )

    def __str__(self) -> str:
        """One table; populations that do not fit beside each other go into another below."""
        reports = self.rows
        first = next(iter(reports.values()))
        unit = reports[REFERENCE].seconds if REFERENCE in reports else 0.0
        times = (
            f"{each.seconds / unit:.2f}x" if unit else f"{each.seconds:.1f}"
            for each in reports.values()
        )
        timed = [("time" if unit else "seconds", *times)]
        labels = [("method", *(clean(label, 26) for label in reports))]
        lines = wrap(f"Comparison of {len(reports)} repairs of {clean(first.model, 200)}")
        groups = [[]]
        for index, before in enumerate(first.scores):
            each = [report.scores[index] for report in reports.values()]
            name = clean(before.population, 14)
            columns = [
                (
                    name,
                    *(f"{100 * score.accuracy_after:.1f} {signed(score.change)}" for score in each),
                ),
                ("fixed", *(str(score.fixed) for score in each)),
                ("broken", *(str(score.broken) for score in each)),
            ]
            if (
                groups[-1]
                and max(map(len, table(zip(*labels, *groups[-1], *columns, *timed, strict=True))))
                > WIDTH
            ):
                groups.append([])
            groups[-1] += columns
            lines.append(
                f"  {name}: {before.n} examples, {before.accuracy_before:.1%} right before"
            )
        for columns in groups:
            lines += ["", *table(zip(*labels, *columns, *timed, strict=True))]
        properties = {label: report.properties for label, report in reports.items()}
        if any(properties.values()):
            lines += ["", *table(compared_rows(properties)), "", *wrap(LEGEND)]
        note = f" time: relative to {REFERENCE!r} ({unit:.1f} s)." if unit else ""
        return "\n".join(
            [
                *lines,
                "",
                *wrap(f"Under a population: % right after the repair, change in points.{note}"),
            ]
        )

    def to_dict(self) -> dict:
        """Plain JSON."""
        return {
            "version": VERSION,
            "rows": {label: report.to_dict() for label, report in self.rows.items()},
        }

    @classmethod
    def from_dict(cls, data: Mapping) -> "Comparison":
        """Inverse of `to_dict`; ConfigError as `Report.from_dict`."""
        check_version(data, {"version", "rows"}, "comparison")
        return cls({label: Report.from_dict(report) for label, report in data["rows"].items()})
