"""Method: the contract of a repair method; Outcome: what it hands back to the pipeline."""

from dataclasses import dataclass, field
from typing import Protocol

from torch import nn

from timm_repair.architecture.genotype import Genotype
from timm_repair.data.repair_data import RepairData
from timm_repair.localization.localization import Localization
from timm_repair.models.block import Block
from timm_repair.runtime.runtime import Runtime
from timm_repair.training.history import Row
from timm_repair.training.options import Training


@dataclass(frozen=True)
class Outcome:
    """A repaired model and how it came about.

    Args:
        model: the model that was handed in, repaired in place.
        blocks: every block that was found.
        repaired: those that were repaired, the most suspicious first; empty for a repair of the
            whole network.
        genotypes: name of a repaired block to its architecture, without edges where the raw one was
            kept; empty for a method that does not look for one.
        notes: what the user should know, in sentences.
    """

    model: nn.Module
    blocks: tuple[Block, ...] = ()
    repaired: tuple[Block, ...] = ()
    localization: Localization | None = None
    genotypes: dict[str, Genotype] = field(default_factory=dict)
    history: list[Row] = field(default_factory=list)
    notes: tuple[str, ...] = ()

    @property
    def edits(self) -> list[dict]:
        """The changes of architecture as plain JSON, for `entry_point.apply_edits`; empty for a
        repair of weights alone.
        """
        changed = [
            block
            for block in self.repaired
            if block.name in self.genotypes and self.genotypes[block.name].changed
        ]
        return [
            {"paths": list(block.paths), "genotype": self.genotypes[block.name].to_dict()}
            for block in changed
        ]


class Method(Protocol):
    """What `pipeline.repair` asks of a method.

    Those in METHODS say besides where they come from, for the table of methods in docs/methods/:
    `paper: ClassVar[str]`, with authors, title, venue or year, and the arXiv id if there is one.
    """

    name: str
    training: Training

    def repair(self, model: nn.Module, data: RepairData, runtime: Runtime) -> Outcome:
        """Repair `model` in place (it is the pipeline's own copy), choosing on `data.selection`;
        `data.holdout` is out of bounds.
        """
        ...
