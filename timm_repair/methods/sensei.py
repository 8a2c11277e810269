"""SENSEI: every example is trained on in the transformation that a genetic search finds the hardest
for the model.
"""

from dataclasses import dataclass, field
from typing import ClassVar

from torch import nn

from timm_repair.data.repair_data import RepairData
from timm_repair.localization.target import Target
from timm_repair.methods.method import Outcome
from timm_repair.options import check_types
from timm_repair.runtime.runtime import Runtime
from timm_repair.training.job import Job
from timm_repair.training.options import Training
from timm_repair.training.populations import require_images
from timm_repair.training.transforming.genes import Varying
from timm_repair.training.tuning import tune
from timm_repair.training.worst import Searching, WorstVariants


@dataclass(frozen=True, kw_only=True)
class Sensei:
    """Minimize max_t CE(t(x)) over the network, or over the blocks named; t are rotations, shifts
    and shears, searched for example by example.

    Args:
        varying: what an image may go through, see `Varying`.
        searching: how the worst of it is looked for, see `Searching`.
        target: only its block= is used; None trains the whole network.
    """

    varying: Varying = field(default_factory=Varying)
    searching: Searching = field(default_factory=Searching)
    target: Target = field(default_factory=Target)
    training: Training = field(default_factory=Training)
    name: ClassVar[str] = "sensei"
    paper: ClassVar[str] = (
        "Xiang Gao et al., Fuzz Testing based Data Augmentation to Improve Robustness of Deep"
        " Neural Networks, ICSE 2020"
    )

    def __post_init__(self):
        check_types(self)
        self.target.require_named(self.name)

    def repair(self, model: nn.Module, data: RepairData, runtime: Runtime) -> Outcome:
        job = Job(model, data, self.training, runtime)
        require_images(data, self.name)
        found, chosen, part, _ = self.target.named_part(model, data, self.training, runtime)
        with runtime.stage("finetune"):
            worst = WorstVariants(job, self.varying, self.searching)
            carried = {"worst variants": worst}
            history, notes = tune(job, part, forward=job.forward(), losses=worst, carried=carried)
        return Outcome(model, found, chosen, history=history, notes=notes)
