"""Training: how weights are changed by gradients.

For methods, yours too, this package promises the names below:
- tuning.py (`tune`): trains one part of a model and keeps its best state.
- recalibration.py (`recalibrate`): renews the statistics of batch norms.
- interpolation.py (`interpolate`): goes a share of the way from the original weights (WiSE-FT).
- objective.py (`objective`): what selection maximizes.
- options.py (`Training`): the options that all of them share.
- job.py (`Job`): model, data, training and runtime, which all of them take.

For a step of your own:
- loop.py (`fit`): the only loop; `Monitor` keeps the best state, checkpoints make it resumable.
- descent.py (`Descent`): gradient descent along one schedule.
- losses.py: the loss of a batch, and the pull towards the original.
- batches.py (`Batches`), populations.py (`Populations`): which examples come next, in which view.
- augmentations/: one file an augmentation, and the table of all.
- transforming/: how methods that train on changed images change them.
- consistency.py, worst.py: losses of such methods, for `tune`.
- prefix/: what arrives at the trained part, computed once.
- history.py (`Row`): what one step leaves.
"""

from timm_repair.training.interpolation import interpolate as interpolate
from timm_repair.training.job import Job as Job
from timm_repair.training.objective import objective as objective
from timm_repair.training.options import Training as Training
from timm_repair.training.recalibration import recalibrate as recalibrate
from timm_repair.training.tuning import tune as tune
