"""Fine-tuning of a block that was drawn at random: a control for what localization is worth."""

from dataclasses import dataclass, field
from typing import ClassVar

from torch import nn

from timm_repair.data.repair_data import RepairData
from timm_repair.localization.target import Target
from timm_repair.methods.method import Outcome
from timm_repair.models.weights import part_of
from timm_repair.options import check_types
from timm_repair.runtime.runtime import Runtime
from timm_repair.training.job import Job
from timm_repair.training.options import Training
from timm_repair.training.tuning import tune


@dataclass(frozen=True, kw_only=True)
class RandomBlock:
    """Train the weights of a block that the seed draws, as `finetune` trains those of the block
    that a score chooses.

    Args:
        blocks: how many are drawn, and trained together.
        granularity: what a block is, see `partition.blocks`.
    """

    blocks: int = 1
    granularity: str = "stage"
    training: Training = field(default_factory=Training)
    name: ClassVar[str] = "random_block"
    paper: ClassVar[str] = (
        "a control, as the random choices of Hua Qi et al., ArchRepair, 2023, arXiv:2111.13330"
    )

    def __post_init__(self):
        check_types(self)
        self._target()

    def repair(self, model: nn.Module, data: RepairData, runtime: Runtime) -> Outcome:
        job = Job(model, data, self.training, runtime)
        with runtime.stage("localize"):
            found, chosen, drawn = self._target().choose(model, data, self.training, runtime)
        with runtime.stage("finetune"):
            history, notes = tune(job, part_of(model, *chosen))
        return Outcome(model, found, chosen, drawn, history=history, notes=notes)

    def _target(self) -> Target:
        return Target(score="random", blocks=self.blocks, granularity=self.granularity)
