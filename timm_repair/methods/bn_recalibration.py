"""Batch-norm recalibration: renew the running statistics on the repair's data, train nothing. The
cheapest control.
"""

from dataclasses import dataclass, field
from typing import ClassVar

from torch import nn

from timm_repair.data.repair_data import RepairData
from timm_repair.errors import OptionError
from timm_repair.methods.method import Outcome
from timm_repair.models.weights import snapshot
from timm_repair.options import check_types
from timm_repair.runtime.runtime import Runtime
from timm_repair.training.interpolation import interpolate
from timm_repair.training.job import Job
from timm_repair.training.options import Training
from timm_repair.training.recalibration import batch_norms, recalibrate


@dataclass(frozen=True, kw_only=True)
class BnRecalibration:
    """Replace every batch norm's statistics by averages over a mixture of failures and retained
    examples.

    Args:
        batches: how many batches are averaged; None takes as many as a tenth of the training steps
            would.
    """

    batches: int | None = None
    training: Training = field(default_factory=Training)
    name: ClassVar[str] = "bn_recalibration"
    paper: ClassVar[str] = (
        "Steffen Schneider et al., Improving robustness against common corruptions by covariate"
        " shift adaptation, NeurIPS 2020, arXiv:2006.16971"
    )

    def __post_init__(self):
        check_types(self)
        if self.batches is not None and self.batches < 1:
            raise OptionError(f"batches must be at least 1, got {self.batches}")

    def repair(self, model: nn.Module, data: RepairData, runtime: Runtime) -> Outcome:
        if not batch_norms(model):
            return Outcome(model, notes=("the model has no batch norm: nothing to recalibrate",))
        job, original = Job(model, data, self.training, runtime), snapshot(model)
        with runtime.stage("recalibrate"):
            batches = self.batches or max(self.training.steps // 10, 1)
            recalibrate(job, model, batches=batches)
            share = interpolate(job, model, original)
        return Outcome(
            model,
            notes=(
                f"{share:.0%} of the way to the new statistics was best on the selection split",
            ),
        )
