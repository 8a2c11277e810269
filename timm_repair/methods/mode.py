"""MODE (Ma et al., FSE 2018): the inputs that are trained on are chosen by what is wrong in the
states of a layer, for the class that is learnt worst.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import ceil
from typing import ClassVar

import torch
from torch import Tensor, nn

from timm_repair.data.repair_data import RepairData
from timm_repair.errors import OptionError, did_you_mean
from timm_repair.images.images import Images
from timm_repair.methods.method import Outcome
from timm_repair.models import partition
from timm_repair.models.block import Block
from timm_repair.models.partition import GRANULARITIES
from timm_repair.models.taps import pooled
from timm_repair.models.temporary import capture, evaluating
from timm_repair.models.weights import snapshot
from timm_repair.options import check_types
from timm_repair.runtime.processes import agreed
from timm_repair.runtime.runtime import Runtime
from timm_repair.training.job import Job
from timm_repair.training.options import Training
from timm_repair.training.tuning import tune

RIDGE = 1e-2  # of the feature models, per example


@dataclass(frozen=True, kw_only=True)
class Mode:
    """In each round find the worst class, the layer where it goes wrong and the examples of it that
    show how it should be; train the network on more of these.

    Args:
        rounds: at most one a step; the steps are divided among them.
        selected: share of each population's part of a batch that is of the examples selected; the
            rest is drawn from all.
        best: share of the examples of the class, in either population, that is selected: those that
            show best how it should be.
        underfit: a class whose accuracies on training and selection examples are both below is
            under-fit.
        overfit: one whose accuracy on training examples is above that on selection examples by more
            is over-fit.
        gain: of a class's accuracy, that a feature model must have over the one before it.
        examples: of each population, at most, that states are taken of.
        granularity: what a block is, see `partition.blocks`; layers are the ends of blocks.
    """

    rounds: int = 5
    selected: float = 0.2
    best: float = 0.25
    underfit: float = 0.9
    overfit: float = 0.1
    gain: float = 0.01
    examples: int = 1000
    granularity: str = "stage"
    training: Training = field(default_factory=Training)
    name: ClassVar[str] = "mode"
    paper: ClassVar[str] = (
        "Shiqing Ma et al., MODE: Automated Neural Network Model Debugging via State"
        " Differential Analysis and Input Selection, FSE 2018"
    )

    def __post_init__(self):
        check_types(self)
        if self.granularity not in GRANULARITIES:
            known = did_you_mean(self.granularity, GRANULARITIES)
            raise OptionError(f"unknown granularity {self.granularity!r}{known}")
        if min(self.rounds, self.examples) < 1:
            raise OptionError("rounds and examples must be at least 1")
        for name in ("selected", "best", "underfit", "overfit", "gain"):
            if not 0 <= getattr(self, name) <= 1:
                raise OptionError(f"{name} lies from 0 to 1, got {getattr(self, name)}")

    def repair(self, model: nn.Module, data: RepairData, runtime: Runtime) -> Outcome:
        job, original = Job(model, data, self.training, runtime), snapshot(model)
        blocks = [
            block
            for block in partition.blocks(
                model, granularity=self.granularity, input_size=data.preprocessing.input_size
            )
            if block.role == "body" and block.parameters
        ]
        rounds, steps = min(self.rounds, self.training.steps), self.training.steps
        evaluations = max(self.training.choosing.evaluations // rounds, 1)
        history, notes = [], []
        for number in range(rounds):
            count = steps // rounds + (number < steps % rounds)
            last = number + 1 == rounds
            stage = "finetune" if last else f"round {number}"

            def chosen(number: int = number, count: int = count) -> dict:
                return agreed(self._selected(job, blocks, number, count), runtime.accelerator)

            with runtime.stage("select"):
                found = runtime.once(f"selected in round {number}", chosen)
            training = replace(self.training.within(count), evaluations=evaluations)
            with runtime.stage("finetune"):
                rows, told = tune(
                    replace(job, training=training),
                    model,
                    stage=stage,
                    original=original,
                    rows=found["rows"],
                )
            history += rows
            notes.append(found["told"])
        return Outcome(model, history=history, notes=(*notes, *told))

    def _selected(self, job: Job, blocks: Sequence[Block], number: int, steps: int) -> dict:
        """The rows that a round draws from, by population, and what was found, in words."""
        training = {
            name: States.of(job, blocks, images, self.examples, f"round {number}, {name}")
            for name, images in job.data.train.items()
            if name != "pattern"
        }
        judging = [
            States.of(job, blocks, images, self.examples, f"round {number}, judging {name}")
            for name, images in job.data.selection.items()
        ]
        learnt, judged = joined(list(training.values())), joined(judging)
        label, fault = worst_class(learnt, judged, self.underfit, self.overfit)
        accuracies = [
            feature_model(learnt.layers[b.name], learnt.labels, judged.layers[b.name],
                          judged.labels, label)
            for b in blocks
        ]  # fmt: skip
        block = blocks[target_layer(accuracies, fault, self.gain)].name
        direction = differential(learnt.layers[block], learnt.labels, learnt.answers, label)
        wanted = ceil(self.selected * job.training.batch_size * steps)
        rows = {name: torch.arange(len(images)) for name, images in job.data.train.items()}
        for name, states in training.items():
            own = ranked(states.layers[block], states.labels, direction, label, fault)
            best = own[: min(ceil(self.best * len(own)), wanted)]
            rows[name] = mixture(states.rows[best], len(rows[name]), self.selected)
        told = f"round {number + 1}: class {label} is {fault}-fit, at {block}"
        return {"rows": rows, "told": told}


@dataclass(frozen=True)
class States:
    """What a model makes of some examples.

    Args:
        rows: (n,) which of their population.
        labels, answers: (n,).
        layers: block -> its states (n, channels), means over positions, float64 on the CPU.
    """

    rows: Tensor
    labels: Tensor
    answers: Tensor
    layers: Mapping[str, Tensor]

    @classmethod
    @torch.no_grad()
    def of(
        cls, job: Job, blocks: Sequence[Block], images: Images, most: int, purpose: str
    ) -> "States":
        """Of at most so many of the images; every process computes all."""
        model, runtime = job.model, job.runtime
        order = torch.randperm(len(images), generator=runtime.generator(purpose))
        rows = order[:most].sort().values

        def compute(these: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            seen: dict[str, Tensor] = {}

            def into(block: Block):
                return lambda _, __, output: seen.__setitem__(
                    block.name, pooled(output, last=not block.maps).double().cpu()
                )

            pixels = job.data.preprocessing.normalize(images.pixels(these), runtime.device)
            with capture(model, {block.paths[-1]: into(block) for block in blocks}):
                with runtime.accelerator.autocast():
                    answers = model(pixels).argmax(1).cpu()
            return answers, seen

        with evaluating(model):
            answers, seen = zip(*runtime.in_batches(compute, rows), strict=True)
        layers = {b.name: torch.cat([each[b.name] for each in seen]) for b in blocks}
        return cls(rows, images.labels[rows], torch.cat(answers), layers)


def joined(states: Sequence[States]) -> States:
    """Those of several populations as of one."""
    layers = {name: torch.cat([s.layers[name] for s in states]) for name in states[0].layers}
    rows, labels, answers = (
        torch.cat([getattr(s, name) for s in states]) for name in ("rows", "labels", "answers")
    )
    return States(rows, labels, answers, layers)


def worst_class(learnt: States, judged: States, underfit: float, overfit: float) -> tuple[int, str]:
    """The class to work on and whether it is "under"-fit or "over"-fit, by the accuracies on what
    is trained on and on what judges; where no class is either, the least accurate, as if under-fit.
    """

    def accuracies(states: States) -> dict[int, float]:
        right = states.answers == states.labels
        return {
            label: right[states.labels == label].double().mean().item()
            for label in states.labels.unique().tolist()
        }

    own, others = accuracies(learnt), accuracies(judged)
    under = {
        label: value
        for label, value in own.items()
        if max(value, others.get(label, value)) < underfit
    }
    gaps = {label: value - others.get(label, value) for label, value in own.items()}
    over = {label: gap for label, gap in gaps.items() if gap > overfit}
    if over and not under:
        return max(over, key=lambda label: over[label]), "over"
    among = under or own
    return min(among, key=lambda label: among[label]), "under"


def feature_model(
    features: Tensor, labels: Tensor, others: Tensor, their_labels: Tensor, label: int
) -> float:
    """Accuracy on the class `label` of `others` (m, channels) of a linear classifier fitted to
    `features` (n, channels), by least squares on one-hot labels; on the features themselves where
    no other is of the class.
    """
    mean, spread = features.mean(0), features.std(0, correction=0).clamp(min=1e-8)

    def prepared(given: Tensor) -> Tensor:
        return torch.cat([(given - mean) / spread, torch.ones(len(given), 1).double()], 1)

    x = prepared(features)
    classes = labels.unique()
    targets = (labels[:, None] == classes).double()
    gram = x.T @ x + RIDGE * len(x) * torch.eye(x.shape[1]).double()
    weights = torch.linalg.solve(gram, x.T @ targets)
    if not (their_labels == label).any():
        others, their_labels = features, labels
    answers = classes[(prepared(others[their_labels == label]) @ weights).argmax(1)]
    return (answers == label).double().mean().item()


def target_layer(accuracies: Sequence[float], fault: str, gain: float) -> int:
    """The index of the layer where a class goes wrong: under-fit the first that brings no more than
    `gain` over the one before it, over-fit, from the end, the last before which it was no better.
    """
    if fault == "under":
        for index in range(1, len(accuracies)):
            if accuracies[index] - accuracies[index - 1] <= gain:
                return index
        return len(accuracies) - 1
    index = len(accuracies) - 1
    while index and accuracies[index - 1] > accuracies[index] + gain:
        index -= 1
    return index


def differential(features: Tensor, labels: Tensor, answers: Tensor, label: int) -> Tensor:
    """D = D^M + D^W (channels,): mean state of what is rightly taken for the class, less that of
    what is wrongly taken for it, and less that of what is of it and taken for another; each
    normalized to [-1, 1], and 0 where there are no such examples.
    """
    of, taken = labels == label, answers == label
    total = torch.zeros(features.shape[1], dtype=features.dtype)
    # where none is right, the class as a whole says how it is
    right = features[of & taken if (of & taken).any() else of].mean(0)
    for wrong in (taken & ~of, of & ~taken):
        if wrong.any():
            difference = right - features[wrong].mean(0)
            total += difference / difference.abs().max().clamp(min=1e-12)
    return total


def ranked(features: Tensor, labels: Tensor, direction: Tensor, label: int, fault: str) -> Tensor:
    """Which examples are of the class, those first that are to be trained on: of an under-fit class
    with the highest <features, direction>, of an over-fit one with the lowest.
    """
    own = (labels == label).nonzero().flatten()
    scores = features[own] @ direction
    return own[scores.sort(descending=fault == "under", stable=True).indices]


def mixture(selected: Tensor, total: int, share: float) -> Tensor:
    """Rows to draw from so that `share` of what is drawn is of `selected`, which are repeated for
    it, and the rest of all `total`.
    """
    everyone = torch.arange(total)
    if not len(selected) or not share:
        return everyone
    if share == 1:
        return selected
    count = max(round(share / (1 - share) * total), 1)
    return torch.cat([everyone, selected.repeat(ceil(count / len(selected)))[:count]])
