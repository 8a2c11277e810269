"""Rows of a comparison: a method, and its runs under one seed or several."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from timm_repair.errors import DataError, RepairError
from timm_repair.report.repeats import Repeats, mean_interval
from timm_repair.report.report import Report
from timm_repair.report.verdict import HARMFUL, HELPFUL, UNCLEAR, Verdict

FAILED = "failed"


@dataclass(frozen=True)
class Run:
    """One repair: a method under a seed.

    Args:
        seed: every random choice followed from it, those of the splits included.
        report: None where it failed.
        error: with what it failed, "NonFiniteError: …"; None where it did not.
        repaired: the `Repaired`, with the model; None where it failed, was saved or read back.
        folder: where it is saved; `timm_repair.from_pretrained(folder)` loads its model.
    """

    seed: int
    report: Report | None = None
    error: str | None = None
    repaired: Any = field(default=None, compare=False, repr=False)
    folder: Path | None = field(default=None, compare=False)

    def __post_init__(self):
        if (self.report is None) == (self.error is None):
            raise DataError("a run has either a report or the error that it ended with")


@dataclass(frozen=True)
class Row:
    """One method: its runs, one a seed. `report`, `repaired` and `folder` are of the first that did
    not fail.
    """

    label: str
    runs: tuple[Run, ...]

    def __post_init__(self):
        object.__setattr__(self, "runs", tuple(self.runs))
        seeds = [run.seed for run in self.runs]
        if not seeds or len(set(seeds)) < len(seeds):
            raise DataError(f"row {self.label!r} needs runs of different seeds, got {seeds}")

    @property
    def done(self) -> tuple[Run, ...]:
        """The runs that have a report."""
        return tuple(run for run in self.runs if run.report is not None)

    @property
    def reports(self) -> dict[int, Report]:
        """Seed to report, of those that have one."""
        return {run.seed: run.report for run in self.runs if run.report is not None}

    @property
    def errors(self) -> dict[int, str]:
        """Seed to what failed, of those that did."""
        return {run.seed: run.error for run in self.runs if run.error is not None}

    @property
    def report(self) -> Report:
        """Raises RepairError if all runs failed."""
        if not self.done:
            raise RepairError(f"{self.label!r} has no report: {self.runs[0].error}")
        report = self.done[0].report
        assert report is not None, "that is what done says"
        return report

    @property
    def repaired(self) -> Any:
        """The `Repaired`; None where it was saved to `folder` instead, or failed."""
        return self.done[0].repaired if self.done else None

    @property
    def folder(self) -> Path | None:
        """Where the repaired model is saved; None where it was not."""
        return self.done[0].folder if self.done else None

    @property
    def seconds(self) -> float | None:
        """Of one repair: the mean over the seeds; None if all failed."""
        return self.mean(lambda report: report.seconds)[0]

    def mean(
        self, of: Callable[[Report], float | None]
    ) -> tuple[float | None, tuple[float, float] | None]:
        """The mean over the seeds of what `of` reads from a report, and its 95 % interval over the
        seeds; None where no report has it, or only one.
        """
        values = [value for r in self.reports.values() if (value := of(r)) is not None]
        return mean_interval(values) if values else (None, None)

    @cached_property
    def verdicts(self) -> dict[int, Verdict]:
        """Seed to verdict."""
        return {seed: report.verdict for seed, report in self.reports.items()}

    @property
    def kind(self) -> str:
        """ "harmful" if it is under any seed, "helpful" if under each, "failed" if there is no
        result, else "unclear".
        """
        kinds = {each.kind for each in self.verdicts.values()}
        if not kinds:
            return FAILED
        return HARMFUL if HARMFUL in kinds else HELPFUL if kinds == {HELPFUL} else UNCLEAR

    def population(self, name: str) -> Repeats:
        """What it did to one population, over its seeds."""
        reports = self.reports
        return Repeats(
            tuple(report.population(name) for report in reports.values()), tuple(reports)
        )


Rows = Mapping[str, Row]  # by label
