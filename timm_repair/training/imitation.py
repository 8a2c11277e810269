"""Imitation: misbehaving inputs take the behaviour of their nearest well-behaved neighbours
(BIRDNN, retraining).

`Imitation` is a loss for `tune`; `neighbours` says who imitates whom.
"""

from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from timm_repair.errors import OptionError, did_you_mean
from timm_repair.images.images import Images
from timm_repair.models.taps import pooled
from timm_repair.models.temporary import capture, evaluating
from timm_repair.options import check_types
from timm_repair.runtime.processes import agreed, share_of_batch
from timm_repair.training.batches import Batches
from timm_repair.training.job import Job
from timm_repair.training.prefix.forward import Forward

IMITATED = ("outputs", "labels", "layers")
_AT_ONCE = 1000  # misbehaving examples whose distances to all others are held at once


@dataclass(frozen=True, kw_only=True)
class Imitating:
    """What is imitated, and how strongly against what is to stay.

    Args:
        alpha: weight of imitation; squared distances are measured in the variance of the outputs.
        beta: weight of well-behaved examples staying as they were.
        imitate: "outputs" of the neighbour, its "labels" (cross-entropy), or its outputs and its
            states in all "layers".
        margin: a neighbour is well-behaved by at least this, in standard deviations of the margins.
            The nearest of all stands at the border of the misbehaviour: who imitates it stays
            there.
        neighbours: how many retained examples are looked among.
    """

    alpha: float = 1.0
    beta: float = 1.0
    imitate: str = "outputs"
    margin: float = 0.5
    neighbours: int = 5000

    def __post_init__(self):
        check_types(self)
        if self.imitate not in IMITATED:
            known = did_you_mean(self.imitate, IMITATED)
            raise OptionError(f"unknown imitate {self.imitate!r}{known}")
        if self.alpha <= 0 or self.beta < 0 or self.margin < 0 or self.neighbours < 1:
            raise OptionError(
                "alpha must be positive, beta and margin not negative, neighbours at least 1"
            )


@torch.no_grad()
def outputs_for(job: Job, model: nn.Module, images: Images) -> Tensor:
    """Outputs (n, classes) of `model` for all `images`, in eval mode, on the device. Every process
    computes all.
    """
    runtime, preprocessing = job.runtime, job.data.preprocessing

    def compute(rows: Tensor) -> Tensor:
        with runtime.accelerator.autocast():
            return model(preprocessing.normalize(images.pixels(rows), runtime.device)).float()

    with evaluating(model):
        return torch.cat(list(runtime.in_batches(compute, torch.arange(len(images)))))


@dataclass(frozen=True)
class Neighbours:
    """For each misbehaving example the nearest well-behaved one.

    Args:
        rows: (n,) its row among the retained examples, -1 where no well-behaved one has the label.
        outputs: (n, classes) its outputs; where there is none, the example's own with those of the
            true and of the wrong class exchanged.
        scale: mean variance of the well-behaved outputs over examples: what a squared distance is
            measured in.
        of_any_class: (n,) the row of the nearest well-behaved one whatever its label, -1 where
            there is none at all.
    """

    rows: Tensor
    outputs: Tensor
    scale: Tensor
    of_any_class: Tensor


def neighbours(job: Job, model: nn.Module, *, most: int, margin: float) -> Neighbours:
    """The nearest by the outputs of `model`, of at most `most` retained examples that it gets
    right and that have the same label.

    Args:
        margin: see `Imitating`. Of a label with fewer than a tenth that are right by it, the tenth
            that is right by most.
    """
    data, device = job.data, job.runtime.device
    own, labels = outputs_for(job, model, data.failing), data.failing.labels.to(device)
    answers = own.argmax(1)
    targets = own.clone()
    targets.scatter_(1, labels[:, None], own.gather(1, answers[:, None]))
    targets.scatter_(1, answers[:, None], own.gather(1, labels[:, None]))
    rows, of_any = torch.full_like(labels, -1), torch.full_like(labels, -1)
    scale = own.var(0).mean() if len(own) > 1 else own.new_tensor(1.0)
    if data.retained is not None:
        generator = job.runtime.generator("neighbours")
        order = torch.randperm(len(data.retained), generator=generator)[:most].sort().values
        pool, order = data.retained.subset(order), order.to(device)
        outputs, theirs = outputs_for(job, model, pool), pool.labels.to(device)
        good = _well_behaved(pool, outputs, margin)
        for start in range(0, len(own), _AT_ONCE):
            piece = slice(start, start + _AT_ONCE)
            distances = torch.cdist(own[piece], outputs)
            distances[:, ~good] = torch.inf
            of_any[piece] = _nearest(distances, order)
            distances[labels[piece, None] != theirs] = torch.inf
            rows[piece] = _nearest(distances, order)
            there = rows[piece] >= 0
            targets[piece] = torch.where(
                there[:, None], outputs[distances.argmin(1)], targets[piece]
            )
        scale = outputs[good].var(0).mean() if int(good.sum()) > 1 else scale
    found = agreed((rows, targets, scale.clamp(min=1e-12), of_any), job.runtime.accelerator)
    return Neighbours(*(each.to(device) for each in found))


