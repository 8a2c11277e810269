"""Fine-tuning: of the whole network, of blocks, or of layers (the rows of the paper's Table 1, and
surgical fine-tuning).
"""

from dataclasses import dataclass, field, replace
from typing import ClassVar

from torch import nn

from timm_repair.data.repair_data import RepairData
from timm_repair.errors import OptionError, did_you_mean
from timm_repair.localization.target import Target
from timm_repair.methods.method import Outcome
from timm_repair.models.weights import part_of
from timm_repair.options import check_types
from timm_repair.runtime.runtime import Runtime
from timm_repair.training.job import Job
from timm_repair.training.options import Training
from timm_repair.training.tuning import tune

LEVELS = ("network", "block", "layer")


@dataclass(frozen=True, kw_only=True)
class FineTune:
    """Train the weights of one part of the model, or of several at once, on the failures and the
    retained examples.

    Args:
        level: "network", "block" or "layer"; None is "block" where the target names blocks or says
            how many, else "network".
        target: which blocks or layers, see `Target`.
    """

    level: str | None = None
    target: Target = field(default_factory=Target)
    training: Training = field(default_factory=Training)
    name: ClassVar[str] = "finetune"
    paper: ClassVar[str] = (
        "Hua Qi et al., ArchRepair (its Table 1), 2023, arXiv:2111.13330; of one block: Yoonho Lee"
        " et al., Surgical Fine-Tuning Improves Adaptation to Distribution Shifts, ICLR 2023,"
        " arXiv:2210.11466"
    )

    def __post_init__(self):
        check_types(self)
        asked = self.target.chosen or self.target.several
        if self.level is None:
            object.__setattr__(self, "level", "block" if asked else "network")
        assert self.level is not None, "just said"
        if self.level not in LEVELS:
            raise OptionError(f"unknown level {self.level!r}{did_you_mean(self.level, LEVELS)}")
        if self.level == "network" and asked:
            given = (
                f"block={self.target.block!r}"
                if self.target.chosen
                else f"blocks={self.target.blocks}"
            )
            raise OptionError(
                f"{given} needs level='block' or level='layer', or no level at all, which is the"
                " former"
            )

    @property
    def places(self) -> Target:
        """The target among what the level speaks of."""
        return replace(self.target, granularity="layer") if self.level == "layer" else self.target

    def repair(self, model: nn.Module, data: RepairData, runtime: Runtime) -> Outcome:
        job = Job(model, data, self.training, runtime)
        found, chosen, localization, part = (), (), None, model
        if self.level != "network":
            with runtime.stage("localize"):
                found, chosen, localization = self.places.choose(
                    model, data, self.training, runtime
                )
            part = part_of(model, *chosen)
        with runtime.stage("finetune"):
            history, notes = tune(job, part)
        return Outcome(model, found, chosen, localization, history=history, notes=notes)
