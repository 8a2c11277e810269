"""Tracing: one forward pass on the meta device tells shapes, order, data flow and FLOPs, and computes nothing.

The partition and the localization ask it what a model does, so that neither needs a table of model families.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, count

import torch
from timm.data import resolve_model_data_config
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from timm_repair.errors import PartitionError
from timm_repair.surgery import evaluating


@dataclass
class Call:
    """One call of one module during the trace.

    `start` and `end` count events over the whole pass; `inputs` and `output` are meta tensors (or lists of them),
    shapes for a batch of one. `arrived` and `left` identify the first input and the output as values: an in-place
    operation keeps the tensor but raises its version.
    """

    start: int
    inputs: tuple
    arrived: tuple[int, int] | None
    flops: int
    end: int = -1
    output: object = None
    left: tuple[int, int] | None = None


Trace = dict[str, list[Call]]


def trace(model: nn.Module, input_size: tuple[int, ...] | None = None) -> Trace:
    """Every call of every module in one forward pass of one image, by module path.

    The model is run as it is, with meta tensors in place of its parameters and buffers: weights, buffers, modes, hooks
    and device stay untouched, and a ResNet-50 takes a tenth of a second.

    Args:
        model: a timm model or any `nn.Module` that maps images to logits.
        input_size: (C, H, W) of an image; None takes it from the model's `pretrained_cfg`.

    Raises:
        PartitionError: the input size is unknown, or the model does not run with it.
    """
    refused = []
    for size in _sizes(model, input_size):
        try:
            return _trace(model, size)
        except (RuntimeError, ValueError, TypeError, AssertionError) as error:
            refused.append((size, error))
    size, error = refused[-1]
    raise PartitionError(
        f"the model does not run on one image of {'x'.join(map(str, size))} ({type(error).__name__}: {error}); "
        "pass input_size=(C, H, W)"
    ) from error


def _trace(model: nn.Module, size: tuple[int, ...]) -> Trace:
    meta = {
        name: torch.empty_like(tensor, device="meta")
        for name, tensor in chain(model.named_parameters(), model.named_buffers())
    }
    calls: Trace = {}
    counter = FlopCounterMode(display=False)
    with evaluating(model), _recording(model, calls, counter), torch.no_grad(), counter:
        functional_call(model, meta, torch.empty(1, *size, device="meta", dtype=_float_dtype(model)))
    return calls


def _sizes(model: nn.Module, input_size: tuple[int, ...] | None) -> list[tuple[int, ...]]:
    """(C, H, W) of one image, the likeliest first: the argument, or what timm's `pretrained_cfg` of the model says."""
    if input_size is not None:
        size = tuple(input_size)
        if len(size) != 3 or any(not isinstance(side, int) or side < 1 for side in size):
            raise PartitionError(
                f"input_size must be (channels, height, width), for example (3, 224, 224), not {input_size!r}"
            )
        return [size]
    config = getattr(model, "pretrained_cfg", None)
    if not config:
        raise PartitionError("the model does not say how large its images are; pass input_size=(C, H, W)")
    size = tuple(resolve_model_data_config(model)["input_size"])
    # a model made with in_chans=1 has the 3 of its pretrained weights there; a TResNet's first convolution takes 48 for
    # 3
    layer = dict(model.named_modules()).get(str(config.get("first_conv")))
    own = (layer.in_channels, *size[1:]) if isinstance(layer, nn.Conv2d) else size
    return [own, size] if own != size else [size]


def _float_dtype(model: nn.Module) -> torch.dtype:
    dtypes = [parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()]
    return dtypes[0] if dtypes else torch.float32


@contextmanager
def _recording(model: nn.Module, calls: Trace, counter: FlopCounterMode) -> Iterator[None]:
    clock = count()

    def enter(path: str):
        def hook(module: nn.Module, arguments: tuple, options: dict) -> None:
            # a copy: timm's DenseBlock appends to the very list that it passes to its layers
            inputs = tuple(tuple(x) if isinstance(x, list | tuple) else x for x in (*arguments, *options.values()))
            arrived = _identity(inputs[0]) if inputs else None
            calls.setdefault(path, []).append(Call(next(clock), inputs, arrived, counter.get_total_flops()))

        return hook

    def leave(path: str):
        def hook(module: nn.Module, arguments: tuple, output) -> None:
            call = calls[path][-1]
            call.end, call.output, call.left = next(clock), output, _identity(output)
            call.flops = counter.get_total_flops() - call.flops

        return hook

    handles = []
    try:
        for path, module in model.named_modules():
            handles.append(module.register_forward_pre_hook(enter(path), with_kwargs=True))
            handles.append(module.register_forward_hook(leave(path)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _identity(value) -> tuple[int, int] | None:
    # the trace keeps every tensor, so no two of them share an id
    return (id(value), value._version) if isinstance(value, Tensor) else None
