"""Runtime: where a run computes (the Accelerator), how it is seeded, how much fits in memory, and
what each of its stages cost.

One Runtime is made in `pipeline.repair()` (around the caller's Accelerator, or a new one) and
handed down.
"""

import hashlib
import itertools
import logging
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils.memory import find_executable_batch_size, should_reduce_batch_size
from torch import Tensor
from tqdm.auto import tqdm

from timm_repair.errors import MemoryExceededError, OptionError

if TYPE_CHECKING:
    from timm_repair.journal import Journal

logger = logging.getLogger(__name__)

T = TypeVar("T")

# they spread or replace a model's parameters behind its back; a repair trains one part of the model
# and takes it out
REFUSED = ("FSDP", "DEEPSPEED", "MEGATRON_LM")
SMALLER_TRAINING = (
    "lower batch_size or cache_memory, accumulate gradients"
    " (Accelerator(gradient_accumulation_steps=2)), repair a block nearer to the output, or use"
    " mixed precision. With output_dir, the same call goes on from the last checkpoint where more"
    " memory is free"
)


@dataclass(frozen=True)
class Stage:
    """Cost of one stage: wall seconds, and peak memory of the process (host, or the accelerator's
    where there is one) in bytes.
    """

    name: str
    seconds: float
    peak_memory: int


