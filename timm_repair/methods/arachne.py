"""Arachne: few weights, found by gradients and by what passes through them, get new values by
search.

Version 1 looks in one layer and searches with a particle swarm. Version 2 looks in all layers, asks
for what the failures need and other examples do not, and searches by differential evolution.
"""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from timm_repair.data.repair_data import RepairData
from timm_repair.errors import OptionError, require_packages
from timm_repair.gradient_free.drawing import draw
from timm_repair.gradient_free.evolution import Evolution
from timm_repair.gradient_free.impact import (
    forward_impacts,
    forward_means,
    loss_gradients,
    weighted_layers,
)
from timm_repair.gradient_free.judging import Answers, Judges
from timm_repair.gradient_free.patching import Patch, front
from timm_repair.gradient_free.searching import PATIENCE, Optimizer, search
from timm_repair.gradient_free.swarm import constricted
from timm_repair.localization.target import Target
from timm_repair.methods.method import Outcome
from timm_repair.models.weights import owners
from timm_repair.options import check_types
from timm_repair.runtime.processes import agreed
from timm_repair.runtime.runtime import Runtime
from timm_repair.training.job import Job
from timm_repair.training.options import Training


@dataclass(frozen=True, kw_only=True)
class Arachne:
    """Replace the weights on the Pareto front of two scores by values that a search finds.

    Args:
        version: 1 or 2 of the paper.
        population: candidates a round.
        examples: failures, at most, that the search is told by.
        positives: examples that are right, at most; None takes 200 in version 1, and as many as
            there are failures, each class in its proportion, in version 2.
        candidates: of version 1: weights with the largest gradients that are looked at, a failure.
        attraction: of version 1: r1 and r2 of the velocity's equation lie between 0 and this.
        crossover: of version 2: probability that a weight is exchanged.
        emphasis: of version 2: what a failure counts, against an example that is right.
        target: only its block= is used; None takes the whole network. Version 1 takes the last
            linear layer in it, or the last convolution where there is none.
        training: a step is one round of all candidates; of the rest only choosing and caching
            matter.
    """

    version: int = 2
    population: int = 100
    examples: int = 500
    positives: int | None = None
    candidates: int = 20
    attraction: float = 4.1
    crossover: float = 0.7
    emphasis: float = 10.0
    target: Target = field(default_factory=Target)
    training: Training = field(default_factory=Training)
    name: ClassVar[str] = "arachne"
    paper: ClassVar[str] = (
        "Jeongju Sohn et al., Arachne: Search-Based Repair of Deep Neural Networks, TOSEM"
        " 2023, arXiv:1912.12463"
    )

    def __post_init__(self):
        check_types(self)
        require_packages("properties", "arachne's search", "pymoo")
        self.target.require_named(self.name)
        if self.version not in (1, 2):
            raise OptionError(f"arachne has versions 1 and 2, not {self.version}")
        if self.population < 4 or min(self.examples, self.candidates, self.positives or 1) < 1:
            raise OptionError(
                "population must be at least 4; examples, candidates and positives at least 1"
            )
        if self.attraction <= 0 or not 0 <= self.crossover <= 1 or self.emphasis < 0:
            raise OptionError(
                "attraction must be positive, crossover from 0 to 1, and emphasis not negative"
            )

    def repair(self, model: nn.Module, data: RepairData, runtime: Runtime) -> Outcome:
        job = Job(model, data, self.training, runtime)
        found, chosen, _, paths = self.target.named_part(model, data, self.training, runtime)
        with runtime.stage("localize"):
            rows, places = runtime.once(
                "places", lambda: agreed(self._located(job, paths), runtime.accelerator)
            )
        patch = Patch(model, places)
        with runtime.stage("finetune"):
            part, rounds = owners(model, places), self.training.steps
            history, notes, better = search(
                Judges(job, part, rows, reads=self.population * rounds),
                part,
                self._optimizer(patch, runtime),
                apply=patch.apply,
                cost=fitness if self.version == 1 else self._fitness,
                rounds=rounds,
                patience=PATIENCE if self.version == 1 else max(PATIENCE, rounds // 10),
            )
        told = f"{len(patch)} weights, of {', '.join(places)}, were searched"
        kept = "nothing that the search found was better than the original on the selection split"
        notes = (told, *(() if better else (f"{kept}: it was kept",)), *notes)
        return Outcome(model, found, chosen, history=history, notes=notes)

    def _located(
        self, job: Job, paths: list[str] | None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The examples that the search is told by, rows by population; and the weights, flat
        numbers by parameter.
        """
        layers = weighted_layers(job, paths)
        first = self.version == 1
        positives = 200 if first and self.positives is None else self.positives
        rows = draw(job, failures=self.examples, positives=positives, by_class=not first)
        sets = {name: job.data.train[name].subset(these) for name, these in rows.items()}
        wrong, right = [sets.pop("failing")], list(sets.values())
        if not first:
            return rows, bidirectional(job, layers, wrong, right)
        linear = [each for each in layers if isinstance(job.model.get_submodule(each), nn.Linear)]
        layer = (linear or layers)[-1]
        gradient = loss_gradients(job, [layer], wrong)[layer].flatten()
        impact = forward_means(job, [layer], wrong, absolute=False)[layer].flatten()
        most = min(self.candidates * len(wrong[0]), len(gradient))
        looked_at = gradient.topk(most).indices.sort().values
        kept = front(gradient[looked_at], impact[looked_at])
        return rows, {f"{layer}.weight": looked_at.cpu()[kept]}

    def _optimizer(self, patch: Patch, runtime: Runtime) -> Optimizer:
        seed = int(torch.randint(2**31 - 1, (1,), generator=runtime.generator("arachne")))
        siblings = patch.siblings()
        if self.version == 1:
            return constricted(
                siblings, particles=self.population, attraction=self.attraction, seed=seed
            )
        return Evolution.of_weights(
            siblings, population=self.population, crossover=self.crossover, seed=seed
        )

    def _fitness(self, failing: Answers, right: Answers) -> Tensor:
        """Version 2's, negative: Σ over the right ones and `emphasis` · Σ over failures of 1 where
        they are right, and 1 / (loss + 1) elsewhere.
        """

        def total(answers: Answers) -> Tensor:
            return torch.where(answers.right, 1.0, 1 / (answers.losses.double() + 1)).sum()

        return -(total(right) + self.emphasis * total(failing))


def fitness(failing: Answers, right: Answers) -> Tensor:
    """Version 1's, negative: (number of failures that are right + 1) / (mean loss + 1), and the
    same of the others.
    """

    def share(answers: Answers) -> Tensor:
        return (answers.right.sum() + 1) / (answers.losses.double().mean() + 1)

    return -(share(failing) + share(right))


def bidirectional(job: Job, layers: list[str], wrong: list, right: list) -> dict[str, Tensor]:
    """Version 2's places: of the weights of all `layers`, the Pareto front of how much more they
    matter for what is `wrong` than for what is `right`, by the loss's gradients and by what passes
    through them.
    """
    scores = [
        (measure(job, layers, wrong), measure(job, layers, right))
        for measure in (loss_gradients, forward_impacts)
    ]
    fronts = {}
    for layer in layers:  # the front of all is among the fronts of each
        pair = [bad[layer].flatten() / (1 + good[layer].flatten()) for bad, good in scores]
        kept = front(*pair)
        fronts[layer] = kept, torch.stack([each.cpu()[kept] for each in pair])
    best = front(*torch.cat([pair for _, pair in fronts.values()], 1))
    starts = torch.tensor([0] + [len(kept) for kept, _ in fronts.values()]).cumsum(0)
    found = {}
    for (layer, (kept, _)), start in zip(fronts.items(), starts.tolist(), strict=False):
        own = best[(best >= start) & (best < start + len(kept))] - start
        if len(own):
            found[f"{layer}.weight"] = kept[own]
    return found
