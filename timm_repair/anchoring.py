"""Anchoring: a pull towards the original weights (L2-SP), so that a repair without retained
examples stays close to the original.
"""

from collections.abc import Mapping

from torch import Tensor

from timm_repair.data import RepairData
from timm_repair.training import Training


def anchor_strength(options: Training, data: RepairData) -> float:
    """λ of `Training.anchor`."""
    return (0.0 if data.retained is not None else 0.1) if options.anchor is None else options.anchor


def anchor_penalty(
    parameters: Mapping[str, Tensor], origin: Mapping[str, Tensor], strength: float
) -> list[Tensor]:
    """λ/2 · ||θ - θ_original||² (L2-SP), as a summand of the loss; none where λ is 0."""
    return (
        [0.5 * strength * sum((p - origin[name]).square().sum() for name, p in parameters.items())]
        if strength
        else []
    )
