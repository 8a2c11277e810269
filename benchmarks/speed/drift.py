r"""How far rounding the prefix cache moves a trained model's logits, before any step is made.

    python -m benchmarks.speed.drift \
        --models local-dir:MODELS/resnet18_cifar10 local-dir:MODELS/vgg16_bn_cifar10 \
        --data DATA/cifar10

For each block that can be entered: the largest and the mean difference of a logit over test images,
between the model run from what was kept and from the images, all else in float32; with what is kept
as it was computed, and rounded to fp16 and bf16 (`cache_precision`). Writes
benchmarks/results/drift.json.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import torch
from datasets import load_dataset

from timm_repair.data.repair_data import RepairData
from timm_repair.hub.loading import load
from timm_repair.images.preprocessing import Preprocessing
from timm_repair.images.sources import as_images
from timm_repair.models.partition import blocks
from timm_repair.models.weights import part_of
from timm_repair.pipeline import case
from timm_repair.runtime.runtime import Runtime
from timm_repair.training.options import Training
from timm_repair.training.prefix.forward import forward_from

RESULT = Path(__file__).parents[1] / "results" / "drift.json"


@torch.no_grad()
def rows_of(name: str, pairs: list, runtime: Runtime) -> list[dict]:
    model = load(name)[1].to(memory_format=torch.channels_last).eval()
    data = RepairData(
        as_images(pairs, model), None, {}, {}, Preprocessing.of(model), 10, None, None, {}
    )
    options = Training(views=1, hflip=0.0, shift=0.0, cache="always")
    expected, rows = model(data.preprocessing.normalize(data.failing.pixels(range(len(pairs))))), []
    for block in (block for block in blocks(model) if block.repairable):
        found = {}
        for precision in ("same", "fp16", "bf16"):
            cache = forward_from(
                model,
                part_of(model, block),
                data,
                replace(options, cache_precision=precision),
                runtime,
            )
            if cache.kept:
                part = cache.examples.view(
                    "failing", torch.arange(len(pairs)), torch.zeros(len(pairs), dtype=torch.long)
                )
                difference = (cache.logits([part], {"failing": [0]}) - expected).abs()
                found[precision] = {
                    "max": difference.max().item(),
                    "mean": difference.mean().item(),
                }
        if found:
            about = {
                "model": Path(name.rpartition(":")[2]).name,
                "block": block.name,
                "largest_logit": expected.abs().max().item(),
            }
            rows.append(about | found)
            print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", required=True)
    parser.add_argument("--data", type=Path, required=True, help="directory with test.parquet")
    parser.add_argument("--images", type=int, default=512)
    arguments = parser.parse_args()
    test = load_dataset(
        "parquet", data_files={"test": str(arguments.data / "test.parquet")}, split="test"
    )
    pairs = [
        (row["image"], row["label"]) for row in test.shuffle(seed=0).select(range(arguments.images))
    ]
    rows = [
        row for name in arguments.models for row in rows_of(name, pairs, Runtime(progress=False))
    ]
    RESULT.write_text(
        json.dumps(
            {"images": arguments.images, "rows": rows, "versions": case.versions()}, indent=1
        )
        + "\n"
    )


if __name__ == "__main__":
    main()
