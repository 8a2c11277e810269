"""Gain: what a gradient step on a block is predicted to bring."""

from collections.abc import Sequence

from timm_repair.localization.folds import all_gradients, gain_scores
from timm_repair.localization.scores import BlockScores
from timm_repair.models.block import Block
from timm_repair.training.job import Job


def gain(job: Job, blocks: Sequence[Block]) -> BlockScores:
    """Predicted gain: how much the first gradient step on a block's weights lowers the failures'
    loss, to first order.

    A step of rate η along -g changes the loss by -η ||g||², and every block is repaired at the same
    η. ||g||² is taken across parts of the failures: a step that follows one part is worth what it
    does for another, so that gradients which merely fit the examples at hand count for nothing. The
    loss is the one that repairs train with. Reads the failures alone, forward and backward.

    Args:
        job: of its training, learning rate and `wrong_class_weight` are read.

    Raises:
        NoFailuresError: the model classifies every failure correctly.
        NonFiniteError: the logits are NaN or infinite.
    """
    rate = job.training.optimizing.learning_rate
    return gain_scores(job.model, blocks, all_gradients(job, blocks), rate)
