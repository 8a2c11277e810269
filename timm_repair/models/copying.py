"""Copying: a model of our own to work on, and back to the kinds of numbers that the user's has.

A repair computes in float32. Every number of another precision comes back as it was: to the bit
where the repair did not change it, else rounded to its kind.
"""

from collections import Counter
from collections.abc import Iterator
from copy import deepcopy
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from timm_repair.errors import ModelError

Module = TypeVar("Module", bound=nn.Module)


def copied(model: Module) -> Module:
    """A copy of `model`, tensors included that are results of others (which old-style weight norm
    leaves on its modules, and `deepcopy` refuses).

    Raises:
        ModelError: it cannot be copied.
    """
    memo: dict[int, Any] = {
        id(tensor): tensor.detach().clone()
        for module in model.modules()
        for tensor in _tensors(vars(module))
        if not tensor.is_leaf
    }
    try:
        copy = deepcopy(model, memo)
    except Exception as error:  # whatever its modules' own copying raises
        raise ModelError(
            f"the model cannot be copied ({type(error).__name__}: {error!s:.200}), and a repair"
            " works on a copy: remove what cannot be from its modules (open files, locks, old"
            " torch.nn.utils hooks; torch.nn.utils.parametrizations can be copied)"
        ) from error
    _require_own(model, copy)
    return copy


def _require_own(model: nn.Module, copy: nn.Module) -> None:
    """Raise ModelError where a repair of `copy` would be one of `model`: it shares parameters, or
    its forward is a function that holds the original.
    """
    why = "a repair works on a copy, and must not change yours"
    ours = {id(parameter) for parameter in model.parameters()}
    if shared := [name for name, p in copy.named_parameters() if id(p) in ours]:
        raise ModelError(
            f"the model's copy shares {len(shared)} parameters with it ({shared[0]}), and {why}:"
            " remove __deepcopy__ from its modules"
        )
    modules = set(model.modules())
    for path, module in copy.named_modules():
        forward = vars(module).get("forward")
        cells = getattr(forward, "__closure__", None) or ()
        held = [cell.cell_contents for cell in cells if _filled(cell)]
        named = getattr(getattr(forward, "__code__", None), "co_names", ())
        around = getattr(forward, "__globals__", {})
        held += [around[name] for name in named if name in around]
        held.append(getattr(forward, "__self__", None))
        if any(isinstance(value, nn.Module) and value in modules for value in held):
            raise ModelError(
                f"forward of {path or 'the model'} was replaced by a function that calls the model"
                f" itself, so its copy still computes with yours, and {why}: define forward in a"
                " class, or set it with types.MethodType"
            )


def _filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018  an empty one raises
    except ValueError:
        return False
    return True


def _tensors(values: Any) -> Iterator[Tensor]:
    """Tensors in the attributes of a module, inside plain containers too."""
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, dict):
        for value in values.values():
            yield from _tensors(value)
    elif isinstance(values, list | tuple):
        for value in values:
            yield from _tensors(value)


def require_real(model: nn.Module) -> None:
    """Raise ModelError, with its name, for a parameter that a repair cannot train or would lose a
    part of.
    """
    for name, parameter in model.named_parameters():
        if is_lazy(parameter):
            raise ModelError(f"parameter {name!r} has no shape yet: run the model once on an image")
        if parameter.is_complex():
            raise ModelError(
                f"parameter {name!r} is {str(parameter.dtype).removeprefix('torch.')}, and a repair"
                " computes in real numbers: keep it as real ones (torch.view_as_real) and make the"
                " complex tensor in the forward pass (torch.view_as_complex)"
            )


def in_working_form(
    model: Module, device: torch.device, memory_format: torch.memory_format
) -> Module:
    """`model` itself, on `device`, with all floating-point numbers in float32 and its maps' filters
    in this memory format. Integers and complex buffers stay what they are.
    """
    model.to(device)
    for tensor in (*model.parameters(), *model.buffers()):
        data = tensor.data
        if data.is_floating_point():
            data = data.to(torch.float32)
        tensor.data = data.contiguous(memory_format=memory_format) if data.ndim == 4 else data
    return model


@torch.no_grad()
def as_given(model: nn.Module, original: nn.Module) -> None:
    """Give every tensor of `model`, a repaired copy in working form, the kind of number it has in
    `original`; what was added gets the kind that most parameters have there.
    """
    before = dict((*original.named_parameters(), *original.named_buffers()))
    kinds = Counter(p.dtype for p in original.parameters() if p.is_floating_point())
    usual = kinds.most_common(1)[0][0] if kinds else torch.float32
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        given = before.get(name)
        if given is None:
            if tensor.is_floating_point():
                tensor.data = tensor.data.to(usual)
        elif given.dtype != tensor.dtype and given.shape == tensor.shape:
            kept = given.detach().to(tensor.device)
            unchanged = torch.equal(kept.to(tensor.dtype), tensor.data)
            tensor.data = kept.clone() if unchanged else tensor.data.to(given.dtype)
