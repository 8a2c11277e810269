r"""Repair a ResNet-18 (CIFAR-10 JPEG, 32 px) that fails on noise, blur, low contrast or everyday
images: archrepair and its controls.

    python -m benchmarks.repair.repair_cifar --model local-dir:MODELS/resnet18_cifar10 \
        --data DATA/cifar10 --seeds 1 2 3 4 5

One JSON per population and seed in benchmarks/results/; what is there already is not run again.
Protocol: half of the (corrupted) test set is the pool from which at most 1,000 failures are drawn,
the other half the untouched holdout, the same for every method; the training set is retained; clean
accuracy is measured on the same held-out photographs without the corruption. Every method has 300
steps of batch 128 in all, an architecture step counting as one, and chooses on the same selection
split. Nobody kept what passes, asks what the failures have in common, or limits harm: what these
add is measured by default.py. Times are those of the method's own stages, relative to whole-network
fine-tuning in the same process.
"""

import argparse
import json
from pathlib import Path

import torch
from accelerate import Accelerator

import timm_repair
from benchmarks.repair.populations import CORRUPTIONS, load_population
from timm_repair.hub.loading import load
from timm_repair.methods import named
from timm_repair.pipeline import case

RESULTS = Path(__file__).parents[1] / "results"


def methods_for(model: torch.nn.Module, **training) -> dict:
    """Label -> method: every row of the table but the original and the chosen block, which follow
    from these.
    """
    blocks = [block.name for block in timm_repair.blocks(model) if block.repairable]
    training = {"max_clean_loss": None, "max_class_loss": None} | training
    return {
        "bn_recalibration": named("bn_recalibration", **training),
        "finetune network": named("finetune", **training),
        **{
            f"finetune {block}": named("finetune", level="block", block=block, **training)
            for block in blocks
        },
        "archrepair": named("archrepair", score="rgn", **training),
        "archrepair random": named("archrepair", score="rgn", genotype="random", **training),
    }


def summary(report: timm_repair.Report) -> dict:
    """What the table needs of one report, and enough to look into it: populations, cost, choice of
    block, genotype, notes.
    """
    populations = {
        s.population: {
            "n": s.n,
            "before": s.accuracy_before,
            "after": s.accuracy_after,
            "fixed": s.fixed,
            "broken": s.broken,
        }
        for s in report.scores
    }
    return {
        "populations": populations,
        "seconds": report.seconds,
        "stages": list(report.stages),
        "block": report.block,
        "localization": report.localization,
        "genotype": report.genotype,
        "notes": list(report.notes),
        "options": report.options,
    }


def run(arguments: argparse.Namespace, corruption: str, seed: int) -> dict:
    """All rows for one population and one seed."""
    accelerator = Accelerator(cpu=arguments.cpu, mixed_precision=arguments.precision)
    _, model = load(arguments.model)
    population, train = load_population(arguments.data, corruption, seed)
    found = timm_repair.collect_failures(model, population.pool, max_failures=1000, seed=seed)
    failures = found.subset(range(len(found)))  # without what passed
    rows = methods_for(model, steps=arguments.steps, **dict(arguments.set))
    rows = {
        label: method
        for label, method in rows.items()
        if not arguments.rows or label in arguments.rows
    }
    comparison = timm_repair.compare(
        model,
        failures,
        retain=train,
        holdout={"failing": population.failing, "clean": population.clean},
        methods=rows,
        diagnose=False,
        data=timm_repair.DataOptions(retained_selection_max=1000),
        seed=seed,
        accelerator=accelerator,
        progress=not arguments.quiet,
    )
    print(comparison, flush=True)
    return {
        "benchmark": "repair_cifar",
        "population": corruption,
        "seed": seed,
        "model": Path(arguments.model).name,
        "error_rate": failures.error_rate,
        "failures": len(failures),
        "precision": arguments.precision,
        "threads": torch.get_num_threads(),
        "versions": case.versions(),
        "rows": {label: summary(report) for label, report in comparison.reports.items()},
    }


def option(pair: str) -> tuple[str, object]:
    name, _, value = pair.partition("=")
    return name, json.loads(value)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True)
    parser.add_argument(
        "--data", type=Path, required=True, help="directory with train.parquet and test.parquet"
    )
    parser.add_argument("--populations", nargs="+", choices=CORRUPTIONS, default=list(CORRUPTIONS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3, 4, 5])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument(
        "--set",
        nargs="*",
        type=option,
        default=[],
        metavar="NAME=JSON",
        help="training options of every row",
    )
    parser.add_argument("--rows", nargs="*", default=[], help="only these rows")
    parser.add_argument(
        "--tag", default="", help="goes into the file names, to keep variants apart"
    )
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--quiet", action="store_true")
    arguments = parser.parse_args()
    RESULTS.mkdir(exist_ok=True)
    for seed in arguments.seeds:
        for corruption in arguments.populations:
            path = RESULTS / f"repair_cifar{arguments.tag}-{corruption}-{seed}.json"
            if not path.exists():
                result = run(arguments, corruption, seed)
                path.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
