"""Worst variants: every example is trained on in the transformation that the model finds hardest,
and a genetic search goes on for it from visit to visit (SENSEI).
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from accelerate.utils import gather_object
from torch import Tensor
from torch.nn import functional as F

from timm_repair.errors import OptionError
from timm_repair.models.temporary import evaluating
from timm_repair.options import check_types
from timm_repair.runtime.processes import share_of_batch
from timm_repair.training.batches import Batch, Batches
from timm_repair.training.job import Job
from timm_repair.training.losses import repair_loss
from timm_repair.training.prefix.forward import Forward
from timm_repair.training.transforming.genes import TRIES, Space, Varying

DIGITS = 4  # of a loss that are compared: what differs by rounding is alike, on any processes


@dataclass(frozen=True, kw_only=True)
class Searching:
    """The search for the worst transformation of an example.

    Args:
        beginning: transformations in its queue at first: none, and random ones.
        children: bred at each further visit.
        population: the worst so many are kept.
        mutation: probability that a child is the worst one mutated; else it is crossed.
        skip_below: where the worst known loss is below this, nothing is bred and only the worst
            known is looked at (SENSEI-SA, with 1e-4); None breeds always.
        pair_limit: how often an epoch may hold the same pair of label and answer; beyond, the
            second-worst is taken. None for any.
    """

    beginning: int = 10
    children: int = 8
    population: int = 7
    mutation: float = 0.6
    skip_below: float | None = None
    pair_limit: int | None = 1000

    def __post_init__(self):
        check_types(self)
        if min(self.beginning, self.children, self.population) < 1 or (self.pair_limit or 1) < 1:
            raise OptionError("beginning, children, population and pair_limit must be at least 1")
        if not 0 <= self.mutation <= 1 or (self.skip_below or 0) < 0:
            raise OptionError("mutation is a share from 0 to 1; skip_below must not be negative")


@dataclass(frozen=True)
class _Variants:
    """Transformations of the examples of a batch.

    Args:
        genes: (n, v, k).
        there: (n, v) bool: which places are taken.
        losses: (n, v), as far as they are known; -inf elsewhere.
        answers: (n, v) the model's, -1 where it was not asked.
    """

    genes: Tensor
    there: Tensor
    losses: Tensor
    answers: Tensor

    def worst(self, most: int) -> "_Variants":
        """The worst so many, in that order; of equal ones the first."""
        scale = 10.0**DIGITS
        known = (self.losses * scale).round().masked_fill(~self.there, -torch.inf)
        order = known.argsort(dim=1, descending=True, stable=True)[:, :most]
        rows = torch.arange(len(order))[:, None]
        fields = (self.genes, self.there, self.losses, self.answers)
        return _Variants(*(each[rows, order] for each in fields))


class WorstVariants:
    """Cross-entropy of the worst transformation of every example, a loss for `tune`.

    Attributes:
        queues: (number of the population, row) -> the genes (q, k) and losses (q,) that are kept of
            an example, the worst first.
        used: how often the running epoch has held a pair of label and answer.
    """

    def __init__(self, job: Job, varying: Varying, searching: Searching):
        self.space, self.options = Space(varying), searching
        self.generator = job.runtime.generator("worst variants")
        self.queues: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
        self.used: Counter[tuple[int, int]] = Counter()
        self.seen = 0

    def state_dict(self) -> dict:
        """All queues, and where the search stands, for `load_state_dict`."""
        kept = list(self.queues.values())
        return {
            "generator": self.generator.get_state(),
            "keys": list(self.queues),
            "lengths": [len(losses) for _, losses in kept],
            "genes": torch.cat([genes for genes, _ in kept]) if kept else None,
            "losses": torch.cat([losses for _, losses in kept]) if kept else None,
            "used": list(self.used.items()),
            "seen": self.seen,
        }

    def load_state_dict(self, state: Mapping) -> None:
        """Go on from there."""
        self.generator.set_state(state["generator"])
        self.used, self.seen, self.queues = Counter(dict(state["used"])), state["seen"], {}
        if state["keys"]:
            lengths = state["lengths"]
            pieces = zip(state["genes"].split(lengths), state["losses"].split(lengths), strict=True)
            self.queues = dict(zip(state["keys"], pieces, strict=True))

    def __call__(self, batches: Batches, forward: Forward) -> Iterator[Tensor]:
        """As `losses.batch_losses`."""
        batch, accelerator = batches.take(forward.keeps), batches.runtime.accelerator
        pixels = batches.examples.pixels(*batch.parts).to(batch.labels.device)
        genes = self._worst(batch, pixels, batches, forward)
        pieces = accelerator.gradient_accumulation_steps
        for i in range(pieces):
            labels, answers = batch.labels[i::pieces], batch.answers[i::pieces]
            changed = self.space.applied(pixels[i::pieces], genes[i::pieces])
            images = batches.examples.preprocessing.normalize(changed, labels.device)
            with accelerator.autocast():
                logits = forward.model(images)
                loss = repair_loss(logits, labels, answers, batches.wrong_class_weight)
            yield loss * share_of_batch(len(labels), batches.training.batch_size, accelerator)

    def _worst(self, batch: Batch, pixels: Tensor, batches: Batches, forward: Forward) -> Tensor:
        """(n, k): the genes that the examples of this process's part of a batch are trained in."""
        numbers = {name: i for i, name in enumerate(batches.examples.populations)}
        keys = [(numbers[p.name], row) for p in batch.parts for row in p.rows.tolist()]
        variants = self._measured(self._bred(keys, batches), batch, pixels, batches, forward)
        kept = variants.worst(self.options.population)
        chosen = torch.zeros(len(keys), dtype=torch.long)
        labels = batch.labels.tolist()
        if self.options.pair_limit is not None and self.options.population > 1:
            worst = zip(labels, kept.answers[:, 0].tolist(), strict=True)
            often = torch.tensor([self.used[pair] > self.options.pair_limit for pair in worst])
            chosen = (often & kept.there[:, 1:].any(1)).long()
        rows = torch.arange(len(keys))
        answers = kept.answers[rows, chosen].tolist()
        self._keep(batches, keys, kept, list(zip(labels, answers, strict=True)))
        return kept.genes[rows, chosen]

    def _bred(self, keys: list[tuple[int, int]], batches: Batches) -> _Variants:
        """What is looked at of each example: its queue and children; a random queue the first
        time.
        """
        options, space, accelerator = self.options, self.space, batches.runtime.accelerator
        size, k, q = batches.training.batch_size, len(space.names), options.population
        mine = slice(accelerator.process_index, None, accelerator.num_processes)
        shapes = ((options.beginning - 1, k), (options.children * TRIES, space.noise))
        # of the whole batch: every n-th is this process's, as in Batches
        first, noise = (torch.rand(size, *s, generator=self.generator)[mine] for s in shapes)

        queues = torch.zeros(len(keys), q, k, dtype=torch.long)
        losses = torch.full((len(keys), q), -torch.inf)
        for i, key in enumerate(keys):
            if key in self.queues:
                genes, theirs = self.queues[key]
                queues[i, : len(genes)], losses[i, : len(genes)] = genes.long(), theirs
        there = losses > -torch.inf
        children, born = space.children(queues, there, losses[:, 0], noise, options.mutation)
        old = there[:, 0]
        sure = old & (losses[:, 0] < (options.skip_below or 0))
        genes = torch.cat([queues, children], 1)
        there = torch.cat([there, born & (old & ~sure)[:, None]], 1)
        room = max(genes.shape[1], options.beginning)
        genes = F.pad(genes, (0, 0, 0, room - genes.shape[1]))
        there = F.pad(there, (0, room - there.shape[1]))
        losses = F.pad(losses, (0, room - q), value=-torch.inf)
        start, begun = space.beginning(first)
        genes[~old, : options.beginning] = start[~old]
        there[~old, : options.beginning] = begun[~old]
        # where the model is sure, what is known of the others stands
        losses = torch.where(sure[:, None], losses, -torch.inf)
        losses[:, 0] = -torch.inf
        return _Variants(genes, there, losses, torch.full_like(there, -1, dtype=torch.long))

    @torch.no_grad()
    def _measured(
        self,
        variants: _Variants,
        batch: Batch,
        pixels: Tensor,
        batches: Batches,
        forward: Forward,
    ) -> _Variants:
        """The same with the loss of those of which it is not known, in evaluation mode."""
        runtime, device = batches.runtime, pixels.device
        rows, places = (variants.there & (variants.losses == -torch.inf)).nonzero(as_tuple=True)

        def compute(these: Tensor) -> Tensor:
            own = rows[these].to(device)
            changed = self.space.applied(pixels[own], variants.genes[rows[these], places[these]])
            with runtime.accelerator.autocast():
                logits = forward.model(batches.examples.preprocessing.normalize(changed, device))
                losses = repair_loss(
                    logits,
                    batch.labels[own],
                    batch.answers[own],
                    batches.wrong_class_weight,
                    reduction="none",
                )
            return torch.stack([losses.double(), logits.argmax(1).double()], 1).cpu()

        with evaluating(forward.model):
            found = torch.cat(list(runtime.in_batches(compute, torch.arange(len(rows)))))
        losses, answers = variants.losses.clone(), variants.answers.clone()
        losses[rows, places], answers[rows, places] = found[:, 0].float(), found[:, 1].long()
        return _Variants(variants.genes, variants.there, losses, answers)

    def _keep(
        self,
        batches: Batches,
        keys: list[tuple[int, int]],
        kept: _Variants,
        pairs: list[tuple[int, int]],
    ) -> None:
        """Take down what all processes found, in the order of the whole batch."""
        queues = [
            (genes[there].to(torch.int8), losses[there])
            for genes, there, losses in zip(kept.genes, kept.there, kept.losses, strict=True)
        ]
        everyone = gather_object([list(zip(keys, queues, pairs, strict=True))])
        for place in range(max(map(len, everyone))):
            for found in everyone:
                for key, queue, pair in found[place : place + 1]:
                    self.queues[key] = queue
                    self.used[pair] += 1
        self.seen += batches.training.batch_size
        if self.seen >= sum(len(rows) for _, rows, *_ in batches.supplies):
            self.used.clear()
            self.seen = 0
