"""The tables of diagnosis.md, from benchmarks/results/diagnosis.json and diagnosis_clean.json."""

from statistics import mean, median

HEADER = [
    "corruption",
    "severity",
    "models",
    "named right",
    "kind of the right family",
    "error of the strength",
    "told before → after",
    "explained",
    "wrong preprocessing claimed",
    "seconds",
    "MiB",
]
CLEAN = ["model", "draws", "nothing claimed", "a corruption", "wrong preprocessing", "told apart"]


def diagnosis_table(rows: dict) -> tuple[list[str], list[list[str]]]:
    """A line a corruption and severity, over the models that ran."""
    groups: dict[tuple[str, str], list[dict]] = {}
    for key, row in rows.items():
        _, corruption, severity = key.split()
        groups.setdefault((corruption, severity), []).append(row)
    lines = []
    for (corruption, severity), found in sorted(groups.items()):
        errors = [abs(e) for e in _known(found, "strength_error")]
        told, made = _known(found, "plain"), _known(found, "made")
        explained = _known(found, "explained")
        lines.append(
            [
                corruption.replace("_", " "),
                "-" if corruption == "clean" else severity,
                str(len(found)),
                str(sum(r["named"] for r in found)),
                str(sum(r["family"] for r in found)),
                f"{median(errors):.0%}" if errors else "-",
                f"{mean(told):.0%}" + (f" → {mean(made):.0%}" if made else ""),
                f"{mean(explained):.0%}" if explained else "-",
                str(sum(r["preprocessing"] is not None for r in found)),
                f"{median(r['seconds'] for r in found):.0f}",
                f"{max(r['rss_mib'] for r in found):.0f}",
            ]
        )
    return HEADER, lines


def clean_table(rows: dict) -> tuple[list[str], list[list[str]]]:
    """A line a model: of draws of failures with nothing in common, how many claimed something."""
    lines = []
    for model, drawn in rows.items():
        patterns, mistakes = (sum(bool(each[name]) for each in drawn) for name in
                              ("patterns", "preprocessing"))  # fmt: skip
        none = sum(not each["patterns"] and not each["preprocessing"] for each in drawn)
        told = f"{mean(each['told'] for each in drawn):.0%}"
        lines.append([model, *map(str, (len(drawn), none, patterns, mistakes)), told])
    return CLEAN, lines


def _known(found: list[dict], name: str) -> list[float]:
    return [row[name] for row in found if row[name] is not None]


TABLES = {
    "diagnosis": ("diagnosis.json", diagnosis_table),
    "diagnosis_clean": ("diagnosis_clean.json", clean_table),
}
