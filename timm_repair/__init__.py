"""timm_repair: repair trained timm image classifiers at the level of blocks, and report honestly
what was fixed and what was broken.

Importing it registers one timm entry point, `timm_repaired`, so that `timm.create_model` can load
repaired models; nothing else changes.
"""

from timm_repair.corruptions import CORRUPTIONS, corrupt
from timm_repair.data import DataOptions, collect_failures
from timm_repair.errors import (
    ConfigError,
    DataError,
    HubError,
    LabelError,
    MemoryExceededError,
    ModelError,
    NoEffectWarning,
    NoFailuresError,
    NonFiniteError,
    OptionError,
    OutputError,
    PartitionError,
    RepairError,
)
from timm_repair.exporting import export
from timm_repair.hub import apply_edits, from_pretrained
from timm_repair.lineage import revert
from timm_repair.localization import Localization
from timm_repair.partition import Block, blocks
from timm_repair.pipeline import Repaired, compare, localize, repair
from timm_repair.pushing import push_to_hub, save_pretrained
from timm_repair.report import Comparison, Report, Scores
from timm_repair.sources import as_images
from timm_repair.space import Edge, Genotype, Node

__version__ = "0.1.0"

__all__ = [
    "Block",
    "CORRUPTIONS",
    "Comparison",
    "ConfigError",
    "DataError",
    "DataOptions",
    "Edge",
    "Genotype",
    "HubError",
    "LabelError",
    "Localization",
    "MemoryExceededError",
    "ModelError",
    "NoEffectWarning",
    "NoFailuresError",
    "Node",
    "NonFiniteError",
    "OptionError",
    "OutputError",
    "PartitionError",
    "RepairError",
    "Repaired",
    "Report",
    "Scores",
    "apply_edits",
    "as_images",
    "blocks",
    "collect_failures",
    "compare",
    "corrupt",
    "export",
    "from_pretrained",
    "localize",
    "push_to_hub",
    "repair",
    "revert",
    "save_pretrained",
]
