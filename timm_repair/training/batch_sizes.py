"""Batch sizes: what a batch norm cannot take is refused before any work."""

from math import prod

from torch import Tensor, nn

from timm_repair.errors import OptionError
from timm_repair.models.tracing import trace
from timm_repair.training.options import Training

REMEDY = "give batch_size=2 or more, or batch_norm='frozen'"


def require_enough(
    model: nn.Module, size: tuple[int, ...], training: Training, processes: int
) -> None:
    """Raise OptionError for batches of one example where a batch norm of `model` sees one position
    of it: of one number there is no variance.

    Args:
        size: (C, H, W) of an image.
    """
    if training.batch_size > processes or training.batch_norm == "frozen":
        return
    modules = dict(model.named_modules())
    for path, calls in trace(model, size).items():
        arrived = calls[0].inputs[0] if calls[0].inputs else None
        norm = isinstance(modules[path], nn.modules.batchnorm._BatchNorm)
        if norm and isinstance(arrived, Tensor) and prod(arrived.shape[2:]) == 1:
            raise OptionError(
                f"batch_size={training.batch_size}: the batch norm {path!r} sees one position of an"
                f" image, so one number a batch, which has no variance: {REMEDY}"
            )
