"""The no-op: a control."""

from dataclasses import dataclass, field
from typing import ClassVar

from torch import nn

from timm_repair.data.repair_data import RepairData
from timm_repair.methods.method import Outcome
from timm_repair.runtime.runtime import Runtime
from timm_repair.training.options import Training


@dataclass(frozen=True, kw_only=True)
class Noop:
    """Leave the model as it is: what measuring alone gives.

    Args:
        training: nothing of it is used.
    """

    training: Training = field(default_factory=Training)
    name: ClassVar[str] = "noop"
    paper: ClassVar[str] = (
        "a control: every method is compared with doing nothing; Hua Qi et al., ArchRepair,"
        " 2023, arXiv:2111.13330"
    )

    def repair(self, model: nn.Module, data: RepairData, runtime: Runtime) -> Outcome:
        return Outcome(model, notes=("nothing was done: this is a control",))
