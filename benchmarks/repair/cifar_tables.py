"""The tables of repairs on CIFAR-10, "repair_cifar", "targets" and "plain" of docs/results.md;
table.py writes them.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

from benchmarks.markdown import MISSING, markdown, span, spread, title, verdict
from benchmarks.repair.cifar_results import CHOSEN, UNCORRUPTED, UNIT, Results, Row, average

GAIN, CLEAN_LOSS = 0.5, 0.5  # targets, in points


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


def targets_table(results: Results) -> str:
    """archrepair against the best other row and against the original, with the targets."""
    if not results:
        return MISSING
    corruptions = [p for p in results if p != UNCORRUPTED]
    rows = []
    if corruptions:
        of = ["mean of the corruptions", results, corruptions]
        rows.append(compared(*of, "failing", target=GAIN))
        rows.append(compared(*of, "clean", "original", -CLEAN_LOSS))
    for population in results:
        rows.append(compared(title(population), results, [population], "failing"))
    if UNCORRUPTED in results:  # there failing and clean are the same photographs
        of = [title(UNCORRUPTED), results, [UNCORRUPTED]]
        rows.append(compared(*of, "failing", "original", 0.0))
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


def compared(
    name: str,
    results: Results,
    populations: Sequence[str],
    quantity: str,
    other: str | None = None,
    target: float | None = None,
) -> list[str]:
    """archrepair's mean over `populations` beside that of `other`; None takes the best other."""

    def get(row: Row) -> float:
        return getattr(row, quantity)

    labels = next(iter(results[next(iter(results))].values()))
    other = other or max(
        (label for label in labels if label != "archrepair"),
        key=lambda label: average(results, label, get, populations),
    )
    ours, theirs = (average(results, label, get, populations) for label in ("archrepair", other))
    common = set.intersection(*(set(results[p]) for p in populations))
    paired = [
        mean(
            get(results[p][seed]["archrepair"]) - get(results[p][seed][other]) for p in populations
        )
        for seed in common
    ]
    wanted = ""
    if target is not None:
        wanted = f"at least {target:+.1f}: {verdict(round(ours - theirs, 9) >= target)}"
    difference = f"{ours - theirs:+.1f}{spread(paired)}"
    return [name, quantity, f"{ours:.1f}", other, f"{theirs:.1f}", difference, wanted]


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
