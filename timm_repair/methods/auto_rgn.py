"""Auto-RGN (Lee et al., ICLR 2023): every tensor learns as fast as the failures pull at it,
relative to its size.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from timm_repair.data.repair_data import RepairData
from timm_repair.errors import OptionError, did_you_mean
from timm_repair.localization.target import Target
from timm_repair.methods.method import Outcome
from timm_repair.options import check_types
from timm_repair.runtime.runtime import Runtime
from timm_repair.training.descent import Descent, gradient_step, gradients
from timm_repair.training.history import Row
from timm_repair.training.job import Job
from timm_repair.training.options import Training
from timm_repair.training.tuning import tune

CRITERIA = ("rgn", "eb")
EVIDENCE = 0.95  # of "eb": from here on a tensor is trained


@dataclass(frozen=True, kw_only=True)
class AutoRgn:
    """Adam with a learning rate for each tensor, measured anew in every round; batch norms' weights
    are left alone.

    Args:
        rate: Adam's, of the tensor that is pulled at most; the place of `learning_rate`.
        criterion: "rgn" is ||g|| / ||p||, and rates are proportional to it; "eb" is the mean of
            g² / (Var(g) + 1e-8), and tensors below 0.95 are not trained.
        rounds: of measuring, then training; fewer where steps are few.
        batches: of which gradients are taken to measure. Each costs what a step costs, and counts
            as one.
        target: only its block= is used; None trains the whole network.
    """

    rate: float = 1e-3
    criterion: str = "rgn"
    rounds: int = 5
    batches: int = 5
    target: Target = field(default_factory=Target)
    training: Training = field(default_factory=Training)
    name: ClassVar[str] = "auto_rgn"
    paper: ClassVar[str] = (
        "Yoonho Lee et al., Surgical Fine-Tuning Improves Adaptation to Distribution Shifts,"
        " ICLR 2023, arXiv:2210.11466"
    )

    def __post_init__(self):
        check_types(self)
        self.target.require_named(self.name)
        if self.criterion not in CRITERIA:
            known = did_you_mean(self.criterion, CRITERIA)
            raise OptionError(f"unknown criterion {self.criterion!r}{known}")
        if min(self.rounds, self.batches) < 1 or self.rate <= 0:
            raise OptionError("rounds and batches must be at least 1, rate positive")
        if self.training.steps < 2:
            raise OptionError("auto_rgn measures before it trains: steps must be at least 2")

    def repair(self, model: nn.Module, data: RepairData, runtime: Runtime) -> Outcome:
        training = replace(self.training, learning_rate=self.rate)
        job = Job(model, data, training, runtime)
        found, chosen, part, _ = self.target.named_part(model, data, training, runtime)
        with runtime.stage("finetune"):
            history, notes = tune(
                job, part, descend=partial(RelativeDescent, options=self, still=_norms(part))
            )
        return Outcome(model, found, chosen, history=history, notes=notes)


def _norms(part: nn.Module) -> set[int]:
    """Ids of the parameters of its batch norms."""
    norms = [m for m in part.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    return {id(p) for norm in norms for p in norm.parameters(recurse=False)}


class RelativeDescent(Descent):
    """Rounds of `batches` gradients that only measure, then of steps of a new Adam by what was
    measured.

    Args:
        still: ids of parameters that do not move.
        Others are those of `Descent`.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        training: Training,
        runtime: Runtime,
        *,
        options: AutoRgn,
        still: set[int],
        **schedule: Any,
    ):
        super().__init__(parameters, training, runtime, **schedule)
        self.options, self.still = options, [id(p) in still for p in self.parameters]
        self.batches = min(options.batches, self.total - 1)
        rounds = max(min(options.rounds, self.total // (2 * self.batches)), 1)
        self.length, self.round = -(-self.total // rounds), 0
        self._begin()

    def _begin(self) -> None:
        self.measured, self.trained = 0, False
        decay = self.training.optimizing.weight_decay
        groups = [
            {"params": [p], "weight_decay": decay if p.ndim > 1 else 0.0} for p in self.parameters
        ]
        adam = torch.optim.Adam(groups, lr=self.options.rate)
        self.optimizer = self.runtime.accelerator.prepare_optimizer(adam)
        self.sums = torch.zeros(len(self.parameters), dtype=torch.float64)

    def state_dict(self) -> dict:
        own = {name: getattr(self, name) for name in ("sums", "round", "measured", "trained")}
        return super().state_dict() | own

    def load_state_dict(self, state: Mapping) -> None:
        super().load_state_dict(state)
        self.sums = state["sums"].clone()
        self.round, self.measured = state["round"], state["measured"]
        self.trained = state["trained"]

    @property
    def factors(self) -> Tensor:
        """Of each parameter's learning rate, (parameters,), by what was measured in this round."""
        if self.options.criterion == "eb":
            return (self.sums / max(self.measured, 1) >= EVIDENCE).double()
        most = self.sums.max()
        return self.sums / most if most > 0 else self.sums

    def step(self, *losses: Tensor | Iterable[Tensor]) -> Row:
        """As that of `Descent`; in the first steps of a round nothing moves but statistics."""
        # none ends before it has trained
        if self.place // self.length > self.round and self.trained:
            self.round = self.place // self.length
            self._begin()
        # where the clock leads, at most half of the steps that a round has left measure
        lead = max(self.place, 1) / max(self.done, 1)
        measures = self.measured < min(self.batches, max(int(self.length / lead / 2), 1))
        rate, self.trained = 0.0 if measures else self.learning_rate, not measures
        if measures:
            self.optimizer.zero_grad()
            value = gradients(self.parameters, losses, self.runtime)
            self.sums += self._measured()
            self.measured += 1
        else:
            factors = self.factors.tolist()
            for group, factor in zip(self.optimizer.param_groups, factors, strict=True):
                group["lr"] = rate * factor
            clip = self.training.optimizing.clip
            value = gradient_step(self.optimizer, self.parameters, losses, self.runtime, clip=clip)
        self.done += 1
        return {"loss": value, "lr": rate}

    def _measured(self) -> Tensor:
        measure = relative_norm if self.options.criterion == "rgn" else evidence
        return torch.tensor(
            [
                0.0 if still or p.grad is None else measure(p.grad, p.detach())
                for p, still in zip(self.parameters, self.still, strict=True)
            ],
            dtype=torch.float64,
        )


def relative_norm(gradient: Tensor, parameter: Tensor) -> float:
    """||g|| / ||p||, 0 of a tensor of zeros."""
    size = float(parameter.norm())
    return float(gradient.norm()) / size if size else 0.0


def evidence(gradient: Tensor, parameter: Tensor) -> float:
    """The mean of g² / (Var(g) + 1e-8), the variance along the first dimension; 0 of one entry."""
    if not gradient.ndim:
        return 0.0
    spread = gradient.var(0, keepdim=True) if len(gradient) > 1 else torch.zeros_like(gradient)
    return float((gradient.square() / (spread + 1e-8)).mean())
