r"""How stable a localization is: the number of inputs (200 … 10,000) and of neurons that count as
vulnerable (paper, Fig. 2 and Table 9).

    python -m benchmarks.localization.stability \
        --model local-dir:MODELS/resnet18_cifar10 --data DATA/cifar10

Inputs are test images under one corruption; those that the model gets wrong are the failures, the
others the correctly classified ones. Writes benchmarks/results/stability.json: per population and
number of inputs the share of the `top` most suspicious neurons (Eq. 6) that lie in each block, and
the blocks that the paper's score and the default scorer choose.
"""

import argparse
import json
from pathlib import Path

import torch
from accelerate import Accelerator
from tqdm.auto import tqdm

from benchmarks.localization.tasks import load_cifar, predict
from timm_repair import blocks, corrupt
from timm_repair.data.repair_data import RepairData
from timm_repair.hub.loading import load
from timm_repair.images.preprocessing import Preprocessing
from timm_repair.images.sources import as_images
from timm_repair.localization.localization import Localization
from timm_repair.localization.localizing import DEFAULT_SCORER, localize
from timm_repair.runtime.runtime import Runtime

RESULT = Path(__file__).parents[1] / "results" / "stability.json"
INPUTS = (200, 500, 1000, 2000, 5000, 10000)
TOPS = (10, 20, 30, 40, 50, 75, 100, 150)  # the paper's


def counts(found: Localization, top: int) -> dict[str, int]:
    """How many of the `top` most suspicious neurons lie in each block."""
    scores = torch.cat(list(found.neurons.values()))
    owner = [found.layers[layer] for layer, values in found.neurons.items() for _ in values]
    order = scores.sort(descending=True, stable=True).indices[:top].tolist()
    return {
        block: sum(owner[i] == block for i in order if scores[i] > 0)
        for block in found.suspiciousness
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument(
        "--populations", nargs="+", default=["gaussian_noise", "defocus_blur", "contrast"]
    )
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    test = load_cifar(arguments.data)[1]
    test = test[torch.randperm(len(test), generator=torch.Generator().manual_seed(arguments.seed))]
    model = load(arguments.model)[1].to(memory_format=torch.channels_last)
    runtime, found = Runtime(Accelerator(cpu=True), arguments.seed, progress=False), blocks(model)
    result = {
        "model": Path(arguments.model.rpartition(":")[2]).name,
        "seed": arguments.seed,
        "default": DEFAULT_SCORER,
        "populations": {},
    }
    for population in arguments.populations:
        pixels = corrupt(test.pixels, population, 5, seed=arguments.seed)
        answers = predict(model, pixels)
        everything = as_images(type(test)(pixels, test.labels).pairs(), model, name=population)
        rows = result["populations"][population] = []
        for inputs in tqdm(INPUTS, desc=population):
            wrong = (answers[:inputs] != test.labels[:inputs]).nonzero().flatten()
            right = (answers[:inputs] == test.labels[:inputs]).nonzero().flatten()
            failing = everything.subset(wrong, answers=answers[wrong])
            retained = everything.subset(right)
            data = RepairData(
                failing,
                retained,
                {},
                {},
                Preprocessing.of(model),
                10,
                None,
                len(wrong) / inputs,
                {},
            )
            paper = localize(
                model, found, data, score="spectrum_gradient", max_passing=inputs, runtime=runtime
            )
            default = localize(model, found, data, runtime=runtime)
            rows.append(
                {
                    "inputs": inputs,
                    "failing": len(wrong),
                    "counts": {top: counts(paper, top) for top in TOPS},
                    "paper": paper.worst,
                    "default": default.worst,
                    "tied": list(default.tied),
                }
            )
            RESULT.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
