"""Write the tables of README.md and docs/ from benchmarks/results/, where no measured number is
typed by hand, and that of docs/methods/README.md from the methods.

    python -m benchmarks.table            # rewrite them
    python -m benchmarks.table --check    # exit 1 if they are out of date

A table stands between `<!-- table:NAME:start -->` and `<!-- table:NAME:end -->`.
repair_cifar-*.json (one population and one seed each, any number of seeds) give "summary" (the
README's), "repair_cifar" and "targets", repair_cifar_plain-*.json "plain", speed.json "speed",
localization/*.json "regret", all in docs/results.md. Those of the two other pages are in
imagenet/costs.py and speed/prefix_tables.py.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from statistics import mean, stdev

from benchmarks import methods, property_tables
from benchmarks.diagnosis import tables as diagnosis_tables
from benchmarks.imagenet import costs
from benchmarks.localization import regret_tables
from benchmarks.repair import default_tables
from benchmarks.speed import prefix_tables
from timm_repair.localization.localizing import DEFAULT_SCORER

ROOT = Path(__file__).parent.parent
UNCORRUPTED = "drift"  # the population that is no corruption
UNIT = "finetune network"  # the row whose time is 1
CHOSEN = "finetune chosen block (derived)"
SUMMARY = {  # rows of the README's table
    "original": "original",
    "bn_recalibration": "new batch-norm statistics",
    UNIT: "fine-tuning, whole network",
    CHOSEN: "fine-tuning, chosen block",
    "archrepair": "archrepair (default)",
    "archrepair random": "archrepair, random paths",
}
GAIN, CLEAN_LOSS = 0.5, 0.5  # targets, in points
# targets, as shares of the time of fine-tuning the whole network
SWEEP, EARLY, LATE = 0.45, 1.2, 0.7
PAGES = {
    "processes.md": costs.TABLES,
    "speed.md": prefix_tables.TABLES,
    "diagnosis.md": diagnosis_tables.TABLES,
    "properties.md": property_tables.TABLES,
    "training.md": default_tables.TABLES,
}
MISSING = "*Not measured yet.*"


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


def spread(values: list[float]) -> str:
    return f" ± {stdev(values):.1f}" if len(values) > 1 else ""


def title(population: str) -> str:
    return population.replace("_", " ")


def markdown(header: list[str], rows: list[list[str]], column: str = "---:") -> str:
    lines = [header, ["---", *[column] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def repair_table(results: Results, files: list[dict]) -> str:
    """All methods; per population the failing and, where it is another, the clean accuracy."""
    if not results:
        return MISSING
    corruptions, every = [p for p in results if p != UNCORRUPTED], list(results)
    over = corruptions or every
    table = []
    for label in next(iter(results[every[0]].values())):
        cells = []
        for population in every:
            failing = [rows[label].failing for rows in results[population].values()]
            clean = mean(rows[label].clean for rows in results[population].values())
            # without a corruption the two are the same photographs
            cells.append(
                f"{mean(failing):.1f}{spread(failing)}"
                + (f" / {clean:.1f}" if population != UNCORRUPTED else "")
            )
        failing, clean, fixed, broken = (
            average(results, label, get, over)
            for get in (
                lambda r: r.failing,
                lambda r: r.clean,
                lambda r: r.fixed,
                lambda r: r.broken,
            )
        )
        time = (
            "" if label == "original" else f"{average(results, label, lambda r: r.time, every):.2f}"
        )
        table.append(
            [label, *cells, f"{failing:.1f} / {clean:.1f}", f"{fixed:.0f}", f"{broken:.0f}", time]
        )
    header = ["method", *map(title, every), "mean of the corruptions", "fixed", "broken", "time"]
    return f"{markdown(header, table)}\n\n{caption(results, files)}"


def summary_table(results: Results) -> str:
    """The README's table: means over populations and seeds, without the rows of single blocks."""
    if not results:
        return MISSING
    corruptions = [p for p in results if p != UNCORRUPTED] or list(results)
    table = []
    for label, name in SUMMARY.items():
        failing, clean, fixed, broken = (
            average(results, label, attrgetter(quantity), corruptions)
            for quantity in ("failing", "clean", "fixed", "broken")
        )
        drift, time = "", ""
        if UNCORRUPTED in results:
            drift = f"{average(results, label, attrgetter('failing'), [UNCORRUPTED]):.1f}"
        if label != "original":
            time = f"{average(results, label, attrgetter('time'), results):.2f}"
        counts = [f"{fixed:.0f}", f"{broken:.0f}"]
        table.append([name, f"{failing:.1f}", f"{clean:.1f}", *counts, drift, time])
    return markdown(["", "corrupted", "the same, clean", "fixed", "broken", "drift", "time"], table)


