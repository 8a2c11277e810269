"""Several methods on the same failures, with the same budget, measured on the same unseen examples:
one table.

    python examples/compare_methods.py --output comparison.json

A repair means little without its controls: new batch-norm statistics alone, plain fine-tuning of
the whole network or of the block that localization chose, and the same block with paths drawn at
random instead of searched. The data are those of timm_repair.pipeline.demo.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

import timm_repair
from timm_repair.methods import named
from timm_repair.pipeline.demo import digits, train_classifier, worn_camera

DIGITS = {"hflip": 0.0, "shift": 0.06}  # digits have a left and a right, and a narrow border


def problem(*, steps: int, seed: int) -> dict[str, Any]:
    """A classifier, what it gets wrong through a worn camera, what it must not forget, and what to
    measure on.
    """
    rng = np.random.default_rng(seed)
    train, production, unseen = digits(seed)
    model = train_classifier(train, steps=steps, seed=seed)
    failures = timm_repair.collect_failures(
        model, [(worn_camera(image, rng), label) for image, label in production], seed=seed
    )
    holdout = {
        "failing": [(worn_camera(image, rng), label) for image, label in unseen],
        "clean": unseen,
    }
    return {"model": model, "failures": failures, "retain": train, "holdout": holdout}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--steps",
        type=int,
        default=200,
        help="of each method; of training the classifier, twice as many",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="file for the comparison as JSON")
    arguments = parser.parse_args()
    budget = {"steps": arguments.steps, **DIGITS}
    methods = {
        "bn_recalibration": named("bn_recalibration", **budget),
        "finetune network": named("finetune", **budget),
        "finetune chosen block": named("finetune", level="block", **budget),
        "archrepair": named("archrepair", **budget),
        "archrepair random": named("archrepair", genotype="random", **budget),
    }
    given = problem(steps=2 * arguments.steps, seed=arguments.seed)
    comparison = timm_repair.compare(**given, methods=methods, seed=arguments.seed)
    print(f"\n{comparison}")
    if arguments.output:
        arguments.output.write_text(json.dumps(comparison.to_dict()))


if __name__ == "__main__":
    main()
