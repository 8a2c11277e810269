"""Losses: of a batch, and the pull towards the original weights (L2-SP) that keeps a repair without
retained examples close to the original.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from timm_repair.data.repair_data import RepairData
from timm_repair.runtime.processes import share_of_batch
from timm_repair.training.batches import Batches
from timm_repair.training.options import Training
from timm_repair.training.prefix.forward import Forward


def repair_loss(
    logits: Tensor,
    labels: Tensor,
    answers: Tensor,
    wrong_class_weight: float,
    *,
    reduction: str = "mean",
) -> Tensor:
    """Cross-entropy of `logits` (n, classes), see `Mixing.wrong_class_weight`; `answers` (n,) as
    from `Batches.draw`.
    """
    logits = logits if logits.dtype == torch.float64 else logits.float()
    if wrong_class_weight < 1:
        failing = (answers >= 0).nonzero().flatten()
        less = logits.new_tensor(math.log(wrong_class_weight or 1e-30))
        logits = logits.index_put((failing, answers[failing]), less, accumulate=True)
    return F.cross_entropy(logits, labels, reduction=reduction)


# what `tune` and `search` minimize on a batch, as `batch_losses`
Losses = Callable[[Batches, Forward], Iterator[Tensor]]


def batch_losses(batches: Batches, forward: Forward) -> Iterator[Tensor]:
    """Cross-entropy of the model on the next batch, see `Mixing.wrong_class_weight`; its mean
    over processes is that over the batch.

    In as many summands as the accelerator accumulates gradients over, each computed when it is
    asked for.
    """
    accelerator = batches.runtime.accelerator
    batch = batches.take(forward.keeps)
    pieces = accelerator.gradient_accumulation_steps
    for piece in (batch[i::pieces] for i in range(pieces)):
        with accelerator.autocast():
            logits = forward.logits(piece.parts, piece.views)
            loss = repair_loss(logits, piece.labels, piece.answers, batches.wrong_class_weight)
        yield loss * share_of_batch(len(piece.labels), batches.training.batch_size, accelerator)


def batch_loss(batches: Batches, forward: Forward) -> Tensor:
    """The sum of `batch_losses`."""
    return torch.stack(list(batch_losses(batches, forward))).sum()


def anchor_strength(training: Training, data: RepairData) -> float:
    """λ of `Training.anchor`."""
    return (
        (0.0 if data.retained is not None else 0.1) if training.anchor is None else training.anchor
    )


def anchor_penalty(
    parameters: Mapping[str, Tensor], origin: Mapping[str, Tensor], strength: float
) -> list[Tensor]:
    """λ/2 · ||θ - θ_original||² (L2-SP), as a summand of the loss; none where λ is 0."""
    if not strength:
        return []
    distances = ((p - origin[name]).square().sum() for name, p in parameters.items())
    return [cast(Tensor, 0.5 * strength * sum(distances))]  # of no parameters there is no repair
