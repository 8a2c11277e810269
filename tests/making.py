"""What tests of single parts make for themselves: a quiet runtime, and data of a repair from two
lists of examples.
"""

from collections.abc import Callable
from itertools import count

import pytest
from torch import nn

from timm_repair.data.repair_data import RepairData
from timm_repair.images.preprocessing import Preprocessing
from timm_repair.images.sources import as_images
from timm_repair.runtime.runtime import Runtime
from timm_repair.training import tuning
from timm_repair.training.loop import Monitor


def quiet(**options) -> Runtime:
    """A runtime without progress bars. Options are those of Runtime."""
    return Runtime(progress=False, **options)


def repair_data(model: nn.Module, failing: list, retained: list | None) -> RepairData:
    """(image, label) pairs as the data of a repair, without what the model answers to them."""
    images = [
        None if examples is None else as_images(examples, model) for examples in (failing, retained)
    ]
    return RepairData(*images, {}, {}, Preprocessing.of(model), 10, None, None, {})


def keep_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training keeps the state that it ends in, whatever the selection split says: where a few
    steps need not bring anything, and what is tested is that they were made.
    """

    class Last(Monitor):
        def __init__(self, part: nn.Module, objective: Callable, *rest):
            super().__init__(part, count().__next__, *rest)

    monkeypatch.setattr(tuning, "Monitor", Last)
    monkeypatch.setattr(tuning, "interpolate", lambda *_, **__: 1.0)
