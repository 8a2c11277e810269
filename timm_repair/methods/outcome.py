"""Outcome: what a method hands back to the pipeline."""

from dataclasses import dataclass, field

from torch import nn

from timm_repair.localization import Localization
from timm_repair.partition import Block
from timm_repair.space import Genotype
from timm_repair.training import Row


@dataclass(frozen=True)
class Outcome:
    """A repaired model and how it came about.

    Args:
        model: the model that was handed in, repaired in place.
        block: the block that was repaired; None for a repair of the whole network.
        genotype: its architecture, without edges where the raw one was kept; None for a method that does not look for one.
        notes: what the user should know, in sentences.
    """

    model: nn.Module
    blocks: tuple[Block, ...] = ()
    block: Block | None = None
    localization: Localization | None = None
    genotype: Genotype | None = None
    history: list[Row] = field(default_factory=list)
    notes: tuple[str, ...] = ()

    @property
    def edits(self) -> list[dict]:
        """The changes of architecture as plain JSON, for `hub.apply_edits`; empty for a repair of weights alone."""
        if self.genotype is None or not self.genotype.edges:
            return []
        return [{"paths": list(self.block.paths), "genotype": self.genotype.to_dict()}]
