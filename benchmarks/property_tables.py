"""The tables of docs/properties.md, from properties.json; table.py writes them."""

from collections.abc import Iterable, Mapping, Sequence
from statistics import mean

SECOND = "property 2"  # of many networks: they are one row
ACTIVATIONS = "imitator"
Table = tuple[list[str], list[list[str]]]


def groups(cells: Mapping[str, Mapping]) -> dict[str, dict[str, list[Mapping]]]:
    """Group of tasks -> method -> its repairs that came to their end."""
    found: dict[str, dict[str, list[Mapping]]] = {}
    for key, cell in cells.items():
        task, _, method = key.split(" | ")
        single = ACTIVATIONS in task or not task.endswith(f", {SECOND}")
        group = task if single else f"networks that violate {SECOND}"
        methods = found.setdefault(group, {})
        if "error" not in cell:
            methods.setdefault(method, []).append(cell)
    return found


def table(results: Mapping) -> Table:
    """Violations before and after, what a search finds besides, drawdown and seconds, by group of
    tasks and method: means.
    """
    header = [
        "network and property",
        "method",
        "repairs",
        "violating before, in 10,000",
        "after",
        "none left",
        "none found by search either",
        "answers changed, %",
        "seconds",
    ]
    rows = []
    for group, methods in groups(results["cells"]).items():
        for number, (method, cells) in enumerate(methods.items()):
            rows.append([group if number == 0 else "", method, *_measured(cells)])
    return header, rows


def _measured(cells: Sequence[Mapping]) -> Iterable[str]:
    before, after = (mean(1e4 * c[when][0] / c["samples"] for c in cells) for when in WHEN)
    clean = sum(not cell["after"][0] for cell in cells)
    safe = sum(not any(cell["after"]) for cell in cells)
    changed = mean(100 * c["changed"] / max(c["samples"] - c["before"][0], 1) for c in cells)
    seconds = mean(cell["repair_seconds"] for cell in cells)
    return (
        str(len(cells)),
        f"{before:.1f}",
        f"{after:.2f}",
        f"{clean} of {len(cells)}",
        f"{safe} of {len(cells)}",
        f"{changed:.2f}",
        f"{seconds:.1f}",
    )


WHEN = ("before", "after")
TABLES = {"properties": ("properties.json", table)}
