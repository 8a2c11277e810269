"""Consistency: the model says the same of an image and of two random changes of it (AugMix)."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor, nn

from timm_repair.errors import OptionError
from timm_repair.options import check_types
from timm_repair.runtime.processes import share_of_batch
from timm_repair.runtime.randomness import Drawn
from timm_repair.training.batches import Batches
from timm_repair.training.history import Row
from timm_repair.training.job import Job
from timm_repair.training.losses import repair_loss
from timm_repair.training.prefix.forward import Forward
from timm_repair.training.tuning import tune


class Changing(Protocol):
    """How images are changed at random."""

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """What changes each of `count` images: (count, k), on the CPU."""
        ...

    def __call__(self, pixels: Tensor, labels: Tensor, drawn: Tensor) -> Tensor:
        """The changed images, float (n, C, H, W) on the scale 0 to 255."""
        ...


def divergence(logits: list[Tensor]) -> Tensor:
    """Jensen-Shannon: the mean of KL(p_i || M) over several answers (n, classes) to the same
    images, M their mean.
    """
    answers = [each.softmax(1) for each in logits]
    mean = torch.stack(answers).mean(0).clamp(1e-7, 1).log()
    parts = [
        (p * (each.log_softmax(1) - mean)).sum(1) for p, each in zip(answers, logits, strict=True)
    ]
    return torch.stack(parts).mean()


@dataclass(frozen=True, kw_only=True)
class Consistency:
    """What is asked of the answers to changed images.

    Args:
        strength: of the divergence between the answers to an image and to two changes of it.
        train_failures: train on the failures themselves as well, by failing_share; else they only
            tell how images are changed.
    """

    strength: float = 12.0
    train_failures: bool = False

    def __post_init__(self):
        check_types(self)
        if self.strength < 0:
            raise OptionError(f"strength must not be negative, got {self.strength}")


class ConsistencyLoss:
    """CE(x) + strength · JSD(x, x~1, x~2), a loss for `tune`."""

    def __init__(self, job: Job, changing: Changing, strength: float):
        self.changing, self.strength = changing, strength
        self.generator = job.runtime.generator("consistency")

    @property
    def carried(self) -> Drawn:
        """What a checkpoint holds of it."""
        return Drawn(self.generator)

    def __call__(self, batches: Batches, forward: Forward) -> Iterator[Tensor]:
        """As `losses.batch_losses`."""
        batch, accelerator = batches.take(forward.keeps), batches.runtime.accelerator
        pieces, size = accelerator.gradient_accumulation_steps, batches.training.batch_size
        # of the whole batch: every n-th is this process's, as in Batches
        mine = slice(accelerator.process_index, None, accelerator.num_processes)
        drawn = [self.changing.draw(size, self.generator)[mine] for _ in range(2)]
        for i in range(pieces):
            piece = batch[i::pieces]
            device, labels = piece.labels.device, piece.labels
            pixels = batches.examples.pixels(*piece.parts).to(device)
            changed = [self.changing(pixels, labels, d[i::pieces].to(device)) for d in drawn]
            images = batches.examples.preprocessing.normalize(torch.cat([pixels, *changed]), device)
            with accelerator.autocast():
                logits = forward.model(images)
            logits = logits if logits.dtype == torch.float64 else logits.float()
            clean, *others = logits.chunk(3)
            loss = repair_loss(clean, labels, piece.answers, batches.wrong_class_weight)
            loss = loss + self.strength * divergence([clean, *others])
            yield loss * share_of_batch(len(labels), size, accelerator)


def tune_consistently(
    job: Job, part: nn.Module, changing: Changing, asked: Consistency
) -> tuple[list[Row], tuple[str, ...]]:
    """`tune` by `ConsistencyLoss`, on retained examples, also as the pattern of the failures makes
    them where it is known, unless failures are to be trained on; without retained ones on these.
    """
    notes = ()
    if job.data.retained is None and not asked.train_failures:
        notes = ("there are no retained examples to change: the failures themselves were",)
    elif not asked.train_failures:
        data, training = job.data, job.training
        mixing = training.mixing
        # the pattern keeps its places, and those of failures and passing examples are retained ones
        share = mixing.failing_share * mixing.pattern_share * data.pattern_explains
        share = 0.0 if data.pattern is None else share
        mixing = replace(mixing, failing_share=share, pattern_share=1.0)
        job = replace(
            job,
            data=replace(data, pattern_explains=1.0),
            training=replace(training, mixing=mixing),
        )
    loss = ConsistencyLoss(job, changing, asked.strength)
    carried = {"changes": loss.carried}
    history, more = tune(job, part, forward=job.forward(), losses=loss, carried=carried)
    return history, notes + more