def _well_behaved(pool: Images, outputs: Tensor, margin: float) -> Tensor:
    """(n,) bool: which of the pool's examples may be imitated."""
    everyone = torch.arange(len(pool))
    right, margins = pool.right(outputs, everyone), pool.margins(outputs, everyone)
    finite = right & margins.isfinite()
    if finite.sum() < 2 or not margin:
        return right
    by_enough, labels = right.clone(), pool.labels.to(outputs.device)
    asked = margin * margins[finite].std()
    for label in labels[finite].unique():
        theirs = finite & (labels == label)
        by_enough[theirs] = margins[theirs] >= asked.minimum(margins[theirs].quantile(0.9))
    return by_enough


def _nearest(distances: Tensor, order: Tensor) -> Tensor:
    """(n,) for each row of `distances` the entry of `order` where it is smallest, -1 where all are
    infinite.
    """
    closest = distances.min(1)
    return torch.where(closest.values.isfinite(), order[closest.indices], -1)


class Imitation:
    """α · (misbehaving inputs to their neighbours) + β · (well-behaved ones to what they were), a
    loss for `tune`.

    The original answers the same augmented images as the model does. A misbehaving example is
    compared with its neighbour as that is without augmentation.

    Args:
        job: its model is the original.
    """

    def __init__(self, job: Job, options: Imitating):
        self.job, self.options = job, options
        self.original = deepcopy(job.model).eval().requires_grad_(False)
        self.neighbours = neighbours(
            job, self.original, most=options.neighbours, margin=options.margin
        )
        self.states = self._states() if options.imitate == "layers" else {}

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know."""
        alone = int((self.neighbours.rows < 0).sum())
        if not alone:
            return ()
        return (
            f"{alone} failures have no well-behaved example of their class to imitate: their own"
            " outputs were the aim, with the right and the wrong class exchanged",
        )

    def _states(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Per hidden layer the pooled states (n, channels) of the neighbours, and their mean
        variance.
        """
        there, retained = self.neighbours.rows >= 0, self.job.data.retained
        if retained is None or not there.any():
            return {}
        kinds = nn.Conv2d | nn.Linear
        layers = [name for name, m in self.original.named_modules() if isinstance(m, kinds)][:-1]
        seen: dict[str, list[Tensor]] = {path: [] for path in layers}
        with capture(self.original, {path: _into(seen[path]) for path in seen}):
            images = retained.subset(self.neighbours.rows[there].cpu())
            outputs_for(self.job, self.original, images)
        states = {}
        for path, pieces in seen.items():
            values = torch.cat(pieces) if pieces else torch.zeros(0, 1)
            if len(values) == int(there.sum()):  # a layer run several times a pass has no one state
                whole = values.new_zeros(len(there), values.shape[1])
                whole[there] = values
                variance = values.var(0).mean() if len(values) > 1 else values.new_tensor(1.0)
                states[path] = whole, variance.clamp(min=1e-12)
        return states

    def __call__(self, batches: Batches, forward: Forward) -> Iterator[Tensor]:
        """As `losses.batch_losses`."""
        batch, accelerator = batches.take(forward.keeps), self.job.runtime.accelerator
        pieces = accelerator.gradient_accumulation_steps
        for piece in (batch[i::pieces] for i in range(pieces)):
            device, parts = piece.labels.device, piece.parts
            failing = [torch.full((len(p.rows),), p.name == "failing") for p in parts]
            failing = torch.cat(failing).to(device)
            rows = torch.cat([part.rows for part in parts]).to(device)[failing]
            states: dict[str, list[Tensor]] = {path: [] for path in self.states}
            hooks = {path: _into(states[path]) for path in states}
            with accelerator.autocast(), capture(self.job.model, hooks):
                outputs = forward.logits(parts, piece.views).float()
            there = {path: found[-1][failing] for path, found in states.items()}
            loss = self.options.alpha * self._imitation(
                outputs[failing], there, rows, piece.labels[failing]
            )
            if (~failing).any():
                images = forward.examples.images(*parts)[~failing]
                with torch.no_grad(), accelerator.autocast():
                    before = self.original(images).float()
                moved = (outputs[~failing] - before).square().mean(1) / self.neighbours.scale
                loss = loss + self.options.beta * moved.sum()
            share = share_of_batch(len(failing), batches.training.batch_size, accelerator)
            yield loss / len(failing) * share

    def _imitation(
        self, outputs: Tensor, states: Mapping[str, Tensor], rows: Tensor, labels: Tensor
    ) -> Tensor:
        """The sum over misbehaving examples, whose `rows` (n,) are."""
        if self.options.imitate == "labels":
            return F.cross_entropy(outputs, labels, reduction="sum")
        aims = self.neighbours
        total = (outputs - aims.outputs[rows]).square().mean(1).sum() / aims.scale
        for path, state in states.items():
            wanted, variance = self.states[path]
            distance = (state.float() - wanted[rows]).square().mean(1) / variance
            total = total + (distance * (aims.rows[rows] >= 0)).sum() / len(states)
        return total


def _into(states: list[Tensor]) -> Callable:
    """A hook that adds a layer's states, means over positions: (n, channels)."""
    return lambda layer, _, output: states.append(pooled(output, last=isinstance(layer, nn.Linear)))
