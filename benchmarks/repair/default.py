r"""The default repair against what everyone has for free, and without each of its parts.

    python -m benchmarks.repair.default --models MODELS --data DATA/cifar10 \
        --cells resnet18:contrast_s5:1 vgg16_bn:fog_s4:1

One JSON a cell (model, population, seed) in benchmarks/results/default/, written row by row; a row
that is there already is not run again. Half of the (corrupted) test set is production, where
failures and what passes are collected; the other half is measured on, with the same photographs
uncorrupted as "clean"; where classes fail (meanings.py), "clean" are the others. All rows start
from the same data, have 300 steps of batch 128, and choose on the same selection split. Seconds are
processor time, of the repair and, where its row uses it, of the diagnosis; they are comparable
within a cell only.

The plain rows are what fifteen lines of PyTorch do that keep the right images: cross-entropy on
production as it is and on retained images, each at two learning rates, of which the one is reported
that the selection split prefers.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from accelerate import Accelerator
from torch import nn

import timm_repair
from benchmarks.repair.cifar_results import MEANINGS
from benchmarks.repair.meanings import load_meaning
from benchmarks.repair.populations import load_population
from timm_repair.data.predicting import predict
from timm_repair.data.preparing import prepare
from timm_repair.data.repair_data import RepairData
from timm_repair.hub.loading import load
from timm_repair.methods import named
from timm_repair.models.copying import copied
from timm_repair.pipeline import case
from timm_repair.pipeline.evidence import looked_at
from timm_repair.pipeline.measuring import latency
from timm_repair.runtime.randomness import own_randomness
from timm_repair.runtime.runtime import Runtime
from timm_repair.training.objective import objective
from timm_repair.training.options import Choosing
from timm_repair.training.populations import Populations
from timm_repair.training.prefix.forward import Forward

RESULTS = Path(__file__).parents[1] / "results" / "default"
RATES = 0.02, 0.005
FREE = {"max_clean_loss": None, "max_class_loss": None}  # nobody limits plain training
PLAIN = FREE | {"max_repeats": None}


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Args:
        options: of the methods to run; of several the one is kept that the selection split prefers.
        data: what it knows of the data.
    """

    method: str
    options: tuple[dict, ...] = ({},)
    data: Callable[[RepairData], RepairData] = lambda data: data


def without_pattern(data: RepairData) -> RepairData:
    return replace(data, pattern=None)


def failures_only(data: RepairData) -> RepairData:
    """As they are where nobody kept what passed, nor asked what they have in common."""
    selection = {name: images for name, images in data.selection.items() if name != "passing"}
    return replace(data, pattern=None, passing=None, selection=selection)


def plain(*blocks: str, **options) -> tuple[dict, ...]:
    part = {"level": "block", "block": blocks} if blocks else {}
    return tuple(PLAIN | part | options | {"learning_rate": rate} for rate in RATES)


def rows_for(model: nn.Module) -> dict[str, Row]:
    """Label to row, the most telling first."""
    early = [b.name for b in timm_repair.blocks(model) if b.repairable][:2]
    return {
        "default": Row("archrepair"),
        "plain, whole network": Row("finetune", plain(), without_pattern),
        "plain, first two blocks": Row("finetune", plain(*early), without_pattern),
        "retained only": Row("finetune", plain(failing_share=0.0), without_pattern),
        "default without the pattern": Row("archrepair", data=without_pattern),
        "default on failures alone": Row("archrepair", data=failures_only),
        "default, nothing distilled": Row("archrepair", ({"feature_distillation": 0.0},)),
        "default without limits": Row("archrepair", (FREE,)),
        "default, half the pattern": Row(
            "archrepair", ({"pattern_share": 2 / 3, "failing_share": 3 / 4},)
        ),
        "default, searched": Row("archrepair", ({"genotype": "search"},)),
        "default, weights only": Row("archrepair", ({"genotype": "raw"},)),
        "plain, first block": Row("finetune", plain(early[0]), without_pattern),
        "whole network with the pattern": Row("finetune", plain()),
    }


@dataclass(frozen=True)
class Cell:
    """A model, a population and a seed: `data` has "population" and "clean" held out."""

    model: nn.Module
    data: RepairData
    runtime: Runtime
    told: dict
    diagnosis_seconds: float


