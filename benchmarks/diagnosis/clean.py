"""How often does a diagnosis claim something of failures that have nothing in common?

    python -m benchmarks.diagnosis.clean ROOT --draws 100  # resumable

ROOT as in corruptions.py. Each draw: 500 of the test images as they are that the model has wrong,
at random, and another seed. Writes into benchmarks/results/diagnosis_clean.json, model by model,
what each draw claimed: patterns and wrong preprocessing.
"""

import argparse
import json
from pathlib import Path

import torch

import timm_repair
from benchmarks.diagnosis.corruptions import opened
from timm_repair.runtime.runtime import Runtime

RESULTS = Path(__file__).parents[1] / "results" / "diagnosis_clean.json"


def main() -> None:
    """Draw what has not been drawn yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path)
    parser.add_argument("--models", nargs="+", default=["resnet18_cifar10"])
    parser.add_argument("--draws", type=int, default=100)
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    for name in given.models:
        model, retain, test = opened(given.root, name)
        runtime = Runtime(progress=False)
        wrong = timm_repair.collect_failures(model, test, max_failures=len(test), runtime=runtime)
        drawn = rows.setdefault(name, [])
        while len(drawn) < given.draws:
            seed = len(drawn)
            chosen = torch.randperm(len(wrong), generator=torch.Generator().manual_seed(seed))
            failures = wrong.subset(chosen[:500].sort().values)
            found = timm_repair.diagnose(model, failures, retain, seed=seed, progress=False)
            mistake = found.wrong_preprocessing
            drawn.append(
                {
                    "patterns": [[part.kind for part in each.parts] for each in found.patterns],
                    "preprocessing": mistake.name if mistake else None,
                    "told": found.told.right,
                }
            )
            RESULTS.write_text(json.dumps(rows, indent=1))
            print(name, seed, drawn[-1], flush=True)


if __name__ == "__main__":
    main()
