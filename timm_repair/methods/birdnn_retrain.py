"""BIRDNN, retraining: misbehaving inputs take the behaviour of their nearest well-behaved
neighbours.
"""

from dataclasses import dataclass, field
from typing import ClassVar

from torch import nn

from timm_repair.data.repair_data import RepairData
from timm_repair.localization.target import Target
from timm_repair.methods.method import Outcome
from timm_repair.options import check_types
from timm_repair.runtime.runtime import Runtime
from timm_repair.training.imitation import Imitating, Imitation
from timm_repair.training.job import Job
from timm_repair.training.options import Training
from timm_repair.training.tuning import tune


@dataclass(frozen=True, kw_only=True)
class BirdnnRetrain:
    """Minimize α · MSE(f(x-), f(nearest x+)) + β · MSE(f(x+), f_old(x+)) over the network, or over
    the blocks named.

    Args:
        imitating: what is imitated, see `Imitating`.
        target: only its block= is used; None trains the whole network.
    """

    imitating: Imitating = field(default_factory=Imitating)
    target: Target = field(default_factory=Target)
    training: Training = field(default_factory=Training)
    name: ClassVar[str] = "birdnn_retrain"
    paper: ClassVar[str] = (
        "Zhen Liang et al., Repairing Deep Neural Networks Based on Behavior Imitation, 2023,"
        " arXiv:2305.03365"
    )

    def __post_init__(self):
        check_types(self)
        self.target.require_named(self.name)

    def repair(self, model: nn.Module, data: RepairData, runtime: Runtime) -> Outcome:
        job = Job(model, data, self.training, runtime)
        found, chosen, part, _ = self.target.named_part(job.model, data, self.training, runtime)
        with runtime.stage("imitate"):
            imitation = Imitation(job, self.imitating)
            history, notes = tune(job, part, forward=job.forward(), losses=imitation)
        return Outcome(model, found, chosen, history=history, notes=notes + imitation.notes)
