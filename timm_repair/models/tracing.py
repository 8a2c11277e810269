"""Tracing: one forward pass on the meta device tells shapes, order, data flow and FLOPs, and
computes nothing. A model that asks for values on its way (`if x.max() > 1`) is run for real.

The partition and the localization ask it what a model does, so that neither needs a table of model
families.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, count
from typing import Any

import torch
from accelerate.utils.memory import should_reduce_batch_size
from timm.data import resolve_data_config
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from timm_repair.errors import PartitionError
from timm_repair.models.description import description
from timm_repair.models.temporary import in_float32, plain_forward


@dataclass
class Call:
    """One call of one module during the trace.

    `start` and `end` count events over the whole pass; `inputs` and `output` are meta tensors (or
    lists of them), shapes for a batch of one. `arrived` and `left` identify the first input and the
    output as values: an in-place operation keeps the tensor but raises its version.
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

    The model is run as it is, with meta tensors in place of its parameters and buffers: weights,
    buffers, modes, hooks and device stay untouched, and a ResNet-50 takes a tenth of a second.
    Where it does not run on these, it is run for real, on its own device.

    Args:
        model: a timm model or any `nn.Module` that maps images to logits.
        input_size: (C, H, W) of an image; None takes it from the model's `pretrained_cfg`.

    Raises:
        PartitionError: the input size is unknown, or the model does not run with it.
    """
    sizes = _sizes(model) if input_size is None else [_checked(input_size)]
    if not sizes:
        raise PartitionError(
            "the model does not say how large its images are: set"
            " model.pretrained_cfg['input_size'] = (channels, height, width); to blocks() pass"
            " input_size=(C, H, W)"
        )
    refused = []
    for run in (_run, _run_for_real):
        for size in sizes:
            try:
                return _trace(model, size, run)
            except Exception as error:  # the model is somebody's: it may raise anything
                if should_reduce_batch_size(error):
                    raise
                refused.append((size, error))
    size, error = refused[-1]
    raise PartitionError(
        f"the model does not run on one image of {'x'.join(map(str, size))}"
        f" ({type(error).__name__}: {error!s:.300}); if it takes others, set"
        " model.pretrained_cfg['input_size'] = (channels, height, width); to blocks() pass"
        " input_size=(C, H, W)"
    ) from error


def input_size(model: nn.Module) -> tuple[int, ...]:
    """(C, H, W) of the images that the model takes, as far as it tells; timm's default size where
    it does not.
    """
    sizes = _sizes(model, default=True)
    for run in (_run, _run_for_real) if len(sizes) > 1 else ():
        for size in sizes:
            try:
                with torch.no_grad(), plain_forward(model):
                    run(model, size)
                return size
            except Exception as error:  # as above
                if should_reduce_batch_size(error):
                    raise
    return sizes[-1]


def layout(shape: tuple[int, ...], image: tuple[int, ...], otherwise: str = "NCHW") -> str:
    """How a tensor of `shape` (one image's, without the batch) lies: "NCHW", "NHWC", or "" where it
    is no map.

    The sides of a map relate to each other as those of the `image` (C, H, W) do, those of other
    dimensions do not. If both readings fit, as for (14, 14, 14), `otherwise` is taken.
    """
    height, width = image[1:]
    slack = 2 * max(height, width) if height != width else 0  # maps of a square image are square

    def fits(sides: tuple[int, ...]) -> bool:
        return len(shape) == 3 and abs(sides[0] * width - sides[1] * height) <= slack

    readings = {"NCHW": fits(shape[1:]), "NHWC": fits(shape[:2])}
    if all(readings.values()):
        return otherwise
    return next((name for name, fit in readings.items() if fit), "")


def _trace(model: nn.Module, size: tuple[int, ...], run: Callable) -> Trace:
    calls: Trace = {}
    counter = _Flops()
    with (
        torch.inference_mode(False),
        torch.no_grad(),
        plain_forward(model),
        _recording(model, calls, counter),
        counter,
    ):
        run(model, size)
    for call in chain.from_iterable(calls.values()):  # a real pass leaves real maps
        call.inputs, call.output = _shapes(call.inputs), _shapes(call.output)
    return calls


def _run(model: nn.Module, size: tuple[int, ...]) -> None:
    # Each tensor once where it hangs: torch ties by name, and where a whole module hangs in several
    # places (CoaT's position encodings) would not give it back its own
    hanging = {
        f"{path}.{name}".lstrip("."): tensor
        for path, module in model.named_modules()
        for name, tensor in chain(module._parameters.items(), module._buffers.items())
        if tensor is not None
    }
    empty = {id(tensor): torch.empty_like(tensor, device="meta") for tensor in hanging.values()}
    meta = {name: empty[id(tensor)] for name, tensor in hanging.items()}
    image = torch.empty(1, *size, device="meta", dtype=_float_dtype(model))
    functional_call(model, meta, image, tie_weights=False)


def _run_for_real(model: nn.Module, size: tuple[int, ...]) -> None:
    home = next(model.parameters(), torch.zeros(())).device
    if home.type == "meta":
        raise PartitionError("the model holds no weights, and asks for values on its way")
    with in_float32(model):
        # noise: a model that looks at the values finds some
        generator = torch.Generator().manual_seed(0)
        image = torch.randn(1, *size, generator=generator, dtype=torch.float32, device="cpu")
        model(image.to(home))


def _shapes(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value if value.device.type == "meta" else torch.empty_like(value, device="meta")
    return type(value)(map(_shapes, value)) if type(value) in (list, tuple) else value


def _checked(size: tuple[int, ...]) -> tuple[int, ...]:
    size = tuple(size)
    if len(size) not in (1, 3) or any(not isinstance(side, int) or side < 1 for side in size):
        raise PartitionError(
            "input_size must be (channels, height, width), for example (3, 224, 224), or (numbers,)"
            f" where inputs are no images, not {size!r}"
        )
    return size


def _sizes(model: nn.Module, default: bool = False) -> list[tuple[int, int, int]]:
    """(C, H, W) of one image, the likeliest first; none where the model has neither a
    `pretrained_cfg` nor an `img_size`, except by `default`.

    The channels are told by three, which need not agree: the first convolution (a TResNet's takes
    48, of images of 3), timm's `in_chans`, and `pretrained_cfg` (a model made with in_chans=1 has
    the 3 of its pretrained weights there).
    """
    config = description(model)
    told_sides = _img_size(model)
    if not config and told_sides is None and not default:
        return []
    channels, *sides = resolve_data_config(pretrained_cfg={"input_size": None} | config)[
        "input_size"
    ]
    if not config.get("input_size") and told_sides is not None:
        sides = told_sides
    named = config.get("first_conv")
    # csatv2 has an empty list
    named = next(iter(named), None) if isinstance(named, tuple | list) else named
    modules = dict(model.named_modules())
    convolutions = (module for module in modules.values() if isinstance(module, nn.Conv2d))
    first = modules[named] if named in modules else next(convolutions, None)
    convolution, said = getattr(first, "in_channels", None), getattr(model, "in_chans", None)
    told = [convolution] if convolution == said else [convolution, said, channels]
    counts = [count for count in dict.fromkeys(told) if isinstance(count, int) and count > 0]
    # a transformer made with img_size= has that of its pretrained weights in its pretrained_cfg
    lengths = dict.fromkeys(((sides[0], sides[1]), told_sides or (sides[0], sides[1])))
    return [(count, h, w) for h, w in lengths for count in counts or [channels]]


def _img_size(model: nn.Module) -> tuple[int, int] | None:
    """(H, W) by the attribute `img_size` of the model, or of the first module inside that has
    one.
    """
    for module in model.modules():
        size = getattr(module, "img_size", None)
        size = (size, size) if isinstance(size, int) else size
        if (
            isinstance(size, tuple | list)
            and len(size) == 2
            and all(isinstance(side, int) and side > 0 for side in size)
        ):
            return (size[0], size[1])
    return None


def _float_dtype(model: nn.Module) -> torch.dtype:
    dtypes = [parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()]
    return dtypes[0] if dtypes else torch.float32


class _Flops(TorchDispatchMode):
    """FLOPs so far, by torch's formulas.

    torch's own FlopCounterMode takes every norm apart as well, which doubles the time of a trace.
    """

    def __init__(self):
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        output = function(*arguments, **(options or {}))
        formula = flop_registry.get(function._overloadpacket)
        if formula:
            self.total += formula(*arguments, **(options or {}), out_val=output)
        return output


@contextmanager
def _recording(model: nn.Module, calls: Trace, counter: _Flops) -> Iterator[None]:
    clock = count()

    def enter(path: str):
        def hook(module: nn.Module, arguments: tuple, options: dict) -> None:
            # a copy: timm's DenseBlock appends to the very list that it passes to its layers
            inputs = tuple(
                tuple(x) if isinstance(x, list | tuple) else x
                for x in (*arguments, *options.values())
            )
            arrived = _identity(inputs[0]) if inputs else None
            calls.setdefault(path, []).append(Call(next(clock), inputs, arrived, counter.total))

        return hook

    def leave(path: str):
        def hook(module: nn.Module, arguments: tuple, output) -> None:
            call = calls[path][-1]
            call.end, call.output, call.left = next(clock), output, _identity(output)
            call.flops = counter.total - call.flops

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
