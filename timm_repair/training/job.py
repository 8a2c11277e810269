"""Job: what every verb of training is about."""

from dataclasses import dataclass

from torch import nn

from timm_repair.data.repair_data import RepairData
from timm_repair.runtime.runtime import Runtime
from timm_repair.training.options import Training
from timm_repair.training.populations import Populations
from timm_repair.training.prefix.forward import Forward, forward_from


@dataclass(frozen=True)
class Job:
    """One repair: the first argument of `tune`, `search`, `recalibrate`, `interpolate`.

    Args:
        model: is changed in place, on the runtime's device.
        data: what trains and what chooses.
        training: the options that all methods share.
        runtime: device, processes, seed and progress.
    """

    model: nn.Module
    data: RepairData
    training: Training
    runtime: Runtime

    def forward(self, part: nn.Module | None = None) -> Forward:
        """Answers of the model while only `part`, a submodule, changes: what arrives there is kept
        where that pays. None promises nothing: every answer is computed from the images.
        """
        if part is None:
            examples = Populations(self.data, self.training, self.runtime)
            return Forward(self.model, examples, self.runtime)
        return forward_from(self.model, part, self.data, self.training, self.runtime)