def caption(results: Results, files: list[dict]) -> str:
    """What the numbers are, as far as the files tell."""
    first = files[0]
    populations = first["rows"]["archrepair"]["populations"]
    steps = first["rows"]["archrepair"]["options"]["training"]["steps"]
    seeds, failures = span([len(s) for s in results.values()]), span([f["failures"] for f in files])
    versions = ", ".join(
        f"{name} {version}"
        for name, version in first["versions"].items()
        if name in ("torch", "timm")
    )
    return (
        f"{first['model']}; accuracy in % on the failing population / on the same photographs"
        f" uncorrupted, after the repair (held out: {populations['failing']['n']:,} each); mean ±"
        f" standard deviation over {seeds} seeds. Fixed and broken: examples of the failing"
        f" population, mean of the corruptions. Time: of the repair, relative to `{UNIT}`. Every"
        f" method has {steps} steps and {failures} failures. `{CHOSEN}`: the row of the block that"
        " archrepair's localization chose, with the time of that localization added. Precision"
        f" {first['precision']}; {versions}."
    )


def span(values: list[int]) -> str:
    return "–".join(f"{n:,}" for n in sorted({min(values), max(values)}))


def targets_table(results: Results) -> str:
    """archrepair against the best other row and against the original, with the targets."""
    if not results:
        return MISSING
    corruptions = [p for p in results if p != UNCORRUPTED]
    labels = list(next(iter(results[next(iter(results))].values())))
    others = [label for label in labels if label != "archrepair"]
    rows = []

    def add(
        name: str,
        populations: list[str],
        quantity: str,
        other: str | None = None,
        target: float | None = None,
    ) -> None:
        def get(row: Row) -> float:
            return getattr(row, quantity)

        other = other or max(others, key=lambda label: average(results, label, get, populations))
        ours, theirs = (
            average(results, label, get, populations) for label in ("archrepair", other)
        )
        common = set.intersection(*(set(results[p]) for p in populations))
        paired = [
            mean(
                get(results[p][seed]["archrepair"]) - get(results[p][seed][other])
                for p in populations
            )
            for seed in common
        ]
        wanted = (
            ""
            if target is None
            else f"at least {target:+.1f}: {verdict(round(ours - theirs, 9) >= target)}"
        )
        rows.append(
            [
                name,
                quantity,
                f"{ours:.1f}",
                other,
                f"{theirs:.1f}",
                f"{ours - theirs:+.1f}{spread(paired)}",
                wanted,
            ]
        )

    if corruptions:
        add("mean of the corruptions", corruptions, "failing", target=GAIN)
        add("mean of the corruptions", corruptions, "clean", "original", -CLEAN_LOSS)
    for population in results:
        add(title(population), [population], "failing")
    if UNCORRUPTED in results:  # there failing and clean are the same photographs
        add(title(UNCORRUPTED), [UNCORRUPTED], "failing", "original", 0.0)
    header = [
        "population",
        "accuracy",
        "archrepair",
        "compared with",
        "its accuracy",
        "difference",
        "target",
    ]
    return (
        markdown(header, rows)
        + "\n\nDifferences in points, ± their standard deviation over seeds. Where no target is"
        " given, and in the first row, the comparison is with the best of all other rows of the"
        " table above, chosen by its mean."
    )


def plain_table(directory: Path, results: Results) -> str:
    """What leaving the original's answer out of a failure's softmax changes: rows run with
    `wrong_class_weight=1` against the others.
    """
    rows = []
    for path in sorted(directory.glob("repair_cifar_plain-*.json")):
        file = json.loads(path.read_text())
        ours = results.get(file["population"], {}).get(file["seed"])
        for label, report in file["rows"].items() if ours else ():
            failing, clean = (report["populations"][name] for name in ("failing", "clean"))
            plain = [
                f"{100 * failing['after']:.1f} / {100 * clean['after']:.1f}",
                f"{failing['fixed']:,}",
                f"{failing['broken']:,}",
            ]
            other = [
                f"{ours[label].failing:.1f} / {ours[label].clean:.1f}",
                f"{ours[label].fixed:,}",
                f"{ours[label].broken:,}",
            ]
            rows.append(
                [f"{title(file['population'])}, seed {file['seed']}, {label}", *plain, *other]
            )
    if not rows:
        return MISSING
    header = [
        "",
        "plain cross-entropy: failing / clean",
        "fixed",
        "broken",
        "without the first answer: failing / clean",
        "fixed",
        "broken",
    ]
    return markdown(header, rows)


def speed_table(path: Path) -> str:
    """Time of the localization sweep and of whole repairs, relative to fine-tuning the whole
    network.
    """
    if not path.exists():
        return MISSING
    speed = json.loads(path.read_text())
    blocks = speed["repair"]

    def row(name: str, unit: str, times: dict, target: float) -> list[str]:
        low, high = times["ratio_min"], times["ratio_max"]
        wanted = f"at most {target}: {verdict(times['ratio_median'] <= target)}"
        return [name, unit, f"{times['ratio_median']:.2f}", f"{low:.2f} – {high:.2f}", wanted]

    rows = [
        row(f"localization, `{each['scorer']}`", "one epoch over the same data", each, SWEEP)
        for each in speed["localization"]
    ]
    for i, each in enumerate(blocks):
        rows.append(
            row(
                f"archrepair of `{each['block']}`",
                "as many steps",
                each,
                EARLY if i < len(blocks) / 2 else LATE,
            )
        )
    return markdown(
        ["what", "relative to fine-tuning the whole network for", "median", "range", "target"], rows
    )


