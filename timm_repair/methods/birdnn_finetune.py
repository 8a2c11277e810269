"""BIRDNN, fine-tuning: the neurons that behave most differently on misbehaving inputs are scaled,
by a particle swarm.
"""

from dataclasses import dataclass, field
from typing import ClassVar

from torch import nn

from timm_repair.data.repair_data import RepairData
from timm_repair.gradient_free.scaling import Scaling, scale_neurons
from timm_repair.localization.target import Target
from timm_repair.methods.method import Outcome
from timm_repair.options import check_types
from timm_repair.runtime.runtime import Runtime
from timm_repair.training.job import Job
from timm_repair.training.options import Training


@dataclass(frozen=True, kw_only=True)
class BirdnnFineTune:
    """Multiply the most responsible neurons by factors 1 + r that a swarm finds; no gradient is
    taken.

    Args:
        scaling: which neurons, and how the swarm looks for their factors, see `Scaling`.
        target: only its block= is used; None takes neurons of the whole network.
        training: a step is one round of the swarm; of the rest only choosing matters.
    """

    scaling: Scaling = field(default_factory=Scaling)
    target: Target = field(default_factory=Target)
    training: Training = field(default_factory=Training)
    name: ClassVar[str] = "birdnn_finetune"
    paper: ClassVar[str] = (
        "Zhen Liang et al., Repairing Deep Neural Networks Based on Behavior Imitation, 2023,"
        " arXiv:2305.03365"
    )

    def __post_init__(self):
        check_types(self)
        self.target.require_named(self.name)

    def repair(self, model: nn.Module, data: RepairData, runtime: Runtime) -> Outcome:
        job = Job(model, data, self.training, runtime)
        found, chosen, _, paths = self.target.named_part(model, data, self.training, runtime)
        with runtime.stage("finetune"):
            history, notes = scale_neurons(job, paths, self.scaling, rounds=self.training.steps)
        return Outcome(model, found, chosen, history=history, notes=notes)
