"""Random values for a few weights drawn at random: the control for methods that look for weights,
and for their values, without gradients.
"""

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from timm_repair.data.predicting import predict
from timm_repair.data.repair_data import RepairData
from timm_repair.errors import OptionError, PartitionError
from timm_repair.images.images import Images
from timm_repair.localization.target import Target
from timm_repair.methods.method import Outcome
from timm_repair.options import check_types
from timm_repair.runtime.processes import agreed
from timm_repair.runtime.runtime import Runtime
from timm_repair.training.history import Row
from timm_repair.training.job import Job
from timm_repair.training.loop import Monitor, fit
from timm_repair.training.objective import objective
from timm_repair.training.options import Training
from timm_repair.training.pace import Pace


@dataclass(frozen=True, kw_only=True)
class RandomWeights:
    """Draw some weights, and again and again values for all of them; keep the fittest.

    Args:
        weights: how many, of all convolutions and linear layers.
        candidates: drawings of values a step.
        emphasis: α of the fitness Σ g(right ones) + α Σ g(failures), with g = 1 where an answer is
            right, else 1 / (loss + 1).
        examples: of each population, at most, that the fitness is measured on.
        target: only its block= is used; None draws from the whole network.
        training: a step is one round of candidates; of the rest only choosing matters.
    """

    weights: int = 10
    candidates: int = 20
    emphasis: float = 10.0
    examples: int = 200
    target: Target = field(default_factory=Target)
    training: Training = field(default_factory=Training)
    name: ClassVar[str] = "random_weights"
    paper: ClassVar[str] = (
        "a control, the random selection of Jeongju Sohn et al., Arachne, TOSEM 2023,"
        " arXiv:1912.12463"
    )

    def __post_init__(self):
        check_types(self)
        self.target.require_named(self.name)
        if min(self.weights, self.candidates, self.examples) < 1 or self.emphasis <= 0:
            raise OptionError(
                "weights, candidates and examples must be at least 1, emphasis positive"
            )

    def repair(self, model: nn.Module, data: RepairData, runtime: Runtime) -> Outcome:
        job = Job(model, data, self.training, runtime)
        found, chosen, part, _ = self.target.named_part(model, data, self.training, runtime)
        drawn = _Drawn(part, self.weights, runtime)
        judges = [(_some(data.failing, self.examples, runtime), self.emphasis)]
        if data.retained is not None:
            judges.append((_some(data.retained, self.examples, runtime), 1.0))
        most = sum(weight * len(images) for images, weight in judges)

        def step(number: int) -> Row:
            for values in drawn.candidates(self.candidates, number):
                drawn.consider(values, fitness(job, judges))
            return {"loss": 1 - drawn.fitness / most}

        forward, choosing = job.forward(part), self.training.choosing
        pace = Pace(self.training, self.training.steps, runtime.accelerator)
        with runtime.stage("finetune"):
            drawn.consider(drawn.present(), fitness(job, judges))
            monitor = Monitor(
                part,
                lambda: objective(forward, data, choosing),
                self.training.steps,
                choosing.evaluations,
                choosing.patience,
            )
            start = monitor.best
            history = fit(
                step,
                pace=pace,
                stage="finetune",
                runtime=runtime,
                monitor=monitor,
                state={"drawn": drawn},
            )
            better = monitor.restore() > start
        told = (
            f"{len(drawn.places)} of {drawn.total:,} weights were drawn"
            if better
            else "no values that were drawn were better than the original ones on the selection"
            " split: those were kept"
        )
        return Outcome(model, found, chosen, history=history, notes=(told,))


def _some(images: Images, most: int, runtime: Runtime) -> Images:
    generator = runtime.generator(f"random weights, {images.name}")
    return images.subset(torch.randperm(len(images), generator=generator)[:most].sort().values)


def fitness(job: Job, judges: list[tuple[Images, float]]) -> float:
    """What `RandomWeights.emphasis` says, of the model as it is.

    Args:
        judges: examples, and what each of them weighs.
    """
    total = 0.0
    for images, weight in judges:
        found = predict(job.model, images, job.data.preprocessing, job.runtime)
        total += weight * torch.where(found.right, 1.0, 1 / (found.losses.double() + 1)).sum()
    return agreed(float(total), job.runtime.accelerator)


class _Drawn:
    """Weights of `part` that were drawn, and the fittest values for them so far.

    Values are drawn as those of the weight's layer are distributed: normally, with their mean and
    deviation.
    """

    def __init__(self, part: nn.Module, count: int, runtime: Runtime):
        layers = [m for m in part.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        if not layers:
            raise PartitionError(
                "the part to repair has no convolution or linear layer: name another block"
            )
        self.runtime, tensors = runtime, [layer.weight for layer in layers]
        self.total = sum(tensor.numel() for tensor in tensors)
        seed = runtime.generator("random weights").initial_seed()
        numbers = sorted(random.Random(seed).sample(range(self.total), min(count, self.total)))
        self.places = [_place(number, tensors) for number in numbers]
        # what a parameter holds may be moved, and is asked for each time
        moments = [
            (float(t.detach().mean()), float(t.detach().std(correction=0))) for t, _ in self.places
        ]
        self.mean, self.deviation = torch.tensor(moments, dtype=torch.float64).T
        self.values, self.fitness = self.present(), -torch.inf

    def present(self) -> Tensor:
        """What the weights are now, (weights,) float64."""
        values = [float(t.detach().flatten()[i]) for t, i in self.places]
        return torch.tensor(values, dtype=torch.float64)

    def candidates(self, count: int, number: int) -> Iterator[Tensor]:
        """Values drawn for round `number`, each put in place; the fittest so far are at the end."""
        generator = self.runtime.generator(f"random weights, round {number}")
        drawn = torch.randn(count, len(self.places), generator=generator, dtype=torch.float64)
        for values in self.mean + self.deviation * drawn:
            self._put(values)
            yield values
        self._put(self.values)

    def consider(self, values: Tensor, fitness: float) -> None:
        if fitness > self.fitness:
            self.values, self.fitness = values, fitness

    def _put(self, values: Tensor) -> None:
        for (tensor, index), value in zip(self.places, values.tolist(), strict=True):
            place = torch.unravel_index(torch.tensor(index), tensor.shape)
            tensor.detach()[tuple(int(each) for each in place)] = value

    def state_dict(self) -> dict:
        return {"values": self.values, "fitness": self.fitness}

    def load_state_dict(self, state: Mapping) -> None:
        self.values, self.fitness = state["values"], state["fitness"]
        self._put(self.values)


def _place(number: int, tensors: list[Tensor]) -> tuple[Tensor, int]:
    """The tensor that weight `number` is in, counted over all in order, and its index there."""
    for tensor in tensors:
        if number < tensor.numel():
            return tensor, number
        number -= tensor.numel()
    raise IndexError(number)
