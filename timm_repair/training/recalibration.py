"""Recalibration: the statistics of batch norms renewed on the repair's own mixture of examples."""

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from timm_repair.models.temporary import evaluating
from timm_repair.runtime.batch_norms import sharded
from timm_repair.runtime.memory import out_of_memory_explained
from timm_repair.training.batches import Batches
from timm_repair.training.job import Job


def batch_norms(part: nn.Module) -> list[_BatchNorm]:
    """The batch norms of `part` that keep running statistics."""
    return [m for m in part.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]


@torch.no_grad()
def recalibrate(
    job: Job, part: nn.Module, *, batches: int, norms: list[_BatchNorm] | None = None
) -> None:
    """Renew the running statistics of `part`'s batch norms: plain averages over `batches` batches
    of the repair's own mixture.

    Args:
        norms: those of `batch_norms(part)` that are renewed; None renews all.
    """
    norms = batch_norms(part) if norms is None else norms
    if not norms:
        return
    supply = Batches(job.data, job.training, job.runtime, "recalibration")
    momenta = [m.momentum for m in norms]
    try:
        with evaluating(job.model), sharded(part, job.runtime, "recalibration"):
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum = None  # cumulative average
                norm.train()
            for _ in range(batches):
                with (
                    job.runtime.accelerator.autocast(),
                    out_of_memory_explained(f"batch_size={job.training.batch_size}"),
                ):
                    job.model(supply.draw()[0])
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
