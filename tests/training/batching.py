"""Batches of few options, and a model's answers from the images, for the tests of training."""

from dataclasses import replace

from cases import BUDGET

from timm_repair.training.batches import Batches
from timm_repair.training.job import Job
from timm_repair.training.options import Training
from timm_repair.training.prefix.forward import Forward

PLAIN = Training(**BUDGET)


def batches(data, runtime, *, retained=True, purpose="test", **options) -> Batches:
    return Batches(
        data if retained else replace(data, retained=None),
        replace(PLAIN, **options),
        runtime,
        purpose,
    )


def plain(model, data, runtime) -> Forward:
    """The model's answers from the images."""
    return Job(model, data, PLAIN, runtime).forward()
