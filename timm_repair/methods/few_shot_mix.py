"""Few-shot guided mixing, by a working definition: training images are changed by AugMix chains,
one of which a failure leads.
"""

from dataclasses import dataclass, field
from typing import ClassVar

from torch import nn

from timm_repair.data.repair_data import RepairData
from timm_repair.localization.target import Target
from timm_repair.methods.method import Outcome
from timm_repair.options import check_types
from timm_repair.runtime.runtime import Runtime
from timm_repair.training.consistency import Consistency, tune_consistently
from timm_repair.training.job import Job
from timm_repair.training.options import Training
from timm_repair.training.populations import require_images
from timm_repair.training.transforming.chains import Mixture
from timm_repair.training.transforming.guided import Guided


@dataclass(frozen=True, kw_only=True)
class FewShotMix:
    """Minimize CE(x) + strength · JSD(x, x~1, x~2) over the network, or over the blocks named; x~
    are AugMix with one chain mixed with a failure.

    Args:
        consistency: how much of it is asked, see `Consistency`.
        mixture: AugMix's chains, see `Mixture`.
        target: only its block= is used; None trains the whole network.
    """

    consistency: Consistency = field(default_factory=Consistency)
    mixture: Mixture = field(default_factory=Mixture)
    target: Target = field(default_factory=Target)
    training: Training = field(default_factory=Training)
    name: ClassVar[str] = "few_shot_mix"
    paper: ClassVar[str] = "Xuhong Ren et al., Few-Shot Guided Mix for DNN Repairing, ICSME 2020"

    def __post_init__(self):
        check_types(self)
        self.target.require_named(self.name)

    def repair(self, model: nn.Module, data: RepairData, runtime: Runtime) -> Outcome:
        job = Job(model, data, self.training, runtime)
        require_images(data, self.name)
        found, chosen, part, _ = self.target.named_part(model, data, self.training, runtime)
        with runtime.stage("finetune"):
            history, notes = tune_consistently(
                job,
                part,
                Guided(self.mixture, data.failing),
                self.consistency,
            )
        return Outcome(model, found, chosen, history=history, notes=notes)
