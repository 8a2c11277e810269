"""timm_repair: repair trained timm image classifiers at the level of blocks, and report honestly
what was fixed and what was broken.

Importing it registers one timm entry point, `timm_repaired`, so that `timm.create_model` can load
repaired models; nothing else changes. All errors are in `timm_repair.errors`.
"""

# find failures
from timm_repair.images.corruptions.corrupting import corrupt as corrupt
from timm_repair.images.corruptions.parameters import CORRUPTIONS as CORRUPTIONS
from timm_repair.images.sources import as_images as as_images
from timm_repair.pipeline.inspecting import collect_failures as collect_failures

# ask a model
from timm_repair.diagnosis.diagnosis import Diagnosis as Diagnosis
from timm_repair.localization.localization import Localization as Localization
from timm_repair.models.block import Block as Block
from timm_repair.pipeline.inspecting import blocks as blocks
from timm_repair.pipeline.inspecting import diagnose as diagnose
from timm_repair.pipeline.inspecting import localize as localize

# repair it
from timm_repair.architecture.genotype import Edge as Edge
from timm_repair.architecture.genotype import Genotype as Genotype
from timm_repair.architecture.genotype import Node as Node
from timm_repair.data.options import DataOptions as DataOptions
from timm_repair.pipeline.comparing import compare as compare
from timm_repair.pipeline.repaired import Repaired as Repaired
from timm_repair.pipeline.repairing import repair as repair
from timm_repair.properties.property import Property as Property
from timm_repair.properties.sampling import Sampling as Sampling

# what came of it
from timm_repair.pipeline.shelf import read_comparison as read_comparison
from timm_repair.report.comparison import Comparison as Comparison
from timm_repair.report.report import Report as Report
from timm_repair.report.scores import Scores as Scores
from timm_repair.report.tasks import Tasks as Tasks

# save, share, load
from timm_repair.hub.entry_point import apply_edits as apply_edits
from timm_repair.hub.exporting import export as export
from timm_repair.hub.lineage import revert as revert
from timm_repair.hub.loading import from_pretrained as from_pretrained
from timm_repair.hub.pushing import push_to_hub as push_to_hub
from timm_repair.hub.pushing import save_pretrained as save_pretrained

# go wrong
from timm_repair.errors import NoEffectWarning as NoEffectWarning
from timm_repair.errors import RepairError as RepairError

__version__ = "0.1.0"
