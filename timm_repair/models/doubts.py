"""Doubts: what a model does that a repair can live with, and its owner should know of before."""

import warnings

import torch
from torch import Tensor, nn

from timm_repair.errors import AssumptionWarning
from timm_repair.models.answering import logits, made_up
from timm_repair.models.tracing import input_size

_PRUNED = 0.2  # share of a layer's weights that are exactly zero
_SMALLEST = 1024  # weights of a layer that is looked at: small ones are written by hand
_ROUNDING = 1e-3  # relative: kernels for one image round otherwise than those for several


def warn_of_doubts(model: nn.Module) -> None:
    """Warn where the answer to an image depends on those beside it, where answers are probabilities
    instead of logits, and where weights that were pruned for good would be trained again.

    Raises:
        ModelError, DataError: as `answering.logits`.
    """
    images = made_up(input_size(model), model)
    together = logits(model, images)
    _warn_of_neighbours(together, logits(model, images[:1]))
    _warn_of_probabilities(together)
    _warn_of_pruned(model)


def _warn_of_neighbours(together: Tensor, alone: Tensor) -> None:
    if bool((together[:1] - alone).norm() > _ROUNDING * alone.norm()):
        _doubt(
            "the model's answer to an image depends on the other images of the batch: accuracies"
            " depend on how images are batched, here and in production. Call model.eval() where"
            " layers are set to train, and take out what normalizes over the batch"
        )


def _warn_of_probabilities(answers: Tensor) -> None:
    sums = answers.sum(dim=1)
    if bool((answers >= 0).all() and torch.allclose(sums, torch.ones_like(sums), atol=1e-4)):
        _doubt(
            "the model answers with probabilities, which sum to 1; what trains takes logits, and"
            " learns little from these. Give the model without its last softmax"
        )


def _warn_of_pruned(model: nn.Module) -> None:
    shares = {
        name: (weight == 0).double().mean().item()
        for name, weight in model.named_parameters()
        if weight.ndim > 1 and weight.numel() >= _SMALLEST
    }
    pruned = {name: share for name, share in shares.items() if _PRUNED <= share < 1}
    if 2 * len(pruned) > len(shares):  # not a few layers that somebody wrote by hand
        worst = max(pruned, key=pruned.__getitem__)
        _doubt(
            f"{pruned[worst]:.0%} of the weights of {worst!r} are exactly zero, and a fifth or more"
            f" of those of {len(pruned)} of {len(shares)} layers: if they were pruned, a repair"
            " trains those of the blocks that it repairs again. Keep their masks (do not call"
            " torch.nn.utils.prune.remove), or prune the repaired model"
        )


def _doubt(message: str) -> None:
    warnings.warn(message, AssumptionWarning, stacklevel=5)
