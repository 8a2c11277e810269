"""What the files that repair_cifar.py wrote say: one row a method, population and seed."""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

UNCORRUPTED = "drift"  # the population of everyday
MEANINGS = "confused_pair", "forgotten_group"  # see meanings.py
UNIT = "finetune network"  # the row whose time is 1
CHOSEN = "finetune chosen block (derived)"


@dataclass(frozen=True)
class Row:
    """One method on one population with one seed: accuracies in percent, counts on the failing
    population, time relative to UNIT.
    """

    failing: float
    clean: float
    fixed: int
    broken: int
    time: float | None


Results = dict[str, dict[int, dict[str, Row]]]  # population -> seed -> method -> Row


def read(directory: Path) -> tuple[Results, list[dict]]:
    """The rows of all result files, corruptions first, and the files themselves."""
    files = [json.loads(path.read_text()) for path in sorted(directory.glob("repair_cifar-*.json"))]
    files.sort(key=lambda f: (f["population"] == UNCORRUPTED, f["population"], f["seed"]))
    results: Results = {}
    for file in files:
        results.setdefault(file["population"], {})[file["seed"]] = rows_of(file)
    labels = {tuple(rows) for seeds in results.values() for rows in seeds.values()}
    if len(labels) > 1:
        raise SystemExit(
            f"the files of {directory} do not have the same rows; delete those of an earlier"
            " version of the benchmark"
        )
    return results, files


def rows_of(file: dict) -> dict[str, Row]:
    """The rows of one file in the order of the table; the original and the chosen block follow from
    the others.
    """
    reports, unit = file["rows"], file["rows"][UNIT]["seconds"]

    def row(report: dict, when: str = "after", seconds: float | None = None) -> Row:
        failing, clean = (report["populations"][name] for name in ("failing", "clean"))
        counts = (failing["fixed"], failing["broken"]) if when == "after" else (0, 0)
        time = (
            None if when == "before" else (report["seconds"] if seconds is None else seconds) / unit
        )
        return Row(100 * failing[when], 100 * clean[when], *counts, time)

    def localization(report: dict) -> float:
        return sum(stage["seconds"] for stage in report["stages"] if stage["name"] == "localize")

    searched = reports["archrepair"]
    chosen = reports[f"finetune {searched['block']}"]
    rows = {"original": row(searched, "before")}
    for label, report in reports.items():
        if label == "archrepair":
            # tuned as its own row was, after the localization that archrepair paid for
            rows[CHOSEN] = row(
                chosen, seconds=chosen["seconds"] - localization(chosen) + localization(searched)
            )
        rows[label] = row(report)
    return rows


def average(
    results: Results, label: str, get: Callable[[Row], float], populations: Iterable[str]
) -> float:
    """Mean over the populations of the mean over their seeds."""
    return mean(
        mean(get(rows[label]) for rows in results[population].values())
        for population in populations
    )
