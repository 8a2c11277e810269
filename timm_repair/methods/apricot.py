"""Apricot (Zhang and Chan, ASE 2019): models trained on parts of the data say which way to go."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from timm_repair.data.predicting import predict
from timm_repair.data.repair_data import RepairData
from timm_repair.errors import OptionError, did_you_mean
from timm_repair.methods.method import Outcome
from timm_repair.models.temporary import only_trainable, training_mode
from timm_repair.models.weights import names_in, snapshot
from timm_repair.options import check_types
from timm_repair.runtime.batch_norms import sharded
from timm_repair.runtime.runtime import Runtime
from timm_repair.training.batches import Batches
from timm_repair.training.descent import Descent
from timm_repair.training.history import Row
from timm_repair.training.job import Job
from timm_repair.training.loop import fit
from timm_repair.training.losses import batch_losses
from timm_repair.training.objective import objective
from timm_repair.training.options import Training
from timm_repair.training.pace import Pace
from timm_repair.training.recalibration import recalibrate
from timm_repair.training.tuning import tune

STRATEGIES = ("both", "corr", "incorr")
SIGNS = ("towards", "away")


@dataclass(frozen=True, kw_only=True)
class Apricot:
    """θ ← θ + η [p_C (m_C - θ) - p_W (m_W - θ)] for each failure, and training in between: m_C and
    m_W are the mean weights of the reduced models that have it right and wrong, p_C and p_W their
    shares.

    Args:
        reduced: how many models are trained on parts of the data, from the model's own weights.
        subset: share of each class that one of them sees.
        reduced_share: of the steps, spent on them in equal parts.
        step_size: η.
        strategy: "both" terms, or that of the right ones ("corr") or of the wrong ones ("incorr")
            alone.
        sign: "towards" the right ones and away from the wrong ones, as the paper says; "away" is
            the opposite, which its public code does.
        adjustments: how often the weights are adjusted, at most; steps of training are in between.
        failures: for how many failures each time.
        recalibration: batches that renew the statistics of batch norms after each.
    """

    reduced: int = 5
    subset: float = 0.2
    reduced_share: float = 0.5
    step_size: float = 1e-3
    strategy: str = "both"
    sign: str = "towards"
    adjustments: int = 10
    failures: int = 20
    recalibration: int = 5
    training: Training = field(default_factory=Training)
    name: ClassVar[str] = "apricot"
    paper: ClassVar[str] = (
        "Hao Zhang and W.K. Chan, Apricot: A Weight-Adaptation Approach to Fixing Deep"
        " Learning Models, ASE 2019"
    )

    def __post_init__(self):
        check_types(self)
        for name, known in (("strategy", STRATEGIES), ("sign", SIGNS)):
            given = getattr(self, name)
            if given not in known:
                raise OptionError(f"unknown {name} {given!r}{did_you_mean(given, known)}")
        if min(self.reduced, self.adjustments, self.failures, self.recalibration) < 1:
            raise OptionError("reduced, adjustments, failures and recalibration must be at least 1")
        if not 0 < self.subset <= 1 or not 0 < self.reduced_share < 1 or self.step_size <= 0:
            raise OptionError(
                "subset is a share up to 1, reduced_share lies between 0 and 1, and step_size is"
                " positive"
            )
        if not self._each:
            least = int(self.reduced / self.reduced_share) + 1
            raise OptionError(
                f"{self.reduced} reduced models need more than steps={self.training.steps}: give at"
                f" least {least}, or fewer of them"
            )

    @property
    def _each(self) -> int:
        """Steps of one reduced model."""
        return int(self.reduced_share * self.training.steps / self.reduced)

    def repair(self, model: nn.Module, data: RepairData, runtime: Runtime) -> Outcome:
        job = Job(model, data, self.training, runtime)
        history, states, right = [], [], []
        with runtime.stage("reduced"):
            for number in range(self.reduced):
                rows, state, ones = self._reduced(job, number)
                history += rows
                states.append(state)
                right.append(ones)
        rest = self.training.steps - self.reduced * self._each
        final = replace(job, training=self.training.within(rest))
        guides = Guides(states, torch.stack(right))
        adjusting = partial(AdjustingDescent, job=final, options=self, guides=guides)
        with runtime.stage("finetune"):
            rows, notes = tune(final, model, descend=adjusting)
        split = int((guides.right.any(0) & ~guides.right.all(0)).sum())
        told = (
            f"{split} of {len(data.failing)} failures are right by some of {self.reduced} reduced"
            " models and wrong by others, so that they say where to go"
        )
        return Outcome(model, history=history + rows, notes=(told, *notes))

    def _reduced(self, job: Job, number: int) -> tuple[list[Row], dict[str, Tensor], Tensor]:
        """The history, the weights and which of the failures are right, (n,) bool, of one reduced
        model; the job's is as it was.
        """
        model, runtime, stage = job.model, job.runtime, f"reduced {number}"
        original, training = snapshot(model), self.training.within(self._each)
        few = {
            name: _part_of_each_class(images.labels, self.subset, runtime, f"{stage}, {name}")
            for name, images in job.data.train.items()
        }
        batches = Batches(job.data, training, runtime, stage, few)
        pace = Pace(training, self._each, runtime.accelerator)
        descent = Descent(model.parameters(), training, runtime, pace=pace)
        forward = job.forward()
        modes = training_mode(model, model, batch_norm=training.batch_norm)
        with only_trainable(model, names_in(model, model)), modes, sharded(model, runtime, stage):
            history = fit(
                lambda _: descent.step(batch_losses(batches, forward)),
                pace=pace,
                stage=stage,
                runtime=runtime,
                state={"model": model, "descent": descent, "batches": batches},
            )
        found = predict(model, job.data.failing, job.data.preprocessing, runtime)
        weights = {name: p.detach().clone() for name, p in model.named_parameters()}
        model.load_state_dict(original)
        return history, weights, found.right


def _part_of_each_class(labels: Tensor, share: float, runtime: Runtime, purpose: str) -> Tensor:
    """Rows of so large a share of each class, at least one of each, in order."""
    generator, chosen = runtime.generator(purpose), []
    for label in labels.unique().tolist():
        own = (labels == label).nonzero().flatten()
        order = torch.randperm(len(own), generator=generator)
        chosen.append(own[order[: max(round(share * len(own)), 1)]])
    return torch.cat(chosen).sort().values


@dataclass(frozen=True)
class Guides:
    """Reduced models.

    Args:
        weights: of each, by name.
        right: (models, failures) bool: which of the failures each has right.
    """

    weights: Sequence[Mapping[str, Tensor]]
    right: Tensor

    def coefficients(self, failures: Tensor, options: Apricot) -> tuple[float, list[float]]:
        """What the weights, and those of each model, are multiplied by for `failures` one after the
        other.

        The adjustment is linear: p_C m_C is the sum of the right ones' weights over the number of
        models, so θ ← (1 - s η (p_C - p_W)) θ + s η / N Σ ± θ_i.
        """
        count = len(self.weights)
        size = options.step_size * (1 if options.sign == "towards" else -1)
        own, others = 1.0, torch.zeros(count, dtype=torch.float64)
        for row in failures.tolist():
            right = self.right[:, row]
            if right.all() or not right.any():
                continue  # nothing to tell one from the other by
            signs = right.double() - (~right).double()
            if options.strategy != "both":
                signs *= right if options.strategy == "corr" else ~right
            factor = 1 - size * float(signs.sum()) / count
            own, others = factor * own, factor * others + size / count * signs
        return own, others.tolist()

    @torch.no_grad()
    def adjust(self, model: nn.Module, failures: Tensor, options: Apricot) -> bool:
        """Adjust the parameters of `model`; returns whether anything was said by `failures`."""
        own, others = self.coefficients(failures, options)
        if not any(others):
            return False
        for name, parameter in model.named_parameters():
            if parameter.is_floating_point():
                parameter.mul_(own)
                for factor, weights in zip(others, self.weights, strict=True):
                    parameter.add_(weights[name], alpha=factor)
        return True


class AdjustingDescent(Descent):
    """Descent that now and then adjusts the weights, and takes that back where the selection split
    does not prefer it.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        training: Training,
        runtime: Runtime,
        *,
        job: Job,
        options: Apricot,
        guides: Guides,
        **schedule: Any,
    ):
        super().__init__(parameters, training, runtime, **schedule)
        self.job, self.options, self.guides = job, options, guides
        self.forward, self.adjusted = job.forward(), 0

    def state_dict(self) -> dict:
        return super().state_dict() | {"adjusted": self.adjusted}

    def load_state_dict(self, state: Mapping) -> None:
        super().load_state_dict(state)
        self.adjusted = state["adjusted"]

    def step(self, *losses: Tensor | Iterable[Tensor]) -> Row:
        row = super().step(*losses)
        if self._due() > self.adjusted:
            self.adjusted += 1
            self.adjust()
        return row

    def _due(self) -> int:
        """How many adjustments there are to be by now: as many as asked for at the end."""
        return self.place * min(self.options.adjustments, self.total) // self.total

    def adjust(self) -> None:
        """By some of the failures that the model gets wrong."""
        job, options = self.job, self.options
        model, failing = job.model, job.data.failing
        generator = self.runtime.generator(f"adjustment after {self.done}")
        drawn = torch.randperm(len(failing), generator=generator)[: options.failures]
        few = failing.subset(drawn)
        wrong = ~predict(model, few, job.data.preprocessing, self.runtime).right
        before = snapshot(model)
        value = objective(self.forward, job.data, job.training.choosing)
        if not self.guides.adjust(model, drawn[wrong], options):
            return
        if job.training.batch_norm == "train":
            recalibrate(job, model, batches=options.recalibration)
        if objective(self.forward, job.data, job.training.choosing) <= value:
            model.load_state_dict(before)
