"""The table "speed" of docs/results.md, from speed.json; table.py writes it."""

import json
from pathlib import Path

from benchmarks.markdown import MISSING, markdown, verdict

# targets, as shares of the time of fine-tuning the whole network
SWEEP, EARLY, LATE = 0.45, 1.2, 0.7


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
