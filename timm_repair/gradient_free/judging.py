"""Judges: the examples that candidates are judged by, with what arrives at the changed part
computed once.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from timm_repair.images.images import Images
from timm_repair.models.temporary import evaluating
from timm_repair.runtime.processes import all_processes
from timm_repair.training.job import Job

WORST = 1e30  # the cost of what is NaN or infinite: no optimizer keeps it


@dataclass(frozen=True)
class Answers:
    """What the model says of some examples, on its device.

    Args:
        right: (n,) bool.
        margins: (n,) by how much, see `Images.margins`.
        losses: (n,) cross-entropy.
    """

    right: Tensor
    margins: Tensor
    losses: Tensor

    @classmethod
    def joined(cls, several: "list[Answers]") -> "Answers":
        """One after the other."""
        return cls(
            torch.cat([each.right for each in several]),
            torch.cat([each.margins for each in several]),
            torch.cat([each.losses for each in several]),
        )


Cost = Callable[[Answers, Answers], Tensor | float]  # of failures, and of what was right


class Judges:
    """Some failures and some examples that are right, none of which is augmented.

    All processes make it together; then each may ask alone.

    Args:
        part: what will change, modules of the job's model; nothing before it does.
        rows: of the populations of `RepairData.train`, "failing" among them; the others are those
            that are right.
        reads: how often each will be read, in all.
    """

    def __init__(self, job: Job, part: nn.Module, rows: Mapping[str, Tensor], *, reads: int):
        self.job = job
        self.sets: dict[str, Images] = {
            name: job.data.train[name].subset(these) for name, these in rows.items()
        }
        data = replace(
            job.data,
            failing=self.sets["failing"],
            retained=self.sets.get("retained"),
            passing=self.sets.get("passing"),
            pattern=None,
        )
        each = sum(map(len, self.sets.values()))
        training = replace(
            job.training,
            steps=reads,
            batch_size=each,
            failing_share=len(self.sets["failing"]) / each,
            augmentation="flips",
            hflip=0.0,
            shift=0.0,
            views=None,
        )
        self.forward = Job(job.model, data, training, job.runtime).forward(part)
        with evaluating(job.model), torch.no_grad():
            for name in self.sets:  # what is kept is filled by all processes together
                self._logits(name, torch.arange(1))

    def _logits(self, name: str, rows: Tensor) -> Tensor:
        sample = self.forward.examples.view(name, rows, torch.zeros_like(rows))
        with self.job.runtime.accelerator.autocast():
            return self.forward.logits([sample], {name: [0]}).float()

    def logits(self) -> Iterator[tuple[Images, Tensor, Tensor]]:
        """(the set, rows of it (n,), logits (n, classes)) for all sets, in pieces and in order."""
        for name, images in self.sets.items():

            def compute(rows: Tensor, name: str = name) -> tuple[Tensor, Tensor]:
                return rows, self._logits(name, rows)

            rows = torch.arange(len(images))
            for these, logits in self.job.runtime.in_batches(compute, rows):
                yield images, these, logits

    @torch.no_grad()
    def answers(self) -> tuple[Answers, Answers]:
        """Of the failures, and of those that are right."""
        found: dict[bool, list[Answers]] = {True: [], False: []}
        with evaluating(self.job.model):
            for images, rows, logits in self.logits():
                labels = images.labels[rows].to(logits.device)
                losses = F.cross_entropy(logits, labels, reduction="none")
                found[images is self.sets["failing"]].append(
                    Answers(images.right(logits, rows), images.margins(logits, rows), losses)
                )
        return Answers.joined(found[True]), Answers.joined(found[False])

    def costs(self, candidates: Tensor, apply: Callable[[Tensor], None], cost: Cost) -> Tensor:
        """(count,) what each of `candidates` (count, size) costs; each process judges its share.

        Args:
            apply: gives the model the weights that a candidate (size,) stands for.
        """
        accelerator = self.job.runtime.accelerator
        costs = torch.zeros(len(candidates), dtype=torch.float64, device=self.job.runtime.device)
        for number in range(accelerator.process_index, len(candidates), accelerator.num_processes):
            apply(candidates[number])
            costs[number] = cost(*self.answers())
        costs = costs.nan_to_num(nan=WORST, posinf=WORST, neginf=WORST).clamp(max=WORST)
        return all_processes(costs, accelerator).cpu()


def some(images: Images, most: int, job: Job) -> Tensor:
    """Rows (n,) of at most so many examples, drawn at random."""
    generator = job.runtime.generator(f"judges of {images.name}")
    return torch.randperm(len(images), generator=generator)[:most].sort().values
