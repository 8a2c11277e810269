"""What `timm_repair` has, for type checkers and editors, and for `lazy_loader`: a name is imported
when it is first asked for.
"""

# find failures
from .images.corruptions.corrupting import corrupt as corrupt
from .images.corruptions.parameters import CORRUPTIONS as CORRUPTIONS
from .images.sources import as_images as as_images
from .pipeline.inspecting import collect_failures as collect_failures

# ask a model
from .diagnosis.diagnosis import Diagnosis as Diagnosis
from .localization.localization import Localization as Localization
from .models.block import Block as Block
from .report.evaluation import Evaluation as Evaluation
from .pipeline.inspecting import blocks as blocks
from .pipeline.inspecting import diagnose as diagnose
from .pipeline.inspecting import evaluate as evaluate
from .pipeline.inspecting import localize as localize

# repair it
from .architecture.genotype import Edge as Edge
from .architecture.genotype import Genotype as Genotype
from .architecture.genotype import Node as Node
from .data.options import DataOptions as DataOptions
from .pipeline.comparing import compare as compare
from .pipeline.estimating import estimate as estimate
from .pipeline.repaired import Repaired as Repaired
from .pipeline.repairing import repair as repair
from .properties.property import Property as Property
from .properties.sampling import Sampling as Sampling
from .report.estimate import Estimate as Estimate

# what came of it
from .pipeline.shelf import read_comparison as read_comparison
from .report.comparison import Comparison as Comparison
from .report.report import Report as Report
from .report.scores import Scores as Scores
from .report.tasks import Tasks as Tasks

# save, share, load
from .hub.entry_point import apply_edits as apply_edits
from .hub.exporting import export as export
from .hub.lineage import revert as revert
from .hub.loading import from_pretrained as from_pretrained
from .hub.pushing import push_to_hub as push_to_hub
from .hub.pushing import save_pretrained as save_pretrained

# go wrong
from .errors import NoEffectWarning as NoEffectWarning
from .errors import RepairError as RepairError

# by stage: the modules, map.md says what is where
from . import architecture as architecture
from . import data as data
from . import diagnosis as diagnosis
from . import errors as errors
from . import gradient_free as gradient_free
from . import hub as hub
from . import images as images
from . import localization as localization
from . import methods as methods
from . import models as models
from . import options as options
from . import pipeline as pipeline
from . import properties as properties
from . import report as report
from . import runtime as runtime
from . import training as training

__version__: str
