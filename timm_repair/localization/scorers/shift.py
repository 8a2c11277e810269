"""Shift: how far activations are from where they are for examples that the model gets right."""

import torch
from torch import Tensor

from timm_repair.localization.sweep import Evidence


def shift(evidence: Evidence) -> Tensor:
    """|μ_wrong - μ_right| / σ_right of a neuron's pre-activation: how far the misclassified
    examples have left the others.
    """
    spread = evidence.variance_right.sqrt()
    return torch.where(spread > 0, (evidence.mean_wrong - evidence.mean_right).abs() / spread, 0.0)
