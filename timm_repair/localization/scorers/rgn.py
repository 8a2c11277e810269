"""Relative gradient norm: how strongly the failures pull at a block's weights."""

from collections.abc import Sequence

from timm_repair.localization.folds import folded_gradients, rgn_scores
from timm_repair.localization.scores import BlockScores
from timm_repair.models.block import Block
from timm_repair.models.taps import layers_of
from timm_repair.training.job import Job


def rgn(job: Job, blocks: Sequence[Block]) -> BlockScores:
    """Relative gradient norm: the mean over a block's weights of ||dL/dw|| / ||w||, L the mean
    cross-entropy of the failures.

    Per weight tensor as in Auto-RGN (surgical fine-tuning, arXiv 2210.11466), then the plain mean
    of the tensors of convolutions and linear layers, so that depth and width of a block do not
    count; norms, biases and all-zero weights (whose ratio is not defined) are left out. Reads the
    failures alone, forward and backward.

    Raises:
        NoFailuresError: the model classifies every failure correctly.
        NonFiniteError: the logits are NaN or infinite.
    """
    names = [f"{layer}.weight" for layer in layers_of(job.model, blocks)]
    found = folded_gradients(job.model, names, job.data, job.runtime, wrong_class_weight=1.0)
    return rgn_scores(job.model, blocks, found)
