"""What all passes over the failures share: inputs, sums, and what is refused."""

import torch
from torch import Tensor

from timm_repair.data.repair_data import RepairData
from timm_repair.errors import NoFailuresError, NonFiniteError
from timm_repair.images.images import Images
from timm_repair.runtime.runtime import Runtime


def inputs_of(
    images: Images, batch: Tensor, data: RepairData, runtime: Runtime
) -> tuple[Tensor, Tensor]:
    """What the model takes for `images[batch]`, (n, C, H, W), and their labels (n,), on the
    device.
    """
    return data.preprocessing.normalize(images.pixels(batch), runtime.device), images.labels[
        batch
    ].to(runtime.device)


def accumulator(size: int, runtime: Runtime) -> Tensor:
    """Zeros to sum into, float64 wherever the device has it."""
    dtype = torch.float32 if runtime.device.type == "mps" else torch.float64
    return torch.zeros(size, dtype=dtype, device=runtime.device)


def require_usable(failing: int, broken: int) -> None:
    """Raise for a sweep that tells nothing; after the sums are reduced, so that all processes raise
    together.
    """
    if broken:
        raise NonFiniteError(
            f"the model's logits are NaN or infinite for {broken} images; check its weights"
        )
    if not failing:
        raise NoFailuresError(
            "the model classifies every given failure correctly; pass examples that it gets wrong"
        )
