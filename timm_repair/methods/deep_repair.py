"""DeepRepair: training images take the style of failures, in AugMix chains."""

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
from timm_repair.training.transforming.styled import Styled
from timm_repair.training.transforming.styles import Styling, references


@dataclass(frozen=True, kw_only=True)
class DeepRepair:
    """Minimize CE(x) + strength · JSD(x, x~1, x~2) over the network, or over the blocks named; x~
    are AugMix whose operations include the style of a failure.

    Args:
        consistency: how much of it is asked, see `Consistency`.
        styling: which failures are references, and how style is transferred, see `Styling`.
        mixture: AugMix's chains, see `Mixture`.
        target: only its block= is used; None trains the whole network.
    """

    consistency: Consistency = field(default_factory=Consistency)
    styling: Styling = field(default_factory=Styling)
    mixture: Mixture = field(default_factory=Mixture)
    target: Target = field(default_factory=Target)
    training: Training = field(default_factory=Training)
    name: ClassVar[str] = "deep_repair"
    paper: ClassVar[str] = (
        "Bing Yu et al., DeepRepair: Style-Guided Repairing for Deep Neural Networks in the"
        " Real-world Operational Environment, 2020, arXiv:2011.09884"
    )

    def __post_init__(self):
        check_types(self)
        self.target.require_named(self.name)

    def repair(self, model: nn.Module, data: RepairData, runtime: Runtime) -> Outcome:
        job = Job(model, data, self.training, runtime)
        require_images(data, self.name)
        found, chosen, part, _ = self.target.named_part(model, data, self.training, runtime)
        with runtime.stage("references"):
            rows = references(data.failing, self.styling, runtime)
        with runtime.stage("finetune"):
            history, notes = tune_consistently(
                job,
                part,
                Styled(self.mixture, data.failing, rows, self.styling.transfer),
                self.consistency,
            )
        return Outcome(model, found, chosen, history=history, notes=notes)
