"""Peak memory of localization beside the number of examples: it should not grow with it.

    python benchmarks/memory.py --model local-dir:MODELS/resnet18_cifar10 --data DATA/cifar10

Examples are training images under one corruption, the wrong ones failures and the right ones retained. Each measurement is a process of
its own. What is counted is the growth of the process's peak over its size before: batches, maps, gradients and sums, and the cache of
decoded images, which is cut to 16 MiB here. Writes benchmarks/results/memory.json.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from tasks import load_cifar, predict

from timm_repair import blocks, corrupt
from timm_repair.data import Preprocessing, RepairData, as_images
from timm_repair.loading import load
from timm_repair.localization import localize
from timm_repair.runtime import Runtime

RESULT = Path(__file__).parent / "results" / "memory.json"
COUNTS = (1_000, 50_000)
SCORES = ("rgn", "spectrum_gradient")


def measured(model_name: str, data: Path, count: int, score: str) -> dict:
    """Bytes by which the peak grew, and how many failures there were."""
    train = load_cifar(data)[0]
    model = load(model_name)[1].to(memory_format=torch.channels_last)
    pixels = corrupt(train.pixels[:count], "contrast", 5, seed=1)
    answers, labels = predict(model, pixels), train.labels[:count]
    everything = as_images(type(train)(pixels, labels).pairs(), model, name="contrast", check_readable=False, cache_bytes=2**24)
    wrong, right = ((answers != labels).nonzero().flatten(), (answers == labels).nonzero().flatten())
    failing, retained = everything.subset(wrong, answers=answers[wrong]), everything.subset(right)
    prepared = RepairData(failing, retained, {}, {}, Preprocessing.of(model), 10, None, len(wrong) / count, {})
    runtime, found = Runtime(Accelerator(cpu=True), 1, progress=False), blocks(model)
    before = 1024 * int(next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS")).split()[1])
    with runtime.stage("localize"):
        localize(model, found, prepared, score=score, runtime=runtime)
    return {"examples": count, "failures": len(wrong), "score": score, "bytes": runtime.stages[-1].peak_memory - before}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--one", nargs=2, metavar=("COUNT", "SCORE"), help="measure one, and print it")
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measured(arguments.model, arguments.data, int(arguments.one[0]), arguments.one[1])))
        return
    model = Path(arguments.model.rpartition(":")[2]).name
    rows = json.loads(RESULT.read_text())["rows"] if RESULT.is_file() else []
    for score in SCORES:
        for count in COUNTS:
            if any((row["score"], row["examples"]) == (score, count) for row in rows):
                continue  # measured by a call that was cut off
            command = [sys.executable, __file__, "--model", arguments.model, "--data", arguments.data, "--one", str(count), score]
            rows.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]))
            print(rows[-1])
            RESULT.write_text(json.dumps({"model": model, "torch": torch.__version__, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
