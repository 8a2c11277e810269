r"""Regret of localization: what is lost by repairing the block that a scorer chose, instead of the
best one.

    python -m benchmarks.localization.regret oracle --model local-dir:MODELS/resnet18_cifar10 \
        --data DATA/cifar10 --seeds 1 2 3
    python -m benchmarks.localization.regret score  --model local-dir:MODELS/resnet18_cifar10 \
        --data DATA/cifar10 --seeds 1 2 3

`oracle` repairs every block of every task (tasks.py) with the same small budget and measures the
untouched holdout. `score` asks every scorer which block it would repair, and what asking costs,
relative to a forward and backward pass over the failures. Both write to
benchmarks/results/localization/, one JSON per model and seed, after every task: what is there is
not done again. The tables of the README are made from these files by table.py.

The budget: 30 steps of batch 32, half failures, no augmentation, the last state. What the model
computes before the block is computed once (timm_repair/models/entering.py).
"""

import argparse
import json
from pathlib import Path
from time import perf_counter
from unittest.mock import patch

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm.auto import tqdm

from benchmarks.localization.tasks import TASKS, Labelled, Task, load_cifar, make_task, normalized
from timm_repair import blocks
from timm_repair.data.repair_data import RepairData
from timm_repair.hub.loading import load
from timm_repair.images.images import Images
from timm_repair.images.preprocessing import Preprocessing
from timm_repair.images.sources import as_images
from timm_repair.localization.localizing import localize
from timm_repair.localization.scorers import SCORERS
from timm_repair.localization.sweep import sweep
from timm_repair.models.block import Block
from timm_repair.models.entering import Place, arriving, resumes_exactly, starting_at
from timm_repair.models.temporary import only_trainable, training_mode
from timm_repair.models.tracing import trace
from timm_repair.models.weights import part_of, snapshot
from timm_repair.runtime.runtime import Runtime
from timm_repair.training.descent import Descent
from timm_repair.training.history import Row
from timm_repair.training.loop import fit
from timm_repair.training.losses import repair_loss
from timm_repair.training.options import Training
from timm_repair.training.pace import Pace

RESULTS = Path(__file__).parents[1] / "results" / "localization"
TIMED = "contrast_s5"  # the task on which the cost of scorers is measured
BUDGET = Training(steps=30, batch_size=32, hflip=0, shift=0)


def oracle(task: Task, runtime: Runtime) -> dict[str, dict[str, float]]:
    """Per block, and for the original: held-out accuracy (%) on the failing population and on clean
    images.
    """
    calls = trace(task.model)
    candidates = [block for block in blocks(task.model) if block.repairable]
    example = next(normalized(task.model, task.held.pixels[:8]))
    places = {block.name: Place.at(block.paths[0], calls) for block in candidates}
    for block in candidates:
        part = part_of(task.model, block)
        if resumes_exactly(task.model, places[block.name], example, part) is None:
            raise RuntimeError(f"cannot enter the model at {block.name}")
    train = Labelled(
        torch.cat([task.failures.pixels, task.retained.pixels]),
        torch.cat([task.failures.labels, task.retained.labels]),
    )
    answers = torch.cat([task.answers, torch.full((len(task.retained),), -1)])
    original = snapshot(task.model)
    result = {
        "original": {
            kind: _accuracy(task.model, list(normalized(task.model, part.pixels)), part.labels)
            for kind, part in (("held", task.held), ("clean", task.clean))
        }
    }
    for block in candidates:  # one at a time: the maps of all blocks would not fit in memory
        place = places[block.name]
        maps = {
            kind: arriving(task.model, [place], normalized(task.model, part.pixels))[place.path]
            for kind, part in (("train", train), ("held", task.held), ("clean", task.clean))
        }
        with starting_at(task.model, place):
            _train(task, block, maps["train"], train.labels, answers, runtime)
            result[block.name] = {
                kind: _accuracy(task.model, maps[kind].split(250), getattr(task, kind).labels)
                for kind in ("held", "clean")
            }
        task.model.load_state_dict(original)
    return result


