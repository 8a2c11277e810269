"""What it costs to be resumable: time of a repair with a journal (`repair(output_dir=...)`) over
that of the same repair without one.

    python -m benchmarks.speed.journal --model local-dir:MODELS/resnet18_cifar10 --data DATA/cifar10

Fine-tuning of the whole network keeps the largest state, archrepair runs two loops. The two
alternate in one process and the ratio is taken pair by pair; one pair before is not counted.
Evaluation before and after the repair, which costs the same with and without, is left out. The
number of checkpoints hardly depends on the number of steps, so the excess over 1 is larger here
than in a repair of the default
300. Prints and writes benchmarks/results/journal.json: ratios, the bytes of the largest checkpoint,
and how many were written in a run.
"""

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch
from accelerate import Accelerator

import timm_repair
from benchmarks.repair.populations import load_population
from benchmarks.speed import timing
from benchmarks.speed.speed import RESULTS, repair_once
from benchmarks.speed.timing import paired
from timm_repair.data.preparing import prepare
from timm_repair.hub.loading import load
from timm_repair.methods import named
from timm_repair.pipeline import case
from timm_repair.runtime.journal import LOOP, Journal
from timm_repair.runtime.runtime import Runtime

FAILURES, RETAINED = 400, 1000


class Measured(Journal):
    """A journal that notes the size of each checkpoint."""

    sizes: list[int]

    def checkpoint(self, name: str, state: object) -> None:
        super().checkpoint(name, state)
        self.sizes.append(self._path(name, LOOP).stat().st_size)


def main() -> None:
    parser = timing.parser(__doc__)
    parser.add_argument("--block", default="layer1", help="what archrepair repairs")
    arguments = parser.parse_args()
    runtime = Runtime(Accelerator(mixed_precision=arguments.precision), progress=False)
    _, model = load(arguments.model)
    population, train = load_population(arguments.data, "gaussian_blur_1.5", 0)
    failures = timm_repair.collect_failures(
        model, population.pool[: 2 * FAILURES], max_failures=FAILURES
    )
    data = prepare(
        model,
        failures,
        retain=train.select(range(0, len(train), len(train) // RETAINED)),
        runtime=runtime,
    )
    rows = []
    for method in (
        named("finetune", steps=arguments.steps),
        named("archrepair", block=arguments.block, steps=arguments.steps),
    ):
        sizes: list[list[int]] = []

        def with_journal(method: object = method, sizes: list = sizes) -> None:
            # a fresh one: a journal that is found would be read
            with tempfile.TemporaryDirectory() as folder:
                journal = Measured(Path(folder), {"benchmark": "journal"}, runtime.accelerator)
                journal.sizes = []
                repair_once(model, data, method, replace(runtime, journal=journal))
                sizes.append(journal.sizes)

        ratio = paired(
            with_journal,
            lambda method=method: repair_once(model, data, method, runtime),
            arguments.repeats,
        )
        rows.append(
            {"method": method.name, "steps": arguments.steps}
            | ratio
            | {"checkpoints": median(map(len, sizes)), "largest_bytes": max(map(max, sizes))}
        )
        print(rows[-1], flush=True)
        result = {
            "benchmark": "journal",
            "model": Path(arguments.model.rpartition(":")[2]).name,
            "precision": arguments.precision,
            "threads": torch.get_num_threads(),
            "rows": rows,
            "versions": case.versions(),
        }
        (RESULTS / "journal.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
