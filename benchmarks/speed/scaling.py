"""How much faster two processes are than one: the same localization, search and fine-tuning, one
thread each.

    python -m benchmarks.speed.scaling

Runs of one and of two processes take turns, each a launch of its own (torchrun, gloo on CPUs).
Efficiency is the time on one process over N times the time on N: 1 is ideal. The cores share caches
and memory, so N processes that have nothing to do with each other are slower than one, too:
`machine` is that time over N times the time on N, and what is missing to 1 there is what the
exchange costs. What is timed is the work alone, not starting, loading or tracing; a step's batch is
the same for all, so communication and the batch norms of the whole batch are in it. ResNet-18 with
a 3x3 stem, 32 pixels, random weights. Writes benchmarks/results/scaling.json.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import mean, median
from time import perf_counter

import torch

from benchmarks.speed.prefix import CIFAR, make_case, relaxed_in, step_of
from timm_repair.architecture.search import search
from timm_repair.localization.localizing import localize
from timm_repair.models.partition import blocks
from timm_repair.models.weights import part_of
from timm_repair.pipeline.case import versions
from timm_repair.training.job import Job

RESULT = Path(__file__).parents[1] / "results" / "scaling.json"
MODEL, BATCH_SIZE, STEPS = "resnet18" + CIFAR, 32, 3


def timed(work) -> float:
    work()  # allocations, choice of kernels
    start = perf_counter()
    work()
    return perf_counter() - start


def worker() -> None:
    """Seconds of each kind of work on this many processes; the main one prints them."""
    torch.manual_seed(0)  # the same weights and images on all
    case = make_case(MODEL, BATCH_SIZE, "no")
    found, accelerator = blocks(case.model), case.runtime.accelerator
    block = next(block for block in found if block.name == "layer3")
    whole, tuned, searched = (case.copy() for _ in range(3))
    relaxed = relaxed_in(case, searched, block)
    works = {
        f"localization, {score}": lambda score=score: localize(
            case.model, found, case.data, score=score, runtime=case.runtime
        )
        for score in ("rgn", "spectrum_gradient")
    }
    for name, model, part in (
        ("fine-tuning, network", whole, whole),
        ("fine-tuning, layer3", tuned, part_of(tuned, block)),
    ):
        step = step_of(case, model, part, None)
        works[name] = lambda step=step: [step() for _ in range(STEPS)]
    works["search, layer3"] = lambda: search(
        Job(searched, case.data, case.options, case.runtime), [relaxed], steps=STEPS
    )
    seconds = {}
    for name, work in works.items():
        accelerator.wait_for_everyone()
        seconds[name] = timed(work)
    if accelerator.is_main_process:
        print(json.dumps(seconds))


def start(processes: int) -> subprocess.Popen:
    launcher = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        str(processes),
    ]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    worker = ["-m", "benchmarks.speed.scaling", "--worker"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    root = Path(__file__).parents[2]
    return subprocess.Popen([*launcher, *worker], env=environment, cwd=root, **pipes)


def seconds(*started: subprocess.Popen) -> dict[str, float]:
    """Of each kind of work, the mean of those that were started together."""
    printed = [json.loads(process.communicate()[0].splitlines()[-1]) for process in started]
    return {name: mean(each[name] for each in printed) for name in printed[0]}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        return worker()
    count, times = arguments.processes, []
    for _ in range(arguments.repeats):
        times.append(
            (seconds(start(1)), seconds(*(start(1) for _ in range(count))), seconds(start(count)))
        )
    rows = []
    for name in times[0][0]:
        found = {
            "efficiency": [one[name] / (count * several[name]) for one, _, several in times],
            "machine": [beside[name] / (count * several[name]) for _, beside, several in times],
        }
        rows.append(
            {"work": name}
            | {
                key: {"median": median(values), "min": min(values), "max": max(values)}
                for key, values in found.items()
            }
        )
        print(rows[-1])
    RESULT.write_text(
        json.dumps(
            {
                "processes": arguments.processes,
                "cores": os.cpu_count(),
                "model": MODEL,
                "batch_size": BATCH_SIZE,
                "repeats": arguments.repeats,
                "rows": rows,
                "versions": versions(),
            },
            indent=1,
        )
        + "\n"
    )


if __name__ == "__main__":
    main()
