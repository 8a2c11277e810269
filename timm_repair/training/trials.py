"""Trials: what a short repair of a part brings on the selection split, to choose by."""

from collections.abc import Sequence
from dataclasses import replace

from torch import nn

from timm_repair.models.block import Block
from timm_repair.models.weights import part_of, snapshot
from timm_repair.training.job import Job
from timm_repair.training.objective import objective
from timm_repair.training.tuning import tune

SHARE = 0.2  # of the steps of the repair
STEPS = 20, 60  # at least and at most: in fewer late blocks do better than they will


def brings(job: Job, blocks: Sequence[Block]) -> float:
    """The objective after a short repair of these blocks together, with the job's own batches and
    rates; the model comes back as it was.
    """
    steps = min(max(round(SHARE * job.training.steps), STEPS[0]), STEPS[1], job.training.steps)
    choosing = replace(job.training.choosing, evaluations=1, patience=None)
    training = replace(job.training, steps=steps, choosing=choosing)
    # it is done anew in a run that is resumed, or not at all
    runtime = replace(job.runtime, stages=[], journal=None)
    short = Job(job.model, job.data, training, runtime)
    part: nn.Module = part_of(job.model, *blocks)
    original, forward = snapshot(part), short.forward(part)
    try:
        tune(short, part, stage="try", forward=forward)
        return objective(forward, job.data, training.choosing)
    finally:
        part.load_state_dict(original)
