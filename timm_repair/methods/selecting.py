"""Which block a method repairs: the one named by the user, or the one that localization finds most suspicious (paper §3.2)."""

from dataclasses import dataclass, replace

from torch import nn

from timm_repair.data import RepairData
from timm_repair.errors import OptionError, PartitionError, did_you_mean
from timm_repair.localization import DEFAULT_SCORER, Localization, Scorer, localize
from timm_repair.methods.tuning import tune
from timm_repair.options import check_types
from timm_repair.partition import GRANULARITIES, Block, blocks
from timm_repair.runtime import Runtime
from timm_repair.training import Training, objective


@dataclass(frozen=True, kw_only=True)
class Target:
    """How the block is chosen; the same fields serve every method that repairs one.

    Args:
        block: its name; None lets `score` choose it.
        granularity: what a block is, see `partition.blocks`.
        names: exactly these blocks instead, cut by hand, see `partition.blocks`.
        score: see `localization.localize`, as for the next two; "spectrum_gradient" is the paper's.
        top: how many neurons count as vulnerable.
        threshold: the score above which a neuron is vulnerable, instead of `top`.
        probe_share: the scorer "probe" spends this share of the training steps on each block, on top of the budget.
    """

    block: str | None = None
    granularity: str = "stage"
    names: tuple[str, ...] | None = None
    score: str | Scorer = DEFAULT_SCORER
    top: int = 50
    threshold: float | None = None
    probe_share: float = 0.05

    def __post_init__(self):
        check_types(self)
        if self.granularity not in GRANULARITIES:
            raise OptionError(f"unknown granularity {self.granularity!r}{did_you_mean(self.granularity, GRANULARITIES)}")
        if not 0 < self.probe_share <= 1 or self.top < 1:
            raise OptionError("probe_share is a share above 0 and up to 1, and top at least 1")

    def choose(self, model: nn.Module, data: RepairData, training: Training, runtime: Runtime
               ) -> tuple[tuple[Block, ...], Block, Localization | None]:
        """All blocks, the one to repair, and the localization where one was needed.

        Raises:
            PartitionError: `block` does not exist, or cannot be repaired (the message says why).
        """
        found = blocks(model, granularity=self.granularity, names=self.names, input_size=data.preprocessing.input_size)
        by_name = {b.name: b for b in found}
        if self.block is None:
            def trial(copy: nn.Module, block: Block, data: RepairData, runtime: Runtime) -> float:
                few = replace(training, steps=max(round(self.probe_share * training.steps), 1), evaluations=1)
                tune(copy, part_of(copy, block), data, few, runtime, stage=f"probe {block.name}")
                return objective(copy, data, runtime)

            localization = localize(
                model, found, data, score=self.score, top=self.top, threshold=self.threshold, trial=trial, runtime=runtime)
            return found, by_name[localization.worst], localization
        if self.block not in by_name:
            raise PartitionError(f"the model has no block {self.block!r}{did_you_mean(self.block, by_name)}")
        if by_name[self.block].reason:
            raise PartitionError(f"block {self.block!r} cannot be repaired: {by_name[self.block].reason}")
        return found, by_name[self.block], None


def part_of(model: nn.Module, block: Block) -> nn.Module:
    """The modules a block spans, as one module for their parameters, state and mode (not to be called)."""
    return nn.ModuleList(model.get_submodule(path) for path in block.paths)
