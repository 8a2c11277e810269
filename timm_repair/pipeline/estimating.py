"""Estimating: what a repair would read, where it would work and what it would cost, in a fraction
of the time that it takes. Data and model are read as `repair` reads them, so what it would refuse
is refused here.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from os import PathLike
from time import perf_counter
from typing import Any

from accelerate import Accelerator
from torch import nn

from timm_repair import methods
from timm_repair.data.options import DataOptions
from timm_repair.data.predicting import predict
from timm_repair.data.repair_data import RepairData
from timm_repair.errors import OptionError
from timm_repair.localization.localization import Localization
from timm_repair.localization.target import Target
from timm_repair.methods.method import Method
from timm_repair.models.block import Block
from timm_repair.models.weights import part_of
from timm_repair.pipeline.case import context, load_model, read_data, working_copy
from timm_repair.pipeline.entrants import require_fit
from timm_repair.properties.preparing import is_property
from timm_repair.properties.sampling import Sampling
from timm_repair.report.estimate import Estimate
from timm_repair.runtime.accelerators import make_accelerator
from timm_repair.runtime.boundary import public
from timm_repair.runtime.processes import require_shares
from timm_repair.runtime.randomness import own_randomness
from timm_repair.runtime.runtime import Runtime
from timm_repair.runtime.timing import SECONDS
from timm_repair.training.job import Job
from timm_repair.training.options import INTERPOLATIONS
from timm_repair.training.tuning import tune

TIMED = 2, 6  # steps of two short trainings, whose difference is the cost of a step
ASKED = 256  # images that an evaluation is timed on
SEARCHING = 2  # steps that a step of an architecture search is taken for


@public
def estimate(
    model: str | PathLike | nn.Module,
    failures: Any,
    *,
    retain: Any = None,
    passing: Any = None,
    holdout: Any = None,
    method: str | Method = "archrepair",
    diagnose: bool = True,
    seed: int = 0,
    accelerator: Accelerator | None = None,
    progress: bool = True,
    data: DataOptions | Sampling | None = None,
    **options: Any,
) -> Estimate:
    """What `repair` with these arguments would read, which blocks it would repair, and about how
    long it would take. Nothing is repaired: a few steps are timed on a copy that is thrown away.

    Args:
        model, failures, retain, passing, holdout, method, diagnose, seed, accelerator, progress,
            data, options: as for `repair`.

    Raises:
        OptionError: the failures are those of a property.
        RepairError: what `repair` would refuse before its work starts.

    Example:
        >>> print(timm_repair.estimate("resnet50", failures, retain=train))
    """
    chosen = methods.named(method, **options)
    if is_property(failures):
        raise OptionError("estimate takes images that fail, not properties: repair them")
    runtime = Runtime(accelerator or make_accelerator(), seed, progress)
    require_shares(chosen.training.batch_size, runtime.accelerator)
    name, model = load_model(model)
    with context(name, chosen), own_randomness(seed):
        model = working_copy(model, runtime)
        prepared = read_data(model, failures, retain, holdout, data, runtime, passing)
        require_fit(model, chosen, prepared, runtime)
        trial = _Trial(chosen, model, prepared, runtime)
        with runtime.stage("localize"):
            blocks, found = trial.place()
        with runtime.stage("timing"):
            training, evaluating = trial.seconds(blocks)
    spent = {stage.name: stage.seconds for stage in runtime.stages}
    seconds = {"prepare": spent["prepare"], "evaluate": evaluating}
    seconds |= {"localize": spent["localize"]} if found else {}
    return Estimate(
        model=name,
        method=chosen.name,
        device=str(runtime.device),
        read=prepared.provenance.get("read", {}),
        blocks=tuple(block.name for block in blocks),
        localization=found.to_dict() if found else None,
        steps=chosen.training.steps,
        batch_size=chosen.training.batch_size,
        seconds=seconds | {"train": training},
        peak_memory=max(stage.peak_memory for stage in runtime.stages),
        notes=trial.notes(diagnose, found is not None),
    )


@dataclass(frozen=True)
class _Trial:
    """A repair that is tried in small, on a copy."""

    method: Method
    model: nn.Module
    data: RepairData
    runtime: Runtime

    @property
    def target(self) -> Target | None:
        """Which blocks the method is after; None where it takes the whole network."""
        found = getattr(self.method, "places", None) or getattr(self.method, "target", None)
        # a method with a level has a score choose, unless the level is the network; others take
        # blocks by name alone
        level = getattr(self.method, "level", "network")
        return found if isinstance(found, Target) and (found.chosen or level != "network") else None

    def place(self) -> tuple[tuple[Block, ...], Localization | None]:
        """The blocks that would be repaired, and the score that says so; no trial is made."""
        if self.target is None:
            return (), None
        count = None if self.target.chosen else self.target.blocks or 1
        target = replace(self.target, blocks=count)
        found = target.choose(self.model, self.data, self.method.training, self.runtime)
        return found[1], found[2]

    def seconds(self, blocks: tuple[Block, ...]) -> tuple[float, float]:
        """What training would take, and both evaluations of the holdout with the timing of the
        model.
        """
        training = self.method.training
        self._trained(blocks, 1)  # the first one allocates, and fills what is kept
        few, more = (self._trained(blocks, steps) for steps in TIMED)
        step = max(more - few, 0) / (TIMED[1] - TIMED[0])
        # measured at start and end, and between the original and what was trained
        look = max(few - TIMED[0] * step, 0) / (2 + len(INTERPOLATIONS))
        within, looks = training.choosing.evaluations, 1 + len(INTERPOLATIONS)
        steps = training.steps * (1 + (SEARCHING - 1) * getattr(self.method, "search_share", 0))
        images = max(self.data.holdout.values(), key=len)
        asked = images.subset(range(min(len(images), ASKED)))
        asking = _timed(
            lambda: predict(self.model, asked, self.data.preprocessing, self.runtime)
        ) / len(asked)
        held_out = sum(map(len, self.data.holdout.values()))
        seconds = min(steps * step + within * look, training.seconds or math.inf)
        return seconds + looks * look, 2 * held_out * asking + SECONDS

    def _trained(self, blocks: tuple[Block, ...], steps: int) -> float:
        training = self.method.training
        choosing = replace(training.choosing, evaluations=1, patience=None)
        short = replace(training, steps=steps, seconds=None, choosing=choosing)
        own = replace(self.runtime, stages=[], journal=None)
        part = part_of(self.model, *blocks) if blocks else self.model
        return _timed(lambda: tune(Job(self.model, self.data, short, own), part, stage="timing"))

    def notes(self, diagnose: bool, localized: bool) -> tuple[str, ...]:
        """What the numbers leave out."""
        told = ["times are rough: other work on the machine, and what is kept in memory, move them"]
        if diagnose and self.data.retained is not None:
            told.append(
                "the diagnosis is not counted; it takes seconds to a minute, and where it finds a"
                " pattern steps of archrepair take longer: a tenth for early blocks"
            )
        if localized and self.target is not None and self.target.open:
            told.append(
                "the repair chooses blocks by the diagnosis and a short trial too, and may take"
                " others, or several; the trial is not counted"
            )
        if hasattr(self.method, "search_share"):
            told.append(f"a step of the search is taken for {SEARCHING} of training")
        elif self.method.name != "finetune":
            told.append(f"what {self.method.name} does beside its training steps is not counted")
        return tuple(told)


def _timed(work: Callable[[], object]) -> float:
    begun = perf_counter()
    work()
    return perf_counter() - begun