def cell(models: Path, place: Path, net: str, corruption: str, seed: int, failures: int) -> Cell:
    """What all rows start from."""
    runtime = Runtime(Accelerator(cpu=True), seed, progress=False)
    _, model = load(f"local-dir:{models / f'{net}_cifar10'}")
    if corruption in MEANINGS:
        model, population, train = load_meaning(model, place, corruption, seed)
    else:
        population, train = load_population(place, corruption, seed)
    found = timm_repair.collect_failures(
        model, population.pool, max_failures=failures, seed=seed, runtime=runtime
    )
    with own_randomness(seed):
        model = case.working_copy(model, runtime)
        holdout = {"population": population.failing, "clean": population.clean}
        data = prepare(model, found, retain=train, holdout=holdout, runtime=runtime)
        start = time.process_time()
        data, evidence = looked_at(model, data, runtime, asked=True)
        spent = time.process_time() - start
    told = {
        "error_rate": found.error_rate,
        "failures": len(found),
        "passing": len(found.passing or ()),
    }
    told |= {"diagnosis": (evidence.told or {}).get("headline")}
    return Cell(model, data, runtime, told, spent)


def run(row: Row, at: Cell) -> dict:
    """The better of the row's methods by the selection split, measured on what is held out."""
    data, best = row.data(at.data), None
    for options in row.options:
        start = time.process_time()
        with own_randomness(at.runtime.seed):
            outcome = named(row.method, **options).repair(
                copied(at.model), data, replace(at.runtime, stages=[])
            )
        seconds = time.process_time() - start
        model = outcome.model.eval()
        forward = Forward(
            model, Populations(data, named("finetune").training, at.runtime), at.runtime
        )
        value = objective(forward, data, Choosing(**FREE))
        if best is None or value > best[0]:
            best = value, outcome, seconds, options
    assert best is not None, "every row has a method"
    value, outcome, seconds, options = best
    diagnosed = at.diagnosis_seconds if data.pattern is not None else 0.0
    timed, _ = latency(at.model, outcome.model, data, at.runtime)
    return measured(at.model, outcome.model, data, at.runtime) | {
        "objective": value,
        "seconds": seconds + diagnosed,
        "latency": timed.get("change", {}).get("latency"),
        "options": options,
        "repaired": [block.name for block in outcome.repaired],
        "edges": sum(len(genotype.edges) for genotype in outcome.genotypes.values()),
        "places": (outcome.localization.details if outcome.localization else {}).get("places"),
        "notes": list(outcome.notes),
    }


def measured(before: nn.Module, after: nn.Module, data: RepairData, runtime: Runtime) -> dict:
    """Population to accuracies, what was broken, and the class that lost most of its recall."""
    found = {}
    for name, images in data.holdout.items():
        if name == "failing":
            continue  # they are wrong by definition
        right = [
            predict(model, images, data.preprocessing, runtime).right.double()
            for model in (before, after)
        ]
        change = right[1] - right[0]
        classes = [change[images.labels == k].mean().item() for k in images.labels.unique()]
        found[name] = {
            "n": len(images),
            "before": right[0].mean().item(),
            "after": right[1].mean().item(),
            "broken": int((change < 0).sum()),
            "worst class": min(classes),
        }
    return {"populations": found}


def fill(told: str, results: Path, rows_for: Callable[[nn.Module], dict[str, Row]]) -> None:
    """The program: run the rows of each cell that is asked for, but those that are in `results`."""
    parser = argparse.ArgumentParser(
        description=told, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cells", nargs="+", required=True, metavar="MODEL:POPULATION:SEED")
    parser.add_argument("--failures", type=int, default=1000)
    parser.add_argument("--rows", nargs="*", default=[], help="only these")
    arguments = parser.parse_args()
    results.mkdir(parents=True, exist_ok=True)
    for spec in arguments.cells:
        net, corruption, seed = spec.split(":")
        path = results / f"{net}-{corruption}-{arguments.failures}-{seed}.json"
        written = json.loads(path.read_text()) if path.exists() else {"rows": {}}
        _, model = load(f"local-dir:{arguments.models / f'{net}_cifar10'}")
        rows = {
            label: row
            for label, row in rows_for(model).items()
            if label not in written["rows"] and (not arguments.rows or label in arguments.rows)
        }
        if not rows:
            continue
        at = cell(arguments.models, arguments.data, net, corruption, int(seed), arguments.failures)
        written |= {"benchmark": results.name, "model": net, "population": corruption,
                    "seed": int(seed), "versions": case.versions(), **at.told}  # fmt: skip
        for label, row in rows.items():
            written["rows"][label] = run(row, at)
            path.write_text(json.dumps(written, indent=1))
            print(spec, label, written["rows"][label]["populations"], flush=True)


if __name__ == "__main__":
    fill(__doc__, RESULTS, rows_for)
