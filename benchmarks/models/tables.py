"""The table of blocks.md, from benchmarks/results/methods_of_models.json."""

from collections import Counter
from textwrap import shorten

HEADER = ["method", "repairs", "refuses", "raw errors", "why, most often"]
WORDS = 90  # of an error


def methods_of_models(found: dict) -> tuple[list[str], list[list[str]]]:
    """A line a method, over the models that were reached; those that repair fewest come last."""
    rows = [row["methods"] for row in found["models"].values() if "methods" in row]
    lines = []
    for method in found["totals"]["methods"]:
        outcomes = [row[method] for row in rows if method in row]
        raw = [each for each in outcomes if each.startswith("raw")]
        refused = [each for each in outcomes if each != "repairs" and each not in raw]
        why = Counter(
            shorten(each.partition(": ")[2], WORDS, placeholder=" …") for each in refused or raw
        ).most_common(1)
        done = len(outcomes) - len(raw) - len(refused)
        words = why[0][0] if why else ""
        lines.append([method, str(done), str(len(refused)), str(len(raw)), words])
    return HEADER, sorted(lines, key=lambda line: -int(line[1]))


TABLES = {"methods_of_models": ("methods_of_models.json", methods_of_models)}
