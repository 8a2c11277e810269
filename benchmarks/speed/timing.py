"""What the benchmarks of speed share: timing, ratios of runs that take turns, and their command
line.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter

import torch


def seconds(work: Callable[[], object]) -> float:
    """Of one call, to the end of what it started on a GPU."""
    start = perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return perf_counter() - start


def paired(
    numerator: Callable[[], object], denominator: Callable[[], object], repeats: int
) -> dict:
    """Ratios of alternating runs, after one run of each that is not counted."""
    numerator()
    denominator()
    ratios = [seconds(numerator) / seconds(denominator) for _ in range(repeats)]
    return {
        "ratio_median": median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        "repeats": repeats,
    }


def parser(description: str) -> argparse.ArgumentParser:
    """Of a benchmark that repairs a model on CIFAR-10."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True)
    parser.add_argument(
        "--data", type=Path, required=True, help="directory with train.parquet and test.parquet"
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--precision", default="bf16")
    return parser
