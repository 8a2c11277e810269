"""Runtime: where a run computes (the Accelerator), how it is seeded, how much fits in memory, and
what each of its stages cost.

One Runtime is made in `pipeline.repair()` (around the caller's Accelerator, or a new one) and
handed down.
"""

import hashlib
import itertools
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from torch import Tensor

from timm_repair.errors import OptionError, OutputError
from timm_repair.runtime.accelerators import make_accelerator, refuse_unfit
from timm_repair.runtime.journal import Journal
from timm_repair.runtime.memory import as_many_as_fit
from timm_repair.runtime.progress import Bar, stage_told
from timm_repair.runtime.stages import Stage, timed

logger = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass
class Runtime:
    """What every stage of a run shares.

    Args:
        accelerator: device, precision and processes; a plain `Accelerator()` where none is given.
        seed: every random choice of the run follows from it.
        progress: show progress bars (on the main process, on standard error); progress.py tells of
            it in any case.
        eval_batch_size: images per forward pass where no gradient is taken, if as many fit in
            memory.
        journal: where the run notes what it has done, to go on after being killed; None notes
            nothing.
        logged: counts the rows of the histories, for the accelerator's trackers.
        fitting: how many images were found to fit in memory, without gradients and with; empty
            until some did not.
        shortened: loops whose time was up before their steps were done: name to how many of how
            many were made.
        running: the stage that is at work, and since when.

    Raises:
        OptionError: the accelerator cannot be had as it was asked for, or is set up for what a
            repair does not do.
    """

    accelerator: Accelerator = field(default_factory=make_accelerator)
    seed: int = 0
    progress: bool = True
    eval_batch_size: int = 256
    stages: list[Stage] = field(default_factory=list)
    journal: Journal | None = None
    logged: Iterator[int] = field(default_factory=itertools.count)
    fitting: dict[bool, int] = field(default_factory=dict)
    shortened: dict[str, tuple[int, int]] = field(default_factory=dict)
    running: tuple[str, float] | None = None

    def __post_init__(self):
        refuse_unfit(self.accelerator)
        if not 0 <= self.seed < 2**63:
            raise OptionError(f"seed={self.seed!r}: must be from 0 to 2**63 - 1")

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

    def bar(self, total: int, description: str) -> Bar:
        """A progress bar on the main process; `with runtime.bar(n, "search") as bar:
        bar.update()`.
        """
        main = self.accelerator.is_main_process
        return Bar(total, description, hidden=not (self.progress and main), silent=not main)

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
            found, count = as_many_as_fit(compute, indices[:size])
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
        it fails. With a journal, what earlier parts of the run spent on it is added.
        """
        self.running = (name, time.perf_counter())
        told = stage_told(name) if self.accelerator.is_main_process else nullcontext()
        try:
            with told, timed(name, self.stages, self.device):
                yield
        finally:
            self.running = None
            if self.journal is not None:
                self.stages[-1] = self._in_all(self.stages[-1], len(self.stages) - 1)
                with suppress(OutputError):  # what a run costs is told, no result
                    self._spend()

    def keep(self, journal: Journal) -> None:
        """Note in `journal` from here on what the run has done; the stages so far are those of
        every part of it.
        """
        self.journal = journal
        self.stages[:] = [self._in_all(each, i) for i, each in enumerate(self.stages)]

    def checkpoint(self, name: str, state: Any) -> None:
        """Keep the state of loop `name` in the journal, and what was spent until now."""
        assert self.journal is not None, "asked for by who has one"
        self.journal.checkpoint(name, state)
        self._spend()

    def _in_all(self, stage: Stage, index: int) -> Stage:
        """`stage`, the one at `index`, with what it cost in the earlier parts of this run: the same
        stages follow each other in every part.
        """
        earlier = self.journal.earlier if self.journal else []
        if index >= len(earlier) or earlier[index][0] != stage.name:
            return stage
        _, seconds, memory = earlier[index]
        return Stage(stage.name, stage.seconds + seconds, max(stage.peak_memory, memory))

    def _spend(self) -> None:
        assert self.journal is not None
        stages = list(self.stages)
        if self.running is not None:
            name, start = self.running
            stages.append(self._in_all(Stage(name, time.perf_counter() - start, 0), len(stages)))
        spent = [(each.name, each.seconds, each.peak_memory) for each in stages]
        # those that an earlier part had come to, and this one not yet
        self.journal.spend([*spent, *self.journal.earlier[len(spent) :]])
