"""NeuRecover: what a model has unlearnt is looked for in the history of its training, and the
weights that changed meanwhile and matter for that, and not for what it has learnt, are searched.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from timm_repair.data.repair_data import RepairData
from timm_repair.errors import OptionError, require_packages
from timm_repair.gradient_free.drawing import draw
from timm_repair.gradient_free.impact import forward_means, loss_gradients, weighted_layers
from timm_repair.gradient_free.judging import Answers, Judges
from timm_repair.gradient_free.patching import Patch
from timm_repair.gradient_free.searching import PATIENCE, search
from timm_repair.gradient_free.swarm import constricted
from timm_repair.images.images import Images
from timm_repair.localization.target import Target
from timm_repair.methods.method import Outcome
from timm_repair.models import checkpoints
from timm_repair.models.weights import owners
from timm_repair.options import check_types
from timm_repair.runtime.processes import agreed
from timm_repair.runtime.runtime import Runtime
from timm_repair.training.imitation import outputs_for
from timm_repair.training.job import Job
from timm_repair.training.options import Training

POSITIVES = 200
_MOST = 1000  # examples of either kind that are looked at
NEEDED = (
    "neu_recover compares the model with earlier states of its training: give checkpoints=, state"
    " dicts or files (.safetensors, or of torch.save), the oldest first"
)


@dataclass(frozen=True, kw_only=True)
class NeuRecover:
    """Replace the weights that are to blame for what was unlearnt by values that a swarm finds.

    Args:
        checkpoints: earlier states of the model's training, state dicts or files, the oldest first.
        before: number of the one that the model is compared with, from the end where negative.
        after: number of the one that stands for the model in that comparison; None is the model
            itself, whose weights are repaired in any case.
        share: ρ: so much of what its layer is suspected of may be taken for a weight to blame.
        caution: α: what examples that are right count, against failures.
        population: particles.
        attraction: r1 and r2 of the velocity's equation lie between 0 and this.
        examples: failures, at most, that the swarm is judged by.
        target: only its block= is used; None takes the whole network.
        training: a step is one round of the swarm; of the rest only choosing and caching matter.
    """

    checkpoints: tuple = ()
    before: int = -1
    after: int | None = None
    share: float = 1.0
    caution: float = 1.0
    population: int = 100
    attraction: float = 4.1
    examples: int = 500
    target: Target = field(default_factory=Target)
    training: Training = field(default_factory=Training)
    name: ClassVar[str] = "neu_recover"
    paper: ClassVar[str] = (
        "Shogo Tokui et al., NeuRecover: Regression-Controlled Repair of Deep Neural Networks"
        " with Training History, SANER 2022, arXiv:2203.00191"
    )

    def __post_init__(self):
        check_types(self)
        require_packages("properties", "neu_recover's search", "pymoo")
        self.target.require_named(self.name)
        given: Any = self.checkpoints
        one = isinstance(given, str | Path | Mapping | checkpoints.Held)
        if not one and not isinstance(given, Sequence):
            raise OptionError(f"checkpoints={given!r:.80}: {NEEDED}")
        several = tuple(map(checkpoints.checkpoint, [given] if one else given))
        if not several:
            raise OptionError(NEEDED)
        object.__setattr__(self, "checkpoints", several)
        for number in (self.before, self.after or 0):
            if not -len(several) <= number < len(several):
                raise OptionError(f"there are {len(several)} checkpoints, and none is {number}")
        if self.population < 4 or self.examples < 1:
            raise OptionError("population must be at least 4, examples at least 1")
        if self.attraction <= 0 or self.caution < 0 or not 0 < self.share:
            raise OptionError("attraction and share must be positive, caution not negative")

    def repair(self, model: nn.Module, data: RepairData, runtime: Runtime) -> Outcome:
        job = Job(model, data, self.training, runtime)
        found, chosen, _, paths = self.target.named_part(model, data, self.training, runtime)
        with runtime.stage("localize"):
            places, told = runtime.once(
                "places", lambda: agreed(self._located(job, paths), runtime.accelerator)
            )
        if not places:
            return Outcome(model, found, chosen, notes=(told,))
        patch = Patch(model, places)
        with runtime.stage("finetune"):
            rows = draw(job, failures=self.examples, positives=POSITIVES, by_class=False)
            part, rounds = owners(model, places), self.training.steps
            seed = torch.randint(2**31 - 1, (1,), generator=runtime.generator("neu_recover"))
            history, notes, better = search(
                Judges(job, part, rows, reads=self.population * rounds),
                part,
                constricted(
                    patch.siblings(),
                    particles=self.population,
                    attraction=self.attraction,
                    seed=int(seed),
                ),
                apply=patch.apply,
                cost=self._fitness,
                rounds=rounds,
                patience=PATIENCE,
            )
        kept = "nothing that the swarm found was better than the original on the selection split"
        notes = (told, *(() if better else (f"{kept}: it was kept",)), *notes)
        return Outcome(model, found, chosen, history=history, notes=notes)

    def _located(self, job: Job, paths: list[str] | None) -> tuple[dict[str, Tensor], str]:
        """The weights to blame, flat numbers by parameter, and what to tell of them."""
        model = job.model
        states = [
            None if number is None else checkpoints.read(self.checkpoints[number], model)
            for number in (self.before, self.after)
        ]
        earlier, later = (model if state is None else _with(model, state) for state in states)
        unlearnt, learnt = _changed(job, earlier, later)
        counts = [sum(map(len, sets)) for sets in (unlearnt, learnt)]
        if not counts[0]:
            return {}, (
                "the earlier state of the model gets none of these examples right that the later"
                " one gets wrong: nothing was unlearnt, and nothing is repaired"
            )
        layers = weighted_layers(job, paths)
        weights = [dict(each.named_parameters()) for each in (earlier, later)]
        moved = {
            path: (weights[1][f"{path}.weight"] - weights[0][f"{path}.weight"]).detach().abs()
            for path in layers
        }
        found = to_blame(
            [forward_means(job, layers, sets, absolute=True) for sets in (unlearnt, learnt)],
            [loss_gradients(job, layers, sets) for sets in (unlearnt, learnt)],
            moved,
            share=self.share,
        )
        told = (
            f"{counts[0]} examples were unlearnt and {counts[1]} learnt;"
            f" {sum(map(len, found.values()))} weights are to blame,"
            f" of {', '.join(found) or 'no layer'}"
        )
        return found, told

    def _fitness(self, failing: Answers, right: Answers) -> Tensor:
        """Negative: (share of failures that are right + 1) / (mean loss + 1) + α · the same of the
        others.
        """

        def part(answers: Answers) -> Tensor:
            return (answers.right.double().mean() + 1) / (answers.losses.double().mean() + 1)

        return -(part(failing) + self.caution * part(right))


def _with(model: nn.Module, state: dict) -> nn.Module:
    other = deepcopy(model)
    other.load_state_dict(state)
    return other.eval()


def _changed(job: Job, earlier: nn.Module, later: nn.Module) -> tuple[list[Images], list[Images]]:
    """Of the examples of all populations but the pattern: those that the later model gets wrong and
    the earlier one right, and the reverse.
    """
    unlearnt, learnt = [], []
    for name in ("failing", "passing", "retained"):
        if name not in job.data.train:
            continue
        images = job.data.train[name]
        generator = job.runtime.generator(f"history of {name}")
        rows = torch.randperm(len(images), generator=generator)[:_MOST].sort().values
        before, now = (
            images.right(outputs_for(job, each, images.subset(rows)), rows).cpu()
            for each in (earlier, later)
        )
        for sets, these in ((unlearnt, before & ~now), (learnt, now & ~before)):
            if these.any():
                sets.append(images.subset(rows[these]))
    return unlearnt, learnt


def to_blame(
    forward: Sequence[Mapping[str, Tensor]],
    gradients: Sequence[Mapping[str, Tensor]],
    moved: Mapping[str, Tensor],
    *,
    share: float,
) -> dict[str, Tensor]:
    """Flat numbers of the weights to blame, by parameter. A layer with F, its share of what passes
    forward, and D, its share of what moved, is suspected by s = F_unlearnt / (F_unlearnt +
    F_learnt) · D. Of its first k = share · s · size weights by each measure: those that lead in
    all three for what was unlearnt, but not those that lead in both for what was learnt.

    Args:
        forward, gradients: for what was unlearnt, and for what was learnt, by layer.
        moved: by how much each weight did.
    """
    passed = [_normalized(each) for each in forward]
    changed = _normalized(moved)
    found = {}
    for path, change in moved.items():
        both = passed[0][path] + passed[1][path]
        suspected = passed[0][path] / both * changed[path] if both else 0.0
        count = min(round(change.numel() * suspected * share), change.numel())
        lost, kept = (
            _first(forward[i][path], count) & _first(gradients[i][path], count) for i in (0, 1)
        )
        places = lost & _first(change, count) & (change.flatten() > 0).cpu() & ~kept
        if places.any():
            found[f"{path}.weight"] = places.nonzero().flatten()
    return found


def _normalized(values: Mapping[str, Tensor]) -> dict[str, float]:
    means = {path: float(each.double().mean()) for path, each in values.items()}
    total = sum(means.values())
    return {path: each / total if total else 0.0 for path, each in means.items()}


def _first(values: Tensor, count: int) -> Tensor:
    """(n,) bool: which are the `count` largest that are not zero."""
    flat = values.flatten().double().cpu()
    found = torch.zeros(len(flat), dtype=torch.bool)
    found[flat.topk(count).indices] = True
    return found & (flat > 0)
