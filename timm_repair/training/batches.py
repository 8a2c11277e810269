"""Batches: which examples of which population come next, and in which view. Knows no model."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from timm_repair.data.repair_data import RepairData
from timm_repair.errors import OptionError
from timm_repair.runtime.processes import require_shares
from timm_repair.runtime.runtime import Runtime
from timm_repair.training.mixing import counts, wrong_class_weight
from timm_repair.training.options import Training
from timm_repair.training.populations import Populations, Sample


class Shuffled:
    """The indices below `length` in a random order, and again in another, without end."""

    def __init__(self, length: int, generator: torch.Generator):
        self.length = length
        self.generator = generator
        self.order = torch.arange(0)
        self.next = 0
        self.rounds = 0

    def take(self, count: int) -> Tensor:
        """The next `count` of them, and of each the number of the round it comes in, from 0: (2,
        count).
        """
        pieces = []
        while count:
            if self.next == len(self.order):
                self.order, self.next = torch.randperm(self.length, generator=self.generator), 0
                self.rounds += 1
            taken = self.order[self.next : self.next + count]
            pieces.append(torch.stack([taken, torch.full_like(taken, self.rounds - 1)]))
            self.next, count = self.next + len(taken), count - len(taken)
        return torch.cat(pieces, 1)

    def state_dict(self) -> dict:
        """Where it stands."""
        return {"order": self.order, "next": self.next, "rounds": self.rounds}

    def load_state_dict(self, state: Mapping) -> None:
        """Go on from there."""
        self.order, self.next, self.rounds = state["order"], state["next"], state["rounds"]


@dataclass(frozen=True)
class Batch:
    """This process's part of a batch, before any image is read.

    Args:
        parts: by population.
        views: population -> the fixed views that the whole batch has of it.
        labels: (n,), on the device.
        answers: (n,), the original's wrong answers, -1 where there is none; on the device.
    """

    parts: tuple[Sample, ...]
    views: dict[str, tuple[int, ...]]
    labels: Tensor
    answers: Tensor

    def __getitem__(self, every: slice) -> "Batch":
        """Every so many-th of its examples, for a slice from a place on in steps."""
        starts = [sum(len(part.rows) for part in self.parts[:i]) for i in range(len(self.parts))]
        parts = tuple(
            part[(every.start - start) % every.step :: every.step]
            for part, start in zip(self.parts, starts, strict=True)
        )
        return Batch(parts, self.views, self.labels[every], self.answers[every])


class Batches:
    """An endless supply of augmented batches, mixed as `training.mixing` says.

    Each population is gone through in a fresh random order again and again. All processes draw the
    same global batch and keep their part of it, so the result does not depend on how many there
    are.

    Args:
        rows: population -> (n,) which of its examples to draw from; None
            draws from all.
    """

    def __init__(
        self,
        data: RepairData,
        training: Training,
        runtime: Runtime,
        purpose: str,
        rows: Mapping[str, Tensor] | None = None,
    ):
        require_shares(training.batch_size, runtime.accelerator)
        self.training = training
        self.runtime = runtime
        self.examples = Populations(data, training, runtime)
        self.generator = runtime.generator(purpose)
        self.first_answers = data.failing.answers
        self.wrong_class_weight = wrong_class_weight(training, data)
        if data.num_classes == 2 and self.wrong_class_weight == 0:
            raise OptionError(
                "with two classes wrong_class_weight=0 leaves failures nothing to teach: set it"
                " above 0, or leave it out"
            )
        # the next batch, and the state before it was drawn
        self._ahead: tuple[dict, Batch] | None = None
        self.supplies = []
        for name, count in counts(training, data).items():
            if count:
                these = (
                    torch.arange(len(self.examples.populations[name]))
                    if rows is None
                    else rows[name]
                )
                self.supplies.append((name, these, count, Shuffled(len(these), self.generator)))

    def state_dict(self) -> dict:
        """Where the supply stands, for `load_state_dict`."""
        return self._state() if self._ahead is None else self._ahead[0]

    def load_state_dict(self, state: Mapping) -> None:
        """Go on from there."""
        self._ahead = None
        self.generator.set_state(state["generator"])
        for (*_, order), its in zip(self.supplies, state["orders"], strict=True):
            order.load_state_dict(its)

    def _state(self) -> dict:
        return {
            "generator": self.generator.get_state(),
            "orders": [order.state_dict() for *_, order in self.supplies],
        }

    def take(self, keeps: Callable[[Sample], Tensor] | None = None) -> Batch:
        """This process's part of the next batch. The images of the one after it begin to be
        decoded.

        Args:
            keeps: which examples of a sample need no image, (n,) bool; see `Forward.keeps`.
        """
        batch = self._next() if self._ahead is None else self._ahead[1]
        self._ahead = self._state(), self._next()
        for part in self._ahead[1].parts:
            self.examples.expect(part if keeps is None else part[~keeps(part)])
        return batch

    def _next(self) -> Batch:
        parts, populations, device = self._whole(), self.examples.populations, self.runtime.device
        views = {
            part.name: tuple(part.views.unique().tolist())
            for part in parts
            if part.views is not None
        }
        labels = torch.cat([populations[part.name].labels[part.rows] for part in parts])
        answers = torch.cat(
            [
                self.first_answers[part.rows]
                if part.name == "failing" and self.first_answers is not None
                else torch.full_like(part.rows, -1)
                for part in parts
            ]
        )
        accelerator = self.runtime.accelerator  # every n-th example of the batch is this process's
        return Batch(tuple(parts), views, labels.to(device), answers.to(device))[
            accelerator.process_index :: accelerator.num_processes
        ]

    def _whole(self) -> list[Sample]:
        """The next batch of all processes."""
        taken = [(name, these, *order.take(count)) for name, these, count, order in self.supplies]
        if self.examples.views is not None:
            return [
                self.examples.view(name, these[places], rounds % self.examples.views)
                for name, these, places, rounds in taken
            ]
        examples, count = self.examples, self.training.batch_size
        drawn = examples.augmentation.draw(count, examples.size, self.generator)
        stop, parts = 0, []
        for name, these, places, _ in taken:
            start, stop = stop, stop + len(places)
            parts.append(Sample(name, these[places], None, drawn[start:stop]))
        return parts

    def draw(self) -> tuple[Tensor, Tensor, Tensor]:
        """Images (n, C, H, W), labels (n,) and the original's wrong answers (n,) of this process's
        part of the next batch.
        """
        batch = self.take()
        return self.examples.images(*batch.parts), batch.labels, batch.answers
