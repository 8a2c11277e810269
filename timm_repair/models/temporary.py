"""Temporary changes of a model: modes, what is trained, hooks. All come to an end with the `with`
block, also after an error.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from timm_repair.errors import OptionError, PartitionError, did_you_mean


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put every module into evaluation mode; each gets its own mode back (`model.train(was)` would
    make them all alike).
    """
    modes = {module: module.training for module in model.modules()}
    try:
        model.eval()
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def evaluating_on(model: nn.Module, device: torch.device) -> Iterator[None]:
    """`model` in eval mode on `device`; afterwards every module has its own mode and the model its
    device again.

    A model spread over several devices stays where it is.
    """
    homes = {tensor.device for tensor in (*model.parameters(), *model.buffers())}
    home = homes.pop() if len(homes) == 1 else None
    # "cpu" and "cpu:0", as several processes call it, are one place
    moves = home is not None and home != device and {home.type, device.type} != {"cpu"}
    try:
        if moves:
            model.to(device)
        with evaluating(model):
            yield
    finally:
        if moves:
            model.to(home)


@contextmanager
def plain_forward(model: nn.Module) -> Iterator[None]:
    """`model` in eval mode and without activation checkpointing, which calls the parts of a stage
    and not the stage. Afterwards it is as it was, tensors included that a forward pass leaves as
    attributes of its modules (as weight norm does).
    """
    checkpointing = [
        (module, name)
        for module in model.modules()
        for name in ("grad_checkpointing", "gradient_checkpointing")
        if vars(module).get(name) is True
    ]
    left = [
        (vars(module), name, value)
        for module in model.modules()
        for name, value in vars(module).items()
        if isinstance(value, torch.Tensor)
    ]
    try:
        for module, name in checkpointing:
            setattr(module, name, False)
        with evaluating(model):
            yield
    finally:
        for module, name in checkpointing:
            setattr(module, name, True)
        for attributes, name, value in left:
            attributes[name] = value


@contextmanager
def in_float32(model: nn.Module) -> Iterator[None]:
    """`model` with all floating-point numbers in float32, so that images in float32 pass through;
    afterwards it has its own tensors again, to the bit.
    """
    changed = [
        (tensor, tensor.data)
        for tensor in (*model.parameters(), *model.buffers())
        if tensor.is_floating_point() and tensor.dtype != torch.float32
    ]
    try:
        for tensor, data in changed:
            tensor.data = data.float()
        yield
    finally:
        for tensor, data in changed:
            tensor.data = data


@contextmanager
def training_mode(
    model: nn.Module, part: nn.Module, *, batch_norm: str = "train"
) -> Iterator[None]:
    """`part` in training mode and every other module in eval mode: statistics that moved elsewhere
    would be a hidden repair.
    """
    with evaluating(model):
        part.train()
        for module in part.modules() if batch_norm == "frozen" else ():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        yield


@contextmanager
def only_trainable(model: nn.Module, names: Iterable[str]) -> Iterator[None]:
    """Let exactly the parameters called `names` require a gradient.

    Raises:
        OptionError: a name is not one of the model's parameters.
    """
    parameters = dict(model.named_parameters())
    wanted = set(names)
    unknown = sorted(wanted - parameters.keys())
    if unknown:
        raise OptionError(
            f"no parameter {', '.join(map(repr, unknown))} in the model; see"
            " model.named_parameters()"
        )
    before = {parameter: parameter.requires_grad for parameter in parameters.values()}
    try:
        for name, parameter in parameters.items():
            # one of integers can require none
            parameter.requires_grad_(name in wanted and parameter.is_floating_point())
        yield
    finally:
        for parameter, required in before.items():
            parameter.requires_grad_(required)


@contextmanager
def only_channels(model: nn.Module, channels: Mapping[str, Sequence[int]]) -> Iterator[None]:
    """Let the own parameters of the modules at these paths require a gradient, and all others not;
    of each, a gradient reaches only the output channels named.

    Raises:
        PartitionError: a path is not in the model.
    """
    modules = {path: _submodule(model, path) for path in channels}
    own = {
        path: [name for name, _ in module.named_parameters(prefix=path, recurse=False)]
        for path, module in modules.items()
    }
    handles = []
    with only_trainable(model, [name for names in own.values() for name in names]):
        try:
            for path, module in modules.items():
                for parameter in module.parameters(recurse=False):
                    mask = torch.zeros_like(parameter, requires_grad=False)
                    mask[list(channels[path])] = 1
                    handles.append(parameter.register_hook(mask.mul))
            yield
        finally:
            for handle in handles:
                handle.remove()


@contextmanager
def capture(
    model: nn.Module, functions: Mapping[str, Callable[[nn.Module, tuple, Any], Any]]
) -> Iterator[None]:
    """Call `functions[path](module, inputs, output)` after each forward pass of the module at
    `path`.

    What a function returns is dropped: a forward hook that returned it would replace the output.
    Reduce the output at once rather than keep it: in-place activations overwrite it later.

    Raises:
        PartitionError: a path is not in the model.
    """
    handles = []
    try:
        for path, function in functions.items():
            handles.append(_submodule(model, path).register_forward_hook(_silent(function)))
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def capture_inputs(
    model: nn.Module, functions: Mapping[str, Callable[[nn.Module, tuple], Any]]
) -> Iterator[None]:
    """Like `capture`, but call `functions[path](module, inputs)` before each forward pass.

    Raises:
        PartitionError: a path is not in the model.
    """
    handles = []
    try:
        for path, function in functions.items():
            handles.append(_submodule(model, path).register_forward_pre_hook(_silent(function)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _silent(function: Callable) -> Callable:
    def hook(*arguments) -> None:
        function(*arguments)

    return hook


def _submodule(model: nn.Module, path: str) -> nn.Module:
    try:
        return model.get_submodule(path)
    except AttributeError as error:
        known = [name for name, _ in model.named_children()]
        raise PartitionError(
            f"no module {path!r} in the model{did_you_mean(path, known)}"
        ) from error
