"""Wrapping: the model itself, out of what it was put into: data-parallel wrappers, torch.compile,
and any module that only hands images on to it and its logits back (transformers' wrapper of a timm
model, PEFT, a training framework's module).
"""

import torch
from torch import nn

from timm_repair.errors import ModelError, RepairError
from timm_repair.models.answering import logits, made_up
from timm_repair.models.description import described_inside, describes_itself
from timm_repair.models.tracing import input_size


def unwrapped(model: nn.Module) -> nn.Module:
    """The model itself: the one module inside that describes itself, if it holds all parameters and
    answers exactly as the whole does.

    What computes something of its own, holds several models, or describes itself is no wrapper and
    is returned as it is.

    Raises:
        ModelError: it is nothing that can be taken apart.
    """
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"model is a {type(model).__name__}: give a timm name, 'hf-hub:user/name',"
            " 'local-dir:folder', a path of such a folder, or a torch.nn.Module"
        )
    while (inner := _out_of_known(model)) is not model:
        model = inner
    if isinstance(model, torch.jit.ScriptModule):
        raise ModelError(
            "the model is TorchScript, which cannot be taken apart: give the torch.nn.Module that"
            " it was made of"
        )
    if describes_itself(model):
        return model
    inside = described_inside(model)
    if len(inside) != 1:
        return model
    (inner,) = inside.values()
    held = {id(parameter) for parameter in inner.parameters()}
    if any(id(parameter) not in held for parameter in model.parameters()):
        return model
    return inner if _answers_alike(model, inner) else model


def _out_of_known(model: nn.Module) -> nn.Module:
    # one at a time; accelerate 1.7 does not see what is compiled inside of another wrapper
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return model.module
    compiled = getattr(model, "_orig_mod", None)
    return compiled if isinstance(compiled, nn.Module) else model


def _answers_alike(model: nn.Module, inner: nn.Module) -> bool:
    try:
        images = made_up(input_size(inner), inner)
        return torch.equal(logits(model, images), logits(inner, images))
    except RepairError:
        return False