def regret_table(directory: Path) -> str:
    """Scorers by what is lost by following them, and the targets of the default."""
    cases = regret_tables.read(directory)
    if not cases:
        return MISSING
    models = list(dict.fromkeys(case.model for case in cases))
    found, table = regret_tables.rows(cases, regret_tables.costs(directory)), []
    for row in found:
        scorer = row["scorer"]
        name = (
            scorer
            if scorer.startswith("*")
            else f"**`{scorer}`** (default)"
            if scorer == DEFAULT_SCORER
            else f"`{scorer}`"
        )
        model, task = row["worst_case"]
        optional = [
            f"{value:.2f}" if value is not None else ""
            for value in (row["honest"], row["rank"], row["cost"])
        ]
        table.append(
            [
                name,
                f"{row['mean']:.2f}",
                f"{row['worst']:.1f} ({short(model)}, {title(task)})",
                *optional,
                *(f"{row['by_model'][m]:.2f}" for m in models),
            ]
        )
    seeds = {}
    for m in models:
        counts = zip(
            *((len(case.held), len(case.scores)) for case in cases if case.model == m), strict=True
        )
        seeds[m] = [span(list(each)) for each in counts]
    tasks = {m: sum(case.model == m for case in cases) for m in models}
    default = next(row for row in found if row["scorer"] == DEFAULT_SCORER)
    limits = {
        "mean": regret_tables.MEAN_REGRET,
        "worst": regret_tables.WORST_REGRET,
        "cost": regret_tables.COST,
    }
    targets = ", ".join(
        f"{what} at most {limit}: {verdict(default[what] <= limit)}"
        for what, limit in limits.items()
        if default[what] is not None
    )
    header = [
        "score",
        "mean regret",
        "worst regret",
        "against the best of other seeds",
        "rank correlation",
        "cost",
        *map(short, models),
    ]
    measured = "; ".join(
        f"{short(m)}: {tasks[m]} tasks, seeds: {seeds[m][0]} of the repairs, {seeds[m][1]} of the"
        " scores"
        for m in models
    )
    return (
        f"{markdown(header, table)}\n\nRegret in points of held-out accuracy on the failing"
        f" population, mean over tasks ({measured}). Cost in sweeps: the time of one forward and"
        " backward pass over the failures and twice as many retained examples. Targets of the"
        f" default: {targets}."
    )


def read_and(make: Callable[[dict], tuple], path: Path) -> str:
    """The table that `make` makes of a result file, or of all those in a folder."""
    if not path.exists():
        return MISSING
    if path.is_dir():
        return markdown(*make([json.loads(each.read_text()) for each in sorted(path.glob("*"))]))
    return markdown(*make(json.loads(path.read_text())))


def short(model: str) -> str:
    return model.removesuffix("_cifar10")


def verdict(met: bool) -> str:
    return "met" if met else "missed"


def fill(text: str, tables: dict[str, str]) -> str:
    """`text` with each table between its markers."""
    for name, table in tables.items():
        start, end = f"<!-- table:{name}:start -->", f"<!-- table:{name}:end -->"
        if text.count(start) != 1 or text.count(end) != 1:
            raise SystemExit(f"the text needs {start} and {end} exactly once")
        text = re.sub(
            f"{start}.*{end}", lambda _, new=f"{start}\n{table}\n{end}": new, text, flags=re.DOTALL
        )
    return text


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--check", action="store_true", help="change nothing; exit 1 if a table is out of date"
    )
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs")
    arguments = parser.parse_args()
    results, files = read(arguments.results)
    tables = {
        "repair_cifar": repair_table(results, files),
        "targets": targets_table(results),
        "regret": regret_table(arguments.results / "localization"),
        "plain": plain_table(arguments.results, results),
        "speed": speed_table(arguments.results / "speed.json"),
    }
    pages = {
        arguments.readme: {"summary": summary_table(results)},
        arguments.docs / "results.md": tables,
        arguments.docs / "methods" / "README.md": {
            "methods": markdown(*methods.methods_table(), column="---")
        },
    }
    for page, of_page in PAGES.items():
        pages[arguments.docs / page] = {
            name: read_and(make, arguments.results / file) for name, (file, make) in of_page.items()
        }
    after = {page: fill(page.read_text(), its) for page, its in pages.items()}
    if arguments.check:
        stale = any(page.read_text() != text for page, text in after.items())
        sys.exit("the tables are out of date: run python -m benchmarks.table" if stale else 0)
    for page, text in after.items():
        page.write_text(text)


if __name__ == "__main__":
    main()
