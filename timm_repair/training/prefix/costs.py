"""What a prefix cache would save, counted in FLOPs and bytes.

A clock would tell more about one machine, but a run that was killed and goes on must decide as it
did before.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil

from timm_repair.data.repair_data import RepairData
from timm_repair.training.mixing import counts
from timm_repair.training.options import INTERPOLATIONS, Training
from timm_repair.training.populations import SELECTION, Populations

BYTE_FLOPS = 16  # moving a byte of a kept map takes about as long as so many FLOPs
LEAST_GAIN = 0.03  # of the cost of the run; below, keeping is not worth its memory


@dataclass(frozen=True)
class Demand:
    """How often a run reads the examples of one population.

    Args:
        rows: number of examples.
        views: fixed views of each that are read; 0 where each read is of another.
        reads: of an example in one of its views, over the run and all processes.
        flops: per read, of all that is computed with or without a cache.
    """

    name: str
    rows: int
    views: int
    reads: int
    flops: float


@dataclass(frozen=True)
class Costs:
    """FLOPs of one image's forward pass, before the part that is trained, in it, and behind it;
    bytes of what arrives there.

    A step costs `prefix` + 3 `part` + 2 `suffix`: the prefix takes no gradient, the suffix none for
    its weights.
    """

    prefix: int
    part: int
    suffix: int
    bytes: int

    @property
    def step(self) -> int:
        """FLOPs of a training step for one example, but for the prefix."""
        return 3 * self.part + 2 * self.suffix

    @property
    def measurement(self) -> int:
        """FLOPs of one forward pass, but for the prefix."""
        return self.part + self.suffix

    def saved(self, demand: Demand, rows: int) -> float:
        """FLOPs that keeping `rows` of its examples saves; the copies count as `BYTE_FLOPS` per
        byte.
        """
        reads, entries = demand.reads * rows / demand.rows, demand.views * rows
        return (reads - entries) * self.prefix - (reads + entries) * self.bytes * BYTE_FLOPS


def demands(
    examples: Populations, data: RepairData, training: Training, costs: Costs
) -> list[Demand]:
    """What a repair of `training.steps` steps reads."""
    found = []
    for name, count in counts(training, data).items():
        rows, reads = len(examples.populations[name]), count * training.steps
        if count:
            found.append(
                Demand(name, rows, min(examples.views or 0, ceil(reads / rows)), reads, costs.step)
            )
    for name, images in examples.populations.items():
        if name.startswith(SELECTION) and len(images):
            # at the start and on the way, then the mixtures with the original, and what was lost
            times = training.choosing.evaluations + 2 + len(INTERPOLATIONS)
            times += name == SELECTION + "retained"
            found.append(
                Demand(
                    name,
                    len(images),
                    1,
                    len(images) * times,
                    costs.measurement,
                )
            )
    return found


def worthwhile(
    wanted: Iterable[Demand], costs: Costs, budget: int, *, always: bool = False
) -> dict[str, int]:
    """How many examples of each population to keep: those first that save most per byte, as long as
    `budget` bytes last.

    Empty if all together would save less than `LEAST_GAIN` of the run, unless `always`, which keeps
    whatever fits.
    """
    wanted, kept, saved = list(wanted), {}, 0.0
    again = [demand for demand in wanted if demand.views]
    for demand in sorted(
        again, key=lambda demand: demand.reads / (demand.rows * demand.views), reverse=True
    ):
        rows = min(demand.rows, budget // (demand.views * costs.bytes))
        gain = costs.saved(demand, rows)
        if rows and (always or gain > 0):
            kept[demand.name] = rows
            budget -= rows * demand.views * costs.bytes
            saved += gain
    whole = sum(demand.reads * (demand.flops + costs.prefix) for demand in wanted)
    return kept if always or saved >= LEAST_GAIN * whole else {}
