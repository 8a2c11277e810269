"""What localization and archrepair cost, as ratios to whole-network fine-tuning measured in turn in
the same process.

    python -m benchmarks.speed.speed --model local-dir:MODELS/resnet18_cifar10 --data DATA/cifar10

Localization: one sweep over N failures and 2N retained examples, relative to one epoch of
whole-network fine-tuning over the same 3N examples. Repair: archrepair on an early and on a late
block, relative to whole-network fine-tuning with the same number of steps. Numerator and
denominator alternate, and the ratio is taken pair by pair; ratios are what counts, not seconds.
"""

import json
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import Accelerator

import timm_repair
from benchmarks.repair.populations import load_population
from benchmarks.speed import timing
from benchmarks.speed.timing import paired
from timm_repair.data.preparing import prepare
from timm_repair.data.repair_data import RepairData
from timm_repair.hub.loading import load
from timm_repair.localization.localizing import localize
from timm_repair.localization.scorers import SCORERS
from timm_repair.methods import named
from timm_repair.models.temporary import training_mode
from timm_repair.pipeline import case
from timm_repair.runtime.runtime import Runtime
from timm_repair.training.batches import Batches
from timm_repair.training.descent import Descent
from timm_repair.training.job import Job
from timm_repair.training.loop import fit
from timm_repair.training.losses import batch_loss
from timm_repair.training.options import Training

RESULTS = Path(__file__).parents[1] / "results"


def repair_once(model: torch.nn.Module, data: RepairData, method: object, runtime: Runtime) -> None:
    copy = deepcopy(model).to(memory_format=torch.channels_last)
    method.repair(copy, data, replace(runtime, stages=[]))


def main() -> None:
    arguments = timing.parser(__doc__).parse_args()
    runtime = Runtime(Accelerator(mixed_precision=arguments.precision), progress=False)
    _, model = load(arguments.model)
    model = model.to(memory_format=torch.channels_last)
    population, train = load_population(arguments.data, "gaussian_blur_1.5", 0)
    failures = timm_repair.collect_failures(model, population.pool, max_failures=1000)
    holdout = {"failing": population.failing, "clean": population.clean}
    data = prepare(model, failures, retain=train, holdout=holdout, runtime=runtime)
    blocks = timm_repair.blocks(model)
    repairable = [b.name for b in blocks if b.repairable]

    batch = named("finetune").training.batch_size
    # an epoch over the failures and twice as many retained examples: what the sweep reads
    epoch = named(
        "finetune", steps=max(3 * len(data.failing) // batch, 1), failing_share=1 / 3, evaluations=1
    )
    localization = []
    for scorer in (s for s in SCORERS if s not in ("random", "probe")):
        ratio = paired(
            lambda scorer=scorer: localize(model, blocks, data, score=scorer, runtime=runtime),
            lambda: train_only(model, data, epoch.training, runtime),
            arguments.repeats,
        )
        localization.append({"scorer": scorer} | ratio)
        print(localization[-1], flush=True)

    whole = named("finetune", steps=arguments.steps)
    repair = []
    for block in (repairable[0], repairable[-1]):
        ratio = paired(
            lambda block=block: repair_once(
                model, data, named("archrepair", block=block, steps=arguments.steps), runtime
            ),
            lambda: repair_once(model, data, whole, runtime),
            arguments.repeats,
        )
        repair.append({"block": block, "steps": arguments.steps} | ratio)
        print(repair[-1], flush=True)
    result = {
        "benchmark": "speed",
        "model": Path(arguments.model).name,
        "precision": arguments.precision,
        "threads": torch.get_num_threads(),
        "examples": 3 * len(data.failing),
        "localization": localization,
        "repair": repair,
        "versions": case.versions(),
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "speed.json").write_text(json.dumps(result, indent=1))


def train_only(
    model: torch.nn.Module, data: RepairData, training: Training, runtime: Runtime
) -> None:
    """An epoch of whole-network fine-tuning and nothing else: no selection, no interpolation."""
    copy = deepcopy(model)
    batches = Batches(data, training, runtime, "epoch")
    descent = Descent(copy.parameters(), training, runtime)
    forward = Job(copy, data, training, runtime).forward()
    with training_mode(copy, copy):
        fit(
            lambda _: descent.step(batch_loss(batches, forward)),
            steps=training.steps,
            stage="epoch",
            runtime=runtime,
        )


if __name__ == "__main__":
    main()
