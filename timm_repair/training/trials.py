"""Trials: what a short repair of a part brings on the selection split, to choose by."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import nn

from timm_repair.models.block import Block
from timm_repair.models.weights import State, part_of, snapshot
from timm_repair.training.history import Row
from timm_repair.training.job import Job
from timm_repair.training.objective import objective
from timm_repair.training.tuning import tune

SHARE = 0.2  # of the steps of the repair
STEPS = 20, 60  # at least and at most: in fewer late blocks do better than they will


@dataclass(frozen=True)
class Trial:
    """What came of a short repair.

    Args:
        value: the objective.
        state: of the part.
    """

    value: float
    state: State
    history: list[Row]


def tried(job: Job, part: nn.Module, stage: str = "try") -> Trial:
    """Repair `part` for the job's steps, measured at their end; it comes back as it was."""
    choosing = replace(job.training.choosing, evaluations=1, patience=None)
    short = replace(job, training=replace(job.training, choosing=choosing))
    original, forward = snapshot(part), short.forward(part)
    try:
        history, _ = tune(short, part, stage=stage, forward=forward)
        value = objective(forward, job.data, job.training.choosing)
        return Trial(value, snapshot(part), history)
    finally:
        part.load_state_dict(original)


def brings(job: Job, blocks: Sequence[Block]) -> float:
    """The objective after a short repair of these blocks together, with the job's own batches and
    rates; the model comes back as it was.
    """
    steps = min(max(round(SHARE * job.training.steps), STEPS[0]), STEPS[1], job.training.steps)
    # it is done anew in a run that is resumed, or not at all
    runtime = replace(job.runtime, stages=[], shortened={}, journal=None)
    short = replace(job, training=job.training.within(steps), runtime=runtime)
    return tried(short, part_of(job.model, *blocks)).value
