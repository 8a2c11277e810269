"""Interpolation (WiSE-FT): how far to go from the original weights to the repaired ones."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from timm_repair.models.weights import between, snapshot
from timm_repair.training.job import Job
from timm_repair.training.objective import objective
from timm_repair.training.options import INTERPOLATIONS
from timm_repair.training.prefix.forward import Forward
from timm_repair.training.recalibration import batch_norms, recalibrate

STATISTICS = "running_mean", "running_var"


def interpolate(
    job: Job,
    part: nn.Module,
    original: dict[str, Tensor],
    reached: float | None = None,
    forward: Forward | None = None,
    *,
    shares: Iterable[float] = INTERPOLATIONS,
    batches: int = 0,
    path: dict[float, float] | None = None,
) -> float:
    """WiSE-FT: put `part` at θ_original + a · (θ - θ_original) for the a that the selection split
    prefers; returns a.

    Tried are 0, 1 and `shares`. Without retained data the failures alone would always ask for
    all of it; there the smallest a within one standard error of the best is taken, which keeps the
    model as close to the original as the evidence allows.

    Args:
        reached: the objective at a = 1, if it is known.
        forward: the model's answers while only `part` changes; None makes it.
        batches: on so many the statistics of batch norms are renewed between 0 and 1, where they
            belong to neither weights; 0 interpolates them, as all else. Those that are the same at
            both ends stay.
        path: takes the objective at each a.
    """
    repaired, forward = snapshot(part), forward or job.forward(part)
    norms = _changed_norms(part, original) if batches else []
    values = {} if path is None else path
    if reached is not None:
        values[1.0] = reached

    def go(share: float) -> None:
        part.load_state_dict(between(original, repaired, share))
        if norms and 0 < share < 1:
            recalibrate(job, part, batches=batches, norms=norms)

    for share in sorted({0.0, *shares, 1.0} - values.keys()):
        go(share)
        values[share] = objective(forward, job.data, job.training.choosing)
    best = max(values.values())
    if job.data.retained is None:
        share = min(max(best, 0.0), 1.0)  # the objective's tie-break can take it below zero
        best -= (share * (1 - share) / len(job.data.selection["failing"])) ** 0.5
    # ties go to the smaller step away from the original
    chosen = min(share for share, value in values.items() if value >= best)
    go(chosen)
    return chosen


def _changed_norms(part: nn.Module, original: dict[str, Tensor]) -> list[_BatchNorm]:
    """The batch norms of `part` with other statistics than in the `original` state."""
    names = {id(module): name for name, module in part.named_modules()}
    found = []
    for norm in batch_norms(part):
        path = names[id(norm)]
        kept = {name: original[f"{path}.{name}" if path else name] for name in STATISTICS}
        if not all(torch.equal(getattr(norm, name), value) for name, value in kept.items()):
            found.append(norm)
    return found
