"""A model whose last block is entered from what was kept, for the tests of the prefix cache."""

from dataclasses import replace

import planted
from cases import BUDGET
from making import repair_data
from torch import nn

from timm_repair.models.partition import blocks
from timm_repair.models.weights import part_of
from timm_repair.training.options import Training
from timm_repair.training.prefix.forward import Forward, forward_from

AUGMENTED = {"hflip": 0.5, "shift": 0.1, "views": 2, "cache": "always"}


def prepared(model: nn.Module):
    """Data of a repair, with labels of any kind: what is looked at is what the model is given and
    what it makes of it.
    """
    everything = planted.pictures(120)
    halves = (everything[:60], everything[60:])
    training, choosing = (
        repair_data(model, planted.mislabelled(model, half[:20]), half[20:]) for half in halves
    )
    return replace(training, selection={"failing": choosing.failing, "retained": choosing.retained})


def options(**given) -> Training:
    return Training(**BUDGET | AUGMENTED | given)


def last_block(model: nn.Module):
    return [block for block in blocks(model) if block.repairable][-1]


def cached(model, data, runtime, block=None, **given) -> Forward:
    return forward_from(
        model, part_of(model, block or last_block(model)), data, options(**given), runtime
    )
