"""Stages: what each part of a run costs, in seconds and bytes."""

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass(frozen=True)
class Stage:
    """Cost of one stage: wall seconds, and peak memory of the process (host, or the accelerator's
    where there is one) in bytes.
    """

    name: str
    seconds: float
    peak_memory: int


@contextmanager
def timed(name: str, stages: list[Stage], device: torch.device) -> Iterator[None]:
    """Time the enclosed work and append its Stage to `stages`, also when it fails."""
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    else:
        _reset_peak_host_memory()
    start = time.perf_counter()
    try:
        yield
    finally:
        peak = torch.cuda.max_memory_allocated(device) if on_gpu else _peak_host_memory()
        stages.append(Stage(name, time.perf_counter() - start, peak))


def _reset_peak_host_memory() -> None:
    try:
        # Linux: VmHWM starts again from the present size
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass  # elsewhere the peak is that of the process so far


def _peak_host_memory() -> int:
    try:
        status = Path("/proc/self/status").read_text()
        return 1024 * int(
            next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]
        )
    except (OSError, StopIteration):
        pass
    # ru_maxrss is in kibibytes on Linux and in bytes on macOS
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
