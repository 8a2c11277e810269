"""Estimate: what a repair would read, where it would work, and what it would cost; before it is
done.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from timm_repair.report import suspects, tables
from timm_repair.report.wording import clean, table, wrap


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A repair that was not done.

    Args:
        model: its name.
        method: of the repair.
        device: where it would compute, such as "cpu".
        read: per role what was read, as `Report.provenance["read"]`.
        blocks: that would be repaired; empty for the whole network.
        localization: as `Report.localization`; None where no score is to choose.
        steps: of the training.
        batch_size: images a step.
        seconds: per stage, what it is expected to take.
        peak_memory: bytes that were needed for what was tried: of the process, or of the
            accelerator where there is one.
        notes: what the numbers leave out.
    """

    model: str
    method: str
    device: str
    read: Mapping[str, Mapping]
    blocks: tuple[str, ...]
    localization: Mapping[str, Any] | None
    steps: int
    batch_size: int
    seconds: Mapping[str, float]
    peak_memory: int
    notes: tuple[str, ...] = ()

    @property
    def all_seconds(self) -> float:
        """Of all stages."""
        return sum(self.seconds.values())

    def to_dict(self) -> dict:
        """Plain JSON."""
        return asdict(self) | {"all_seconds": self.all_seconds, "trained": False}

    def __str__(self) -> str:
        """Plain text, at most 80 columns."""
        where = ", ".join(map(clean, self.blocks)) or "the whole network"
        head = (
            f"{clean(self.method)} would repair {where} of {clean(self.model, 200)}, in"
            f" {self.steps} steps of {self.batch_size} images on {clean(self.device)}. Nothing was"
            " repaired, nothing saved."
        )
        rows = [["stage", "seconds"], *([n, _rough(s)] for n, s in self.seconds.items())]
        rows.append(["all", f"about {_duration(self.all_seconds)}"])
        sections = [wrap(head)]
        if self.localization:
            sections.append(suspects.text(self.localization, None))
        sections.append(["What was read", *tables.read_lines(self.read)])
        memory = f"Peak memory: about {self.peak_memory / 2**30:.1f} GiB"
        sections.append(["Expected cost", *table(rows), memory])
        notes = [line for note in self.notes for line in wrap(clean(note, 1000), "  * ", "    ")]
        sections += [["Notes", *notes]] * bool(notes)
        return "\n\n".join("\n".join(lines) for lines in sections)


def _rough(seconds: float) -> str:
    """Two digits: more are not known."""
    return f"{float(f'{seconds:.2g}'):g}" if seconds >= 1 else "<1"


def _duration(seconds: float) -> str:
    for size, unit in ((3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{_rough(seconds / size)} {unit}"
    return f"{_rough(seconds)} seconds"
