"""Batches: augmented batches of failures and retained examples, and the loss on them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from timm_repair.augmentation import Augmentation
from timm_repair.data import RepairData
from timm_repair.distributed import require_shares, share_of_batch
from timm_repair.errors import OptionError
from timm_repair.examples import Examples, Part
from timm_repair.runtime import Runtime
from timm_repair.training import Training

if TYPE_CHECKING:
    from timm_repair.caching import PrefixCache


@dataclass
class Drawn:
    """The state of a random generator."""

    generator: torch.Generator

    def state_dict(self) -> dict:
        """Where it stands."""
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: Mapping) -> None:
        """Go on from there."""
        self.generator.set_state(state["generator"])


class Shuffled:
    """The indices below `length` in a random order, and again in another, without end."""

    def __init__(self, length: int, generator: torch.Generator):
        self.length, self.generator, self.left, self.rounds = length, generator, [], 0

    def take(self, count: int) -> Tensor:
        """The next `count` of them, and of each the number of the round it comes in, from 0: (2, count)."""
        taken, rounds = [], []
        while len(taken) < count:
            if not self.left:
                self.left = torch.randperm(self.length, generator=self.generator).tolist()
                self.rounds += 1
            more = self.left[: count - len(taken)]
            taken, rounds, self.left = taken + more, rounds + [self.rounds - 1] * len(more), self.left[len(more) :]
        return torch.tensor([taken, rounds])


@dataclass(frozen=True)
class Batch:
    """This process's part of a batch, before any image is read.

    Args:
        parts: by population.
        views: population -> the fixed views that the whole batch has of it.
        labels: (n,), on the device.
        answers: (n,), the original's wrong answers, -1 for retained examples; on the device.
    """

    parts: tuple[Part, ...]
    views: dict[str, tuple[int, ...]]
    labels: Tensor
    answers: Tensor


class Batches:
    """An endless supply of augmented batches, `options.failing_share` of each failures and the rest retained examples.

    Each population is gone through in a fresh random order again and again. All processes draw the same global batch and keep their
    part of it, so the result does not depend on how many there are.

    Args:
        rows: population ("failing", "retained") -> (n,) which of its examples to draw from; None draws from all.
    """

    def __init__(self, data: RepairData, options: Training, runtime: Runtime, purpose: str, rows: Mapping[str, Tensor] | None = None):
        require_shares(options.batch_size, runtime.accelerator)
        self.options, self.runtime, self.examples = options, runtime, Examples(data, options, runtime)
        self.generator = runtime.generator(purpose)
        self.wrong_class_weight = options.wrong_class_weight_for(data.num_classes)
        if data.num_classes == 2 and self.wrong_class_weight == 0:
            raise OptionError("with two classes wrong_class_weight=0 leaves failures nothing to teach: set it above 0, or leave it out")
        self.supplies = []
        for name, count in counts(options, data).items():
            if count:
                these = torch.arange(len(self.examples.populations[name])) if rows is None else rows[name]
                self.supplies.append((name, these, count, Shuffled(len(these), self.generator)))

    def state_dict(self) -> dict:
        """Where the supply stands, for `load_state_dict`."""
        orders = [order for *_, order in self.supplies]
        return {"generator": self.generator.get_state(), "left": [o.left for o in orders], "rounds": [o.rounds for o in orders]}

    def load_state_dict(self, state: Mapping) -> None:
        """Go on from there."""
        self.generator.set_state(state["generator"])
        for (*_, order), left, rounds in zip(self.supplies, state["left"], state["rounds"], strict=True):
            order.left, order.rounds = list(left), rounds

    def take(self) -> Batch:
        """This process's part of the next batch."""
        parts = self._whole()
        views = {part.name: tuple(part.views.unique().tolist()) for part in parts if part.views is not None}
        # every n-th example of the batch is this process's
        place, processes = self.runtime.accelerator.process_index, self.runtime.accelerator.num_processes
        starts = [sum(len(part.rows) for part in parts[:i]) for i in range(len(parts))]
        parts = tuple(part[(place - start) % processes :: processes] for part, start in zip(parts, starts, strict=True))
        populations, device = self.examples.populations, self.runtime.device
        labels = torch.cat([populations[part.name].labels[part.rows] for part in parts])
        answers = torch.cat([torch.full_like(part.rows, -1) if populations[part.name].answers is None
                             else populations[part.name].answers[part.rows] for part in parts])
        return Batch(parts, views, labels.to(device), answers.to(device))

    def _whole(self) -> list[Part]:
        """The next batch of all processes."""
        taken = [(name, these, *order.take(count)) for name, these, count, order in self.supplies]
        if self.examples.views is not None:
            return [self.examples.view(name, these[places], rounds % self.examples.views) for name, these, places, rounds in taken]
        drawn, stop, parts = Augmentation.draw(self.options.batch_size, self.examples.size, self.options, self.generator), 0, []
        for name, these, places, _ in taken:
            start, stop = stop, stop + len(places)
            parts.append(Part(name, these[places], None, drawn[start:stop]))
        return parts

    def draw(self) -> tuple[Tensor, Tensor, Tensor]:
        """Images (n, C, H, W), labels (n,) and the original's wrong answers (n,) of this process's part of the next batch."""
        batch = self.take()
        return self.examples.images(*batch.parts), batch.labels, batch.answers

    def loss(self, model: nn.Module, cache: "PrefixCache | None" = None) -> Tensor:
        """Cross-entropy of `model` on the next batch, see `Training.wrong_class_weight`; its mean over processes is that over the batch."""
        batch, accelerator = self.take(), self.runtime.accelerator
        with accelerator.autocast():
            logits = model(self.examples.images(*batch.parts)) if cache is None else cache.logits(batch.parts, batch.views)
            loss = repair_loss(logits, batch.labels, batch.answers, self.wrong_class_weight)
        return loss * share_of_batch(len(batch.labels), self.options.batch_size, accelerator)


def counts(options: Training, data: RepairData) -> dict[str, int]:
    """How many examples of each population a batch has, over all processes."""
    if data.retained is None:
        return {"failing": options.batch_size}
    failing = round(options.failing_share * options.batch_size)
    if 0 < options.failing_share < 1 < options.batch_size:
        failing = min(max(failing, 1), options.batch_size - 1)  # rounding must not silence either population
    return {"failing": failing, "retained": options.batch_size - failing}


def repair_loss(logits: Tensor, labels: Tensor, answers: Tensor, wrong_class_weight: float, *, reduction: str = "mean") -> Tensor:
    """Cross-entropy of `logits` (n, classes), see `Training.wrong_class_weight`; `answers` (n,) as from `Batches.draw`."""
    logits = logits if logits.dtype == torch.float64 else logits.float()
    if wrong_class_weight < 1:
        failing = (answers >= 0).nonzero().flatten()
        less = logits.new_tensor(math.log(wrong_class_weight or 1e-30))
        logits = logits.index_put((failing, answers[failing]), less, accumulate=True)
    return F.cross_entropy(logits, labels, reduction=reduction)
