"""The tables of docs/training.md and the README's "summary", from results/default/*.json, and that
of docs/comparing.md, from results/every_method/*.json; table.py writes them.
"""

from collections.abc import Mapping, Sequence
from statistics import mean

from benchmarks.repair.cifar_results import MEANINGS, UNCORRUPTED

PLAIN = ("plain, whole network", "plain, first two blocks", "plain, first block", "retained only")
DEFAULT = "default"
SUMMARY = {  # rows of the README's table; a cell counts where it has all of them
    PLAIN[0]: "fine-tuning, whole network",
    PLAIN[1]: "fine-tuning, first two blocks",
    DEFAULT: "timm_repair's default",
}
# seeds that something was chosen on, or changed after; of classes and drift one more
LOOKED_AT, LOOKED_AT_CLASSES = (0, 1), (0, 1, 2)
GAIN, CLEAN, SLOWER = 2.5, 0.5, 1.1  # targets: points, points, ratio
FEW = 250  # failures of a corruption; of these cells there is a target of their own
# of the abstracts and tables of the papers that give numbers for image classifiers, or for what
# else they repair
CLAIMS = {
    "archrepair": "85.0 → 88.5, best other method 86.8 (CIFAR-10, ResNet-18, its Table 5)",
    "finetune": "85.0 → 85.7, of the whole network (CIFAR-10, ResNet-18, ArchRepair's Table 1)",
    "mode": "75 → 93 % on simple, 75 → 91 % on complex applications (abstract)",
    "apricot": "0.87 to 1.55 points of test accuracy, 1.08 on average (abstract)",
    "neu_recover": "breaks often less than a quarter of what Arachne does (abstract)",
}
Table = tuple[list[str], list[list[str]]]


def summary_table(cells: Sequence[Mapping]) -> Table:
    """The README's: means over the cells of corruptions, the original first; time relative to one
    run of the whole network.
    """
    found = [c for c in cells if _many(c) and not SUMMARY.keys() - c["rows"].keys()]
    models = {c["model"] for c in found}
    what = f"{len(found)} corrupted populations, {len(models)} models"
    header = [what, "corrupted", "the same, clean", "fixed", "broken", "time"]
    if not found:
        return header, []
    seen = [[c["rows"][DEFAULT]["populations"][p] for p in ("population", "clean")] for c in found]
    before = (_percent(mean(each["before"] for each in of)) for of in zip(*seen, strict=True))
    table = [["original", *before, "0", "0", ""]]
    for label, name in SUMMARY.items():
        rows = [c["rows"][label]["populations"] for c in found]
        fixed = mean(_fixed(row["population"]) for row in rows)
        broken = mean(row["population"]["broken"] for row in rows)
        after = (_percent(mean(row[p]["after"] for row in rows)) for p in ("population", "clean"))
        times = [t for c in found if (t := _time(c, label)) is not None]
        time = f"{mean(times):.2f}" if times else ""
        table.append([name, *after, f"{fixed:.0f}", f"{broken:.0f}", time])
    return header, table


def rows_table(cells: Sequence[Mapping], unit: str = PLAIN[0]) -> Table:
    """Every row of every cell: accuracy on the population that fails and on the clean photographs,
    the class that lost most, flips, seconds relative to the row `unit`, latency.
    """
    header = ["model, population, seed", "row", "population", "clean", "worst class", "broken",
              "time", "latency", "repaired"]  # fmt: skip
    found = []
    for cell in cells:
        name = f"{cell['model']}, {cell['population'].replace('_', ' ')}, {cell['seed']}"
        if _corrupted(cell) and not _many(cell):
            name += f", {cell['failures']} failures"
        before = next(iter(cell["rows"].values()))["populations"]
        found.append([name, "original", *(_percent(before[p]["before"]) for p in before),
                      "", "", "", "", ""])  # fmt: skip
        for label, row in cell["rows"].items():
            seen, clean = row["populations"]["population"], row["populations"]["clean"]
            time = _time(cell, label, unit)
            found.append([
                "",
                label,
                _percent(seen["after"]),
                _percent(clean["after"]),
                f"{100 * clean['worst class']:+.1f}",
                f"{seen['broken']} + {clean['broken']}",
                "" if time is None else f"{time:.2f}",
                "" if row["latency"] is None else f"{1 + row['latency']:.2f}",
                ", ".join(row["repaired"]) or "all",
            ])  # fmt: skip
    return header, found


def methods_table(cells: Sequence[Mapping]) -> Table:
    """The same of every method, the best on the population that fails first."""

    def after(row: tuple[str, Mapping]) -> float:
        return row[1]["populations"]["population"]["after"]

    ranked = [c | {"rows": dict(sorted(c["rows"].items(), key=after, reverse=True))} for c in cells]
    header, found = rows_table(ranked, "finetune")
    return ["model, population, seed", "method", *header[2:]], found


