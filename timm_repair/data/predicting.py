"""`predict`: what a model answers for every example of a set. All metrics are computed from this,
elsewhere.
"""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from timm_repair.errors import DataError, NonFiniteError
from timm_repair.images.images import Images
from timm_repair.images.preprocessing import Preprocessing
from timm_repair.models.temporary import evaluating_on, in_float32
from timm_repair.runtime.runtime import Runtime

BAR_FROM = 2000  # images; below, a progress bar is noise


@dataclass(frozen=True)
class Prediction:
    """Answers in example order, on the CPU: predictions (N,) int64 class indices, losses (N,)
    float32 cross-entropy, right (N,) bool whether the answer is the one that is wanted,
    confidences (N,) float32 probability that the model gives to its answer.
    """

    predictions: Tensor
    losses: Tensor
    right: Tensor
    confidences: Tensor = field(default_factory=lambda: torch.zeros(0))


@torch.no_grad()
def predict(
    model: nn.Module,
    images: Images,
    preprocessing: Preprocessing,
    runtime: Runtime,
    *,
    inputs: Callable[[Tensor], Tensor] | None = None,
) -> Prediction:
    """Run `model` over all `images` once, in eval mode and without gradients.

    With several processes each takes a contiguous share, and all get the whole answer. The model
    comes back in the mode and on the device it was. Where a batch does not fit in memory, smaller
    ones are taken.

    Args:
        inputs: row numbers (n,) to what the model takes for them; None takes the normalized images.

    Raises:
        DataError: the model does not return logits of shape (N, classes), or has too few classes
            for the labels.
        NonFiniteError: logits are NaN or infinite.
        MemoryExceededError: not even one image fits in memory.
    """
    accelerator, total = runtime.accelerator, len(images)
    share = -(-total // accelerator.num_processes)
    # the last shares are filled up by repeating the last example: gather needs equal sizes
    mine = (torch.arange(share) + share * accelerator.process_index).clamp(max=total - 1)
    bar = runtime.bar(share, f"evaluate {images.name}") if total > BAR_FROM else nullcontext()
    answers: list[tuple[Tensor, ...]] = []

    def ask(batch: Tensor) -> tuple[Tensor, ...]:
        labels = images.labels[batch].to(runtime.device)
        given = (
            preprocessing.normalize(images.pixels(batch), runtime.device)
            if inputs is None
            else inputs(batch)
        )
        with accelerator.autocast():
            logits = model(given)
        logits = _checked(logits, labels).float()
        return (
            logits.argmax(1),
            F.cross_entropy(logits, labels, reduction="none"),
            images.right(logits, batch),
            logits.softmax(1).amax(1),
            logits.isfinite().all(1),
        )

    with evaluating_on(model, runtime.device), in_float32(model), bar as shown:
        for found in runtime.in_batches(ask, mine):
            answers.append(found)
            if shown is not None:
                shown.update(len(found[0]))
    if not answers:
        nothing = torch.zeros(0, dtype=torch.long)
        return Prediction(nothing, torch.zeros(0), nothing.bool())
    # gathered before it is judged: a process that raised alone would leave the others waiting
    parts = [torch.cat(part) for part in zip(*answers, strict=True)]
    predictions, losses, right, confidences, finite = (
        accelerator.gather(part)[:total].cpu() for part in parts
    )
    if not finite.all():
        bad = int((~finite).nonzero()[0])
        raise NonFiniteError(
            f"{images.name}: the model's logits are NaN or infinite for {int((~finite).sum())} of"
            f" {total} images, first for {images.ids[bad]!r}; check its weights, or evaluate in"
            " full precision (mixed_precision='no')"
        )
    return Prediction(predictions, losses, right, confidences)


def _checked(logits: Tensor, labels: Tensor) -> Tensor:
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(labels):
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise DataError(
            f"the model must return logits of shape (N, classes), not {shape}; is it an image"
            " classifier?"
        )
    if labels.max() >= logits.shape[1]:
        raise DataError(
            f"label {int(labels.max())} for a model with {logits.shape[1]} outputs; check the"
            " labels"
        )
    return logits
