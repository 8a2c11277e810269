"""Interface: what arrives at a block and leaves it, seen on a trace: feature maps or tokens, with
what beside them, and whether that lets the block be repaired.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from timm_repair.models.cutting import Piece
from timm_repair.models.surgery import is_dense, is_layer
from timm_repair.models.tracing import Call, Trace, layout

UNCALLED = "never called as a module"
SEVERAL = "not one tensor in, one tensor out"
VECTORS = "vectors, not feature maps or tokens"


@dataclass(frozen=True)
class Interface:
    """What a piece takes and returns for one image.

    Args:
        in_shape, out_shape: see `Block`.
        layouts: of both, as `tracing.layout` says; "tokens" for (N, C), "vector" for (C,). Empty
            where one of them is not one tensor.
        convolutional: whether the first layer inside reads what arrives as (C, H, W).
        times: how often the piece is called.
        reason: why there are no shapes; "" if there are, or if the piece works on tokens, of which
            it may take or return several.
    """

    in_shape: tuple[int, ...] | None
    out_shape: tuple[int, ...] | None
    layouts: tuple[str, ...] = ()
    convolutional: bool = True
    times: int = 1
    reason: str = ""

    @property
    def maps(self) -> bool:
        """Whether one (C, H, W) map becomes another."""
        return set(self.layouts) == {"NCHW"}


def interface(piece: Piece, model: nn.Module, calls: Trace) -> Interface:
    """What `piece` takes and returns, by a trace of `model`."""
    made = [calls.get(path, []) for path in piece.paths]
    if not all(made):
        return Interface(None, None, reason=UNCALLED)
    times = max(map(len, made))
    arrived, left = made[0][0].inputs, [member[0].output for member in made]
    image = calls[""][0].inputs[0].shape[1:]
    otherwise = getattr(model, "output_fmt", "NCHW")
    if is_dense(model.get_submodule(piece.paths[0].rpartition(".")[0])):
        maps = [new for new in left if isinstance(new, Tensor)]
        if len(arrived) != 1 or len(maps) < len(left):
            return Interface(None, None, reason="not a list of tensors in, one tensor out")
        features = arrived[0] if isinstance(arrived[0], tuple) else (arrived[0],)
        shapes = _joined(features), _joined(maps)
    elif len(arrived) != 1 or not (isinstance(arrived[0], Tensor) and isinstance(left[-1], Tensor)):
        tokens = any(_is_tokens(x, image, otherwise) for x in _tensors((arrived, left[-1])))
        if not tokens:
            return Interface(None, None, reason=SEVERAL)
        return Interface(_of_one(arrived[0]), _of_one(left[-1]), times=times)
    else:
        shapes = tuple(arrived[0].shape[1:]), tuple(left[-1].shape[1:])
    layouts = tuple(_layout(shape, image, otherwise) for shape in shapes)
    first = reads_maps(piece.paths, model, calls, shapes[0])
    return Interface(*shapes, layouts, first, times)


def objection(found: Interface, by_hand: bool) -> str:
    """Why a piece that takes and returns `found` cannot be repaired; "" if it can."""
    if found.times > 1:
        return f"called {found.times} times in one forward pass"
    if "vector" in found.layouts:
        return VECTORS
    if not found.convolutional or "tokens" in found.layouts:
        return ""
    if "NHWC" in found.layouts:
        return "channels last, not first"
    # maps may be squeezed in one direction only; whoever names them knows
    return "tokens in groups, not feature maps" if "" in found.layouts and not by_hand else ""


def _layout(shape: Sequence[int], image: Sequence[int], otherwise: str) -> str:
    if len(shape) < 3:
        return "tokens" if len(shape) == 2 else "vector"
    return layout(tuple(shape), tuple(image), otherwise)


def _is_tokens(x: Tensor, image: Sequence[int], otherwise: str) -> bool:
    """Whether `x`, with a batch of one, is no (N, C, H, W) map, nor a table that all images
    share.
    """
    of_one = tuple(x.shape[1:])
    return x.ndim == 3 or (x.ndim == 4 and layout(of_one, tuple(image), otherwise) == "NHWC")


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _tensors(each)


def _of_one(value: Any) -> tuple[int, ...] | None:
    """The shape for one image, where the value is a tensor with a batch of one."""
    return tuple(value.shape[1:]) if isinstance(value, Tensor) and value.shape[:1] == (1,) else None


def _joined(features: Sequence[Tensor]) -> tuple[int, ...]:
    return (sum(feature.shape[1] for feature in features), *features[0].shape[2:])


def reads_maps(
    paths: Sequence[str], model: nn.Module, calls: Trace, shape: tuple[int, ...]
) -> bool:
    """Whether the first layer that is called in the modules at `paths` reads a tensor of this
    `shape` as (C, H, W): sides tell a map from tokens, but not where one of them was squeezed.
    """
    first: tuple[Call, nn.Module] | None = None
    for path in paths:
        for name, module in model.get_submodule(path).named_modules():
            called = calls.get(f"{path}.{name}".rstrip("."))
            if (
                called
                and next(module.parameters(recurse=False), None) is not None
                and is_layer(module)
                and (first is None or called[0].start < first[0].start)
            ):
                first = called[0], module
    if first is None:
        return True
    call, module = first
    arrived = call.inputs[0] if call.inputs else None
    if not isinstance(arrived, Tensor) or arrived.ndim != 4 or tuple(arrived.shape[1:]) != shape:
        return False
    # by the layer's own numbers: a convolution's filters, a norm's weights
    sizes = [tuple(weight.shape) for weight in module.parameters(recurse=False)]
    return any(len(size) == 4 for size in sizes) or (shape[:1] in sizes and shape[-1:] not in sizes)