@dataclass
class Runtime:
    """What every stage of a run shares.

    Args:
        accelerator: device, precision and processes; None makes a plain `Accelerator()`.
        seed: every random choice of the run follows from it.
        progress: show progress bars (on the main process, on standard error).
        eval_batch_size: images per forward pass where no gradient is taken, if as many fit in
            memory.
        journal: where the run notes what it has done, to go on after being killed; None notes
            nothing.
        logged: counts the rows of the histories, for the accelerator's trackers.
        fitting: how many images were found to fit in memory, without gradients and with; empty
            until some did not.

    Raises:
        OptionError: the accelerator cannot be had as it was asked for, or is set up for what a
            repair does not do.
    """

    accelerator: Accelerator = None
    seed: int = 0
    progress: bool = True
    eval_batch_size: int = 256
    stages: list[Stage] = field(default_factory=list)
    journal: "Journal | None" = None
    logged: Iterator[int] = field(default_factory=itertools.count)
    fitting: dict[bool, int] = field(default_factory=dict)

    def __post_init__(self):
        if self.accelerator is None:
            self.accelerator = make_accelerator()
        _refuse(self.accelerator)

    @property
    def device(self) -> torch.device:
        return self.accelerator.device

    def generator(self, purpose: str) -> torch.Generator:
        """A CPU generator of its own for `purpose`: adding a random draw in one stage does not
        shift those of another.
        """
        digest = hashlib.sha256(f"{self.seed}/{purpose}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))

    def once(self, name: str, compute: Callable[[], Any]) -> Any:
        """`compute()`, or what it gave in an earlier run of the same that was killed later on:
        tensors and plain values.
        """
        return compute() if self.journal is None else self.journal.once(name, compute)

    def log(self, row: Mapping[str, Any]) -> None:
        """Hand a row of a history to the accelerator's trackers, if it has any: its numbers as
        "search/loss", "finetune/lr", …
        """
        step = next(self.logged)  # one count for all stages: trackers want steps that only grow
        if self.accelerator.trackers:
            numbers = {
                name: value
                for name, value in row.items()
                if name != "step" and isinstance(value, int | float)
            }
            self.accelerator.log(
                {f"{row['stage']}/{name}": value for name, value in numbers.items()}, step=step
            )

    def skip_logged(self, rows: int) -> None:
        """The next so many rows were logged by an earlier run, which was killed."""
        next(itertools.islice(self.logged, rows, rows), None)

    def bar(self, total: int, description: str):
        """A progress bar on the main process; `with runtime.bar(n, "search") as bar:
        bar.update()`.
        """
        hidden = not self.progress or not self.accelerator.is_main_process
        return tqdm(total=total, desc=description, disable=hidden, leave=True, dynamic_ncols=True)

    def in_batches(
        self, compute: Callable[[Tensor], T], indices: Tensor, *, gradients: bool = False
    ) -> Iterator[T]:
        """`compute(part)` for one part of `indices` (n,) after the other, each as large as
        `eval_batch_size` allows and as fits in memory.

        A part that does not fit is computed anew in halves, and no later part is larger. Each index
        is in one result and no more; so `compute` must leave nothing behind but its result, and
        wait for no other process, since each may meet its own limit.

        Args:
            gradients: activations are kept for a backward pass, so a quarter as many are taken.

        Raises:
            MemoryExceededError: a single index does not fit.
        """
        while len(indices):
            asked = max(self.eval_batch_size // 4, 1) if gradients else self.eval_batch_size
            size = min(self.fitting.get(gradients, asked), len(indices))
            found, count = _as_many_as_fit(compute, indices[:size])
            if count < size:
                self.fitting[gradients] = count
                logger.warning(
                    "%d images at once do not fit in memory: from here on %d are evaluated at"
                    " once%s",
                    size,
                    count,
                    " where gradients are taken" if gradients else "",
                )
            indices = indices[count:]
            yield found
            del found  # the next part needs the memory

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time the enclosed work and note its peak memory under `name` in `self.stages`, also when
        it fails.
        """
        on_gpu = self.device.type == "cuda"
        if on_gpu:
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            _reset_peak_host_memory()
        start = time.perf_counter()
        try:
            yield
        finally:
            peak = torch.cuda.max_memory_allocated(self.device) if on_gpu else _peak_host_memory()
            self.stages.append(Stage(name, time.perf_counter() - start, peak))


def make_accelerator(**options: Any) -> Accelerator:
    """An Accelerator as the launcher and `options` say.

    Raises:
        OptionError: there can be none, such as one with float16 on a CPU.
    """
    try:
        return Accelerator(**options)
    except (ValueError, ImportError) as error:
        raise OptionError(f"accelerate refuses: {error}") from error


def _refuse(accelerator: Accelerator) -> None:
    kind = accelerator.distributed_type.value
    if kind in REFUSED:
        raise OptionError(
            f"a repair does not run under {kind}: it trains one part of the model, which every"
            " process must have as a whole. Launch it as plain data parallelism (accelerate launch"
            " --multi_gpu), without that plugin"
        )
    if accelerator.mixed_precision == "fp16" and accelerator.device.type == "cpu":
        # accelerate would compute in float32 without a word
        raise OptionError("mixed_precision='fp16' needs a GPU: choose 'bf16' or 'no'")


def _as_many_as_fit(compute: Callable[[Tensor], T], indices: Tensor) -> tuple[T, int]:
    """`compute` of the first of `indices`, and of how many: all, or the first half, quarter, … that
    fits in memory.
    """

    def attempt(size: int) -> tuple[T, int]:
        remedy = (
            "use a device with more memory, a model for images of fewer pixels, or a smaller model"
        )
        with (
            out_of_memory_explained("the evaluation of a single image", remedy)
            if size == 1
            else nullcontext()
        ):
            return compute(indices[:size]), size

    # accelerate's loop starts with a garbage collection, which takes as long as many batches: only
    # where memory ran out
    try:
        return attempt(len(indices))
    except RuntimeError as error:
        if not should_reduce_batch_size(error):
            raise
    sizes = (len(indices) >> halvings for halvings in itertools.count(1))
    # passed directly: its decorator form with arguments has lost reduce_batch_size_fn in some
    # versions
    return find_executable_batch_size(
        attempt, starting_batch_size=next(sizes), reduce_batch_size_fn=sizes.__next__
    )()


@contextmanager
def out_of_memory_explained(what: str, remedy: str = SMALLER_TRAINING) -> Iterator[None]:
    """Say what to do where the enclosed work runs out of memory, and must not be cut because its
    result would be another.

    Args:
        what: does not fit, such as "batch_size=128".
        remedy: what to do; the default is for training.

    Raises:
        MemoryExceededError: from the error that was met.
    """
    try:
        yield
    except RuntimeError as error:
        if not should_reduce_batch_size(error):
            raise
        raise MemoryExceededError(f"{what} does not fit in memory: {remedy}") from error


@contextmanager
def own_randomness(seed: int) -> Iterator[None]:
    """Dropout and the like draw from the global state: seed it for a while, and give the caller's
    back. Gradients are on inside.
    """
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())), torch.enable_grad():
        torch.manual_seed(seed)
        yield


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
