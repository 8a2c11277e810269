"""Random: the control."""

from collections.abc import Sequence

import torch

from timm_repair.models.block import Block
from timm_repair.training.job import Job


def random(job: Job, blocks: Sequence[Block]) -> dict[str, float]:
    """The control: uniform numbers that follow from the runtime's seed."""
    draws = torch.rand(
        len(blocks), generator=job.runtime.generator("random scorer"), dtype=torch.float64
    )
    return dict(zip((block.name for block in blocks), draws.tolist(), strict=True))
