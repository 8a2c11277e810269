"""BIRDNN: retraining by imitation, then the most responsible neurons are scaled."""

from dataclasses import dataclass, field
from typing import ClassVar

from torch import nn

from timm_repair.data.repair_data import RepairData
from timm_repair.errors import OptionError
from timm_repair.gradient_free.scaling import Scaling, scale_neurons
from timm_repair.localization.target import Target
from timm_repair.methods.method import Outcome
from timm_repair.options import check_types
from timm_repair.runtime.runtime import Runtime
from timm_repair.training.imitation import Imitating, Imitation
from timm_repair.training.job import Job
from timm_repair.training.options import Training
from timm_repair.training.tuning import tune


@dataclass(frozen=True, kw_only=True)
class Birdnn:
    """`birdnn_retrain`, then `birdnn_finetune` of what it gave, within one budget.

    Args:
        retrain_share: of the steps; the rest are rounds of the swarm.
        imitating, scaling, target: see `BirdnnRetrain` and `BirdnnFineTune`.
    """

    retrain_share: float = 0.8
    imitating: Imitating = field(default_factory=Imitating)
    scaling: Scaling = field(default_factory=Scaling)
    target: Target = field(default_factory=Target)
    training: Training = field(default_factory=Training)
    name: ClassVar[str] = "birdnn"
    paper: ClassVar[str] = (
        "Zhen Liang et al., Repairing Deep Neural Networks Based on Behavior Imitation, 2023,"
        " arXiv:2305.03365"
    )

    def __post_init__(self):
        check_types(self)
        self.target.require_named(self.name)
        if not 0 < self.retrain_share < 1 or self.training.steps < 2:
            raise OptionError(
                "birdnn shares its steps: retrain_share must lie between 0 and 1, and steps be at"
                f" least 2, got {self.retrain_share} of {self.training.steps}"
            )

    def repair(self, model: nn.Module, data: RepairData, runtime: Runtime) -> Outcome:
        found, chosen, part, paths = self.target.named_part(model, data, self.training, runtime)
        steps = self.training.steps
        first = min(max(round(self.retrain_share * steps), 1), steps - 1)
        job = Job(model, data, self.training.within(first), runtime)
        with runtime.stage("imitate"):
            imitation = Imitation(job, self.imitating)
            history, notes = tune(
                job, part, stage="imitate", forward=job.forward(), losses=imitation
            )
        with runtime.stage("finetune"):
            more, said = scale_neurons(job, paths, self.scaling, rounds=steps - first)
        notes += imitation.notes + said
        return Outcome(model, found, chosen, history=history + more, notes=notes)