def claims_table(cells: Sequence[Mapping]) -> Table:
    """What the papers say of their methods, each on its own task, and what was measured here: the
    population that fails and the clean photographs before and after, means over the cells.
    """
    header = ["method", "its paper", "cells", "population here", "clean here"]
    found = []
    for method, claim in CLAIMS.items():
        rows = [c["rows"][method]["populations"] for c in cells if method in c["rows"]]
        measured = [
            " → ".join(_percent(mean(row[p][when] for row in rows)) for when in ("before", "after"))
            for p in ("population", "clean")
            if rows
        ]
        found.append([method, claim, str(len(rows)), *(measured or ["not measured"] * 2)])
    return header, found


def targets_table(cells: Sequence[Mapping]) -> Table:
    """What was to be reached, and in how many cells it was: of all, and of the seeds on which
    nothing was chosen.
    """
    every = _reached(cells)
    untouched = _reached([cell for cell in cells if not _looked_at(cell)])
    header = ["target", "cells", "measured", "", "cells of untouched seeds", "measured", ""]
    return header, [
        [target, *every[target], *untouched.get(target, ("0", "", ""))] for target in every
    ]


def _reached(cells: Sequence[Mapping]) -> dict[str, tuple[str, str, str]]:
    """Target to the number of cells, what was measured, and whether that is enough."""
    whole = [c for c in cells if DEFAULT in c["rows"] and any(p in c["rows"] for p in PLAIN)]
    found = {}
    for what, least, these in (
        ("corruptions, on average", GAIN, [c for c in whole if _many(c)]),
        ("drift and on failures by class", 0, [c for c in whole if not _corrupted(c)]),
    ):
        if gains := [_gain(c) for c in these]:
            told = f"{mean(gains):+.1f} ({min(gains):+.1f} to {max(gains):+.1f})"
            target = f"points above the best plain row on {what}: {least}"
            found[target] = (str(len(gains)), told, _verdict(mean(gains) >= least))
    few = [c for c in whole if _corrupted(c) and not _many(c)]
    same = [c for c in whole if _many(c) and any(_task(c) == _task(each) for each in few)]
    if few and same:
        gains, more = [_gain(c) for c in few], mean(_gain(c) for c in same)
        told = f"{mean(gains):+.1f} ({min(gains):+.1f} to {max(gains):+.1f})"
        count = few[0]["failures"]
        target = f"points above it with {count} failures, at least as with 1,000: {more:+.1f}"
        found[target] = (str(len(few)), told, _verdict(mean(gains) >= more))
    if losses := [_clean_loss(c["rows"][DEFAULT]) for c in whole]:
        held = sum(loss <= CLEAN for loss in losses)
        told = f"{held} of {len(losses)} cells; {max(losses):.1f} at worst"
        target = f"points of clean accuracy lost, at most: {CLEAN}, in every cell"
        found[target] = (str(len(losses)), told, _verdict(held == len(losses)))
    measured = [c["rows"][DEFAULT]["latency"] for c in whole]
    if slow := [1 + latency for latency in measured if latency is not None]:
        target = f"latency, at most: {SLOWER} times the original's"
        told = f"{max(slow):.2f} at worst"
        found[target] = (str(len(slow)), told, _verdict(max(slow) <= SLOWER))
    if times := [t for c in whole if (t := _time(c, DEFAULT)) is not None]:
        told = f"{mean(times):.2f} ({min(times):.2f} to {max(times):.2f})"
        target = "seconds, of those of one run of the whole network: 1"
        found[target] = (str(len(times)), told, _verdict(mean(times) <= 1))
    return found


def _looked_at(cell: Mapping) -> bool:
    return cell["seed"] in (LOOKED_AT if _corrupted(cell) else LOOKED_AT_CLASSES)


def _task(cell: Mapping) -> tuple:
    return cell["model"], cell["population"], cell["seed"]


def _corrupted(cell: Mapping) -> bool:
    return cell["population"] not in (UNCORRUPTED, *MEANINGS)


def _many(cell: Mapping) -> bool:
    """Whether it is of a corruption and has many failures."""
    return _corrupted(cell) and cell["failures"] > FEW


def _gain(cell: Mapping) -> float:
    """Points of the default above the best plain row, on the population that fails."""
    after = {
        label: row["populations"]["population"]["after"] for label, row in cell["rows"].items()
    }
    return 100 * (after[DEFAULT] - max(after[p] for p in PLAIN if p in after))


def _time(cell: Mapping, label: str, unit: str = PLAIN[0]) -> float | None:
    """Processor time of a row relative to that of the row `unit`, where both are known."""
    own, one = (cell["rows"].get(row, {}).get("seconds") for row in (label, unit))
    return own / one if own is not None and one else None


def _fixed(population: Mapping) -> int:
    """How many answers became right."""
    gained = (population["after"] - population["before"]) * population["n"]
    return round(gained) + population["broken"]


def _clean_loss(row: Mapping) -> float:
    clean = row["populations"]["clean"]
    return 100 * (clean["before"] - clean["after"])


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _verdict(met: bool) -> str:
    return "met" if met else "missed"


SUMMARIES = {"summary": ("default", summary_table)}
TABLES = {"default": ("default", rows_table), "default_targets": ("default", targets_table)}
EVERY_METHOD = {
    "every_method": ("every_method", methods_table),
    "claims": ("every_method", claims_table),
}
