"""Random: the control."""

from collections.abc import Sequence

import torch
from torch import nn

from timm_repair.data.repair_data import RepairData
from timm_repair.models.block import Block
from timm_repair.runtime.runtime import Runtime


def random(
    model: nn.Module, blocks: Sequence[Block], data: RepairData, runtime: Runtime
) -> dict[str, float]:
    """The control: uniform numbers that follow from `runtime.seed`."""
    draws = torch.rand(
        len(blocks), generator=runtime.generator("random scorer"), dtype=torch.float64
    )
    return dict(zip((block.name for block in blocks), draws.tolist(), strict=True))
