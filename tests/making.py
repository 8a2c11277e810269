"""What tests of single parts make for themselves: a quiet runtime, and data of a repair from two
lists of examples.
"""

from torch import nn

from timm_repair.data.repair_data import RepairData
from timm_repair.images.preprocessing import Preprocessing
from timm_repair.images.sources import as_images
from timm_repair.runtime.runtime import Runtime


def quiet(**options) -> Runtime:
    """A runtime without progress bars. Options are those of Runtime."""
    return Runtime(progress=False, **options)


def repair_data(model: nn.Module, failing: list, retained: list | None) -> RepairData:
    """(image, label) pairs as the data of a repair, without what the model answers to them."""
    images = [
        None if examples is None else as_images(examples, model) for examples in (failing, retained)
    ]
    return RepairData(*images, {}, {}, Preprocessing.of(model), 10, None, None, {})
