"""Peak memory of localization beside the number of examples: it should not grow with it.

    python -m benchmarks.speed.memory --model local-dir:MODELS/resnet18_cifar10 --data DATA/cifar10

Examples are training images: one half are failures, made by giving each the next class as its
label, the other half is retained. Each measurement is a process of its own. What is counted is how
far the peak of the process, while it localizes, lies above its size before: batches, maps,
gradients, sums, and the cache of decoded images, which is cut to 1 MiB so that the fewest examples
fill it. Memory that making the examples freed is given back to the system first (on glibc): the
peak would hide in it otherwise. Code that is read from disk when it first runs counts too, some 20
MB whatever the number. The peak varies by some 10 MB from one run of the same to the next: less
than that divided by the examples added is no growth. Writes benchmarks/results/memory.json; delete
it to measure anew.
"""

import argparse
import ctypes
import gc
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import torch
from accelerate import Accelerator
from datasets import load_dataset

from timm_repair import blocks
from timm_repair.data.repair_data import RepairData
from timm_repair.hub.loading import load
from timm_repair.images.preprocessing import Preprocessing
from timm_repair.images.sources import as_images
from timm_repair.localization.localizing import localize
from timm_repair.runtime.runtime import Runtime

RESULT = Path(__file__).parents[1] / "results" / "memory.json"
COUNTS = (1_000, 10_000, 50_000)
SCORES = ("rgn", "spectrum_gradient")


def measured(model_name: str, data: Path, count: int, score: str) -> dict:
    """Bytes by which the peak grew, for so many examples."""
    model = load(model_name)[1].to(memory_format=torch.channels_last)
    train = load_dataset("parquet", data_files=str(data / "train.parquet"), split="train").select(
        range(count)
    )
    pairs = [
        (example["image"].convert("RGB"), (example["label"] + (row + 1) % 2) % 10)
        for row, example in enumerate(train)
    ]
    images = as_images(pairs, model, check_readable=False, cache_bytes=2**20)
    failing, retained = (images.subset(torch.arange(first, count, 2)) for first in (0, 1))
    prepared = RepairData(failing, retained, {}, {}, Preprocessing.of(model), 10, None, None, {})
    runtime, found = Runtime(Accelerator(cpu=True), 1, progress=False), blocks(model)
    give_back()
    with runtime.stage("before"):
        pass
    with runtime.stage("localize"):
        localize(model, found, prepared, score=score, runtime=runtime)
    before, peak = (stage.peak_memory for stage in runtime.stages)
    return {"score": score, "examples": count, "failures": len(failing), "bytes": peak - before}


def give_back() -> None:
    """Return freed memory to the system, where the C library can be asked to."""
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):
        pass  # not glibc


def with_slopes(rows: list[dict]) -> list[dict]:
    """`rows` by score and number, each with how many bytes of peak an example added since the row
    of fewer; None for the fewest.
    """
    rows = sorted(rows, key=lambda row: (row["score"], row["examples"]))
    found = []
    for fewer, row in zip([None, *rows], rows, strict=False):
        comparable = fewer is not None and fewer["score"] == row["score"]
        slope = (
            round((row["bytes"] - fewer["bytes"]) / (row["examples"] - fewer["examples"]), 1)
            if comparable
            else None
        )
        found.append(row | {"bytes_per_added_example": slope})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument(
        "--jobs", type=int, default=1, help="measurements at a time, of some 2 GB each"
    )
    parser.add_argument(
        "--one", nargs=2, metavar=("COUNT", "SCORE"), help="measure one, and print it"
    )
    arguments = parser.parse_args()
    if arguments.one:
        print(
            json.dumps(
                measured(arguments.model, arguments.data, int(arguments.one[0]), arguments.one[1])
            )
        )
        return
    model = Path(arguments.model.rpartition(":")[2]).name
    rows = json.loads(RESULT.read_text())["rows"] if RESULT.is_file() else []
    known = {(row["examples"], row["score"]) for row in rows}  # measured by a call that was cut off

    def in_process(count: int, score: str) -> dict:
        command = [
            sys.executable,
            "-m",
            "benchmarks.speed.memory",
            "--model",
            arguments.model,
            "--data",
            arguments.data,
            "--one",
            str(count),
            score,
        ]
        return json.loads(
            subprocess.run(
                command, check=True, stdout=subprocess.PIPE, text=True
            ).stdout.splitlines()[-1]
        )

    with ThreadPoolExecutor(arguments.jobs) as threads:
        missing = [
            (count, score)
            for count in sorted(COUNTS, reverse=True)
            for score in SCORES
            if (count, score) not in known
        ]
        for done in as_completed([threads.submit(in_process, *each) for each in missing]):
            rows.append(done.result())
            print(rows[-1], flush=True)
            result = {
                "model": model,
                "torch": torch.__version__,
                "threads": torch.get_num_threads(),
                "rows": with_slopes(rows),
            }
            RESULT.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