def _train(
    task: Task, block: Block, maps: Tensor, labels: Tensor, answers: Tensor, runtime: Runtime
) -> None:
    """Train the block's weights on what arrives at it, in place."""
    model, part = task.model, part_of(task.model, block)
    generator = runtime.generator("batches")  # the same batches for every block
    half = BUDGET.batch_size // 2
    rounds = 1 + half * BUDGET.steps // len(task.failures)
    failing = torch.cat(
        [torch.randperm(len(task.failures), generator=generator) for _ in range(rounds)]
    )
    retained = len(task.failures) + torch.randperm(len(task.retained), generator=generator)
    descent = Descent(part.parameters(), BUDGET, runtime)

    def step(i: int) -> Row:
        rows = torch.cat([failing[i * half : (i + 1) * half], retained[i * half : (i + 1) * half]])
        return descent.step(repair_loss(model(maps[rows]), labels[rows], answers[rows], 0.0))

    with only_trainable(model, block.parameters), training_mode(model, part):
        pace = Pace(BUDGET, BUDGET.steps, runtime.accelerator)
        fit(step, pace=pace, stage=block.name, runtime=runtime)


@torch.no_grad()
def _accuracy(model: nn.Module, batches, labels: Tensor) -> float:
    model.eval()
    return (
        100
        * (torch.cat([model(images).argmax(1) for images in batches]) == labels)
        .double()
        .mean()
        .item()
    )


def score(task: Task, runtime: Runtime, *, timed: bool = False) -> dict[str, dict]:
    """Per scorer: the scores of the blocks; where `timed`, their seconds, and those of a pass over
    all that a scorer may read.
    """
    found = blocks(task.model)
    failing = as_images(task.failures.pairs(), task.model, name="failures")
    failing = failing.subset(torch.arange(len(failing)), answers=task.answers)
    retained = as_images(task.retained.pairs(), task.model, name="retained")
    data = RepairData(
        failing, retained, {}, {}, Preprocessing.of(task.model), 10, None, task.error_rate, {}
    )
    for images in (failing, retained):  # decode once, before anything is timed
        images.pixels(torch.arange(len(images)))
    result, sweeps = {}, {}

    def once(model, taps, data, runtime, *, gradients, retained):
        """One sweep serves all neuron scorers."""
        if not sweeps:
            sweeps["all"] = sweep(model, taps, data, runtime, gradients=True, retained=retained)
        return sweeps["all"]

    with patch("timm_repair.localization.vulnerable.sweep", sweep if timed else once):
        if timed:
            result["sweep"] = {"seconds": _sweep_seconds(task.model, failing, retained, data)}
        for name in SCORERS:
            start = perf_counter()
            chosen = localize(task.model, found, data, score=name, runtime=runtime)
            result[name] = {"scores": chosen.suspiciousness, "tied": list(chosen.tied)}
            if timed:
                result[name]["seconds"] = perf_counter() - start
    return result


def _sweep_seconds(model: nn.Module, failing: Images, retained: Images, data: RepairData) -> float:
    """Time of one forward and backward pass, to all weights, over the failures and as many retained
    examples as localization may read.
    """
    start = perf_counter()
    for images in (failing, retained.subset(torch.arange(min(2 * len(failing), len(retained))))):
        for rows in torch.arange(len(images)).split(64):
            loss = F.cross_entropy(
                model(data.preprocessing.normalize(images.pixels(rows))), images.labels[rows]
            )
            torch.autograd.grad(loss, list(model.parameters()))
    return perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("oracle", "score"))
    parser.add_argument(
        "--model",
        required=True,
        help="a timm name, hf-hub: or local-dir:; classes must be those of the data",
    )
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        help="folder with CIFAR-10's train.parquet and test.parquet",
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    train, test = load_cifar(arguments.data)
    name = Path(arguments.model.rpartition(":")[2]).name
    RESULTS.mkdir(parents=True, exist_ok=True)
    for seed in arguments.seeds:
        runtime = Runtime(Accelerator(cpu=True), seed, progress=False)
        path = RESULTS / f"{arguments.what}-{name}-{seed}.json"
        done = json.loads(path.read_text()) if path.exists() else {}
        for task in tqdm([t for t in arguments.tasks if t not in done], desc=path.stem):
            model = load(arguments.model)[1].to(memory_format=torch.channels_last)
            made = make_task(task, model, train, test, seed)
            done[task] = (
                oracle(made, runtime)
                if arguments.what == "oracle"
                else score(made, runtime, timed=task == TIMED)
            )
            path.write_text(json.dumps(done, indent=1))


if __name__ == "__main__":
    main()
