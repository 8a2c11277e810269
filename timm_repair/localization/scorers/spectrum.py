"""Spectrum and gradient of neurons, and their product, which is the paper's score (Eq. 5, 6)."""

import torch
from torch import Tensor

from timm_repair.localization.sweep import Evidence


def spectrum(evidence: Evidence) -> Tensor:
    """Tarantula (Eq. 5): the share of misclassified examples that activate a neuron, over that
    share plus the one of the correctly classified; 0 where both are 0. Without correctly classified
    examples every neuron ever active gets 1.
    """
    wrong = evidence.active_wrong / max(evidence.wrong, 1)
    right = evidence.active_right / max(evidence.right, 1)
    return torch.where(wrong > 0, wrong / (wrong + right), 0.0)


def gradient(evidence: Evidence) -> Tensor:
    """|g_j - G| / max_k |g_k - G|, the factor that Eq. 6 multiplies the spectrum with.

    Read literally: g_j keeps its sign, and a neuron far below the mean G scores like one far above.
    Signed this is sound, since a large negative gradient is as strong a lever on the loss as a
    positive one. G is the mean over blocks of the mean over each block's neurons, so that wide
    blocks do not outweigh narrow ones. 0 where all gradients are equal.
    """
    per_layer = evidence.gradient.split([tap.channels for tap in evidence.taps])
    by_block: dict[str, list[Tensor]] = {}
    for tap, values in zip(evidence.taps, per_layer, strict=True):
        by_block.setdefault(tap.block, []).append(values)
    mean = torch.stack([torch.cat(values).mean() for values in by_block.values()]).mean()
    distance = (evidence.gradient - mean).abs()
    return distance / distance.max().clamp(min=torch.finfo(distance.dtype).tiny)


def spectrum_gradient(evidence: Evidence) -> Tensor:
    """The paper's score (Eq. 6): `spectrum` times `gradient`."""
    return spectrum(evidence) * gradient(evidence)
