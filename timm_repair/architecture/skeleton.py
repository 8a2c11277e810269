"""Skeleton: a block's operation layers, and the edges there may be between them."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from timm_repair.architecture.cell import AddedPaths, Anchored
from timm_repair.architecture.genotype import LEVELS, Edge, Genotype, Node, with_operations
from timm_repair.errors import OptionError, PartitionError, did_you_mean
from timm_repair.models.tracing import Trace, layout, trace
from timm_repair.runtime.runtime import Runtime


def skeleton_of(
    raw: nn.Module,
    in_shape: tuple[int, int, int],
    *,
    level: str = "unit",
    partial: int = 4,
    max_span: int = 3,
) -> Genotype:
    """The skeleton of a block: its operation layers as nodes and, as edges, every pair that may be
    connected (operation "skip").

    Args:
        raw: the block as `surgery.extract` gives it; it is only traced on the meta device.
        in_shape: (C, H, W) of its input.
        level: "unit" takes the block's units (residual units, dense layers, convolutions of a plain
            stack), "layer" its convolutions.
        partial: operations see 1/partial of the channels.
        max_span: an edge leads over at most this many raw layers; bounds the number of edges by
            max_span · K.

    Raises:
        OptionError: unknown level.
        PartitionError: no operation layer was found.
    """
    if level not in LEVELS:
        raise OptionError(f"unknown level {level!r}{did_you_mean(level, LEVELS)}")
    if isinstance(raw, nn.Conv2d):
        raise PartitionError(
            "a single layer has no architecture to search: choose a block of several layers, or"
            " method='finetune'"
        )
    calls = _enlarged_calls(raw, in_shape)
    paths = (
        _units(raw, calls)
        if level == "unit"
        else [p for p, m in raw.named_modules() if isinstance(m, nn.Conv2d)]
    )
    # of an earlier repair: no raw layers
    added = tuple(p + "." for p, m in raw.named_modules() if isinstance(m, AddedPaths))
    last, nodes, arrived = _channels_last(raw, in_shape), [], set()
    for path in sorted(
        (p for p in paths if len(calls.get(p, ())) == 1), key=lambda p: calls[p][0].start
    ):
        call = calls[path][0]
        shape = _feature_shape(call.inputs[0] if call.inputs else None)
        # what reads the same tensor as an earlier layer runs beside it (a shortcut's projection); a
        # 1x1 map is a gate's
        if (
            path.startswith(added)
            or path in last
            or shape is None
            or max(shape[1:]) <= 1
            or call.arrived in arrived
        ):
            continue
        arrived |= {call.arrived} - {None}
        nodes.append((path, shape[0], shape[1]))
    if not nodes:
        raise PartitionError(
            f"no operation layer found at level {level!r}: try another level or another block"
        )
    # not the first layer's: in a DLA that one reads a pooled map
    top = _height_and_width(calls[""][0].inputs[0])[0]
    nodes = tuple(
        Node(path, channels, max(round(top / height), 1)) for path, channels, height in nodes
    )
    return Genotype(level, partial, nodes, _edges(raw, in_shape, nodes, max_span))


def _enlarged_calls(raw: nn.Module, in_shape: tuple[int, int, int]) -> Trace:
    # eight times the map where the block allows it, so that halvings, and gates' 1x1 maps, can be
    # told from a small image's
    channels, height, width = in_shape
    try:
        return trace(raw, (channels, 8 * height, 8 * width))
    except PartitionError:
        return trace(raw, in_shape)


def _channels_last(raw: nn.Module, in_shape: tuple[int, int, int]) -> set[str]:
    """Paths of the modules that read their maps as (N, H, W, C), seen on a map that is not square;
    none where the block does not take one.
    """
    channels, height, width = in_shape
    size = (channels, 8 * height, 4 * width if height == width else 8 * width)
    try:
        calls = trace(raw, size)
    except PartitionError:
        return set()
    return {
        path
        for path, (call, *_) in calls.items()
        if (shape := _feature_shape(call.inputs[0] if call.inputs else None))
        and layout(shape, size) == "NHWC"
    }


def _feature_shape(x: object) -> tuple[int, int, int] | None:
    """(C, H, W) of a feature map, or of a sequence of maps that will be concatenated; None for
    anything else.
    """
    given = x if isinstance(x, tuple) else (x,)
    maps = [m for m in given if isinstance(m, Tensor) and m.ndim == 4]
    if not maps or len(maps) < len(given):
        return None
    return sum(m.shape[1] for m in maps), maps[0].shape[2], maps[0].shape[3]


def _edges(
    raw: nn.Module, in_shape: tuple[int, int, int], nodes: Sequence[Node], max_span: int
) -> tuple[Edge, ...]:
    """Every pair of nodes, over at most `max_span` raw layers, between whose maps an operation
    leads.
    """
    true = trace(raw, in_shape)
    sizes = [_height_and_width(true[node.layer][0].inputs[0]) for node in nodes]

    def fits(i: int, j: int) -> bool:
        # operations halve with rounding up; a raw layer may round down on an odd map
        stride, rest = divmod(nodes[j].scale, nodes[i].scale)
        return not rest and all(
            -(-a // stride) == b for a, b in zip(sizes[i], sizes[j], strict=True)
        )

    pairs = ((i, j) for j in range(len(nodes)) for i in range(max(0, j - max_span + 1), j + 1))
    return tuple(Edge(i, j, "skip") for i, j in pairs if fits(i, j))


def _height_and_width(x: object) -> tuple[int, int]:
    shape = _feature_shape(x)
    assert shape is not None, "a block that may be repaired, and its nodes, take feature maps"
    return shape[1:]


def _units(raw: nn.Module, calls: Trace) -> list[str]:
    """Paths of the block's units: the called children that own weights; through containers, and
    through a single child.
    """
    path = ""
    while True:
        found = list(called_children(raw.get_submodule(path), path, calls))
        if len(found) != 1 or _is_convolution(raw.get_submodule(found[0])):
            break
        path = found[0]
    plain = [p for p in found if _is_convolution(raw.get_submodule(p))]
    # inside a unit, or in a plain stack, the children are bare layers: its convolutions are the
    # units then
    return plain or found or [path]


def _is_convolution(module: nn.Module) -> bool:
    # of an earlier repair
    return isinstance(module, nn.Conv2d) or (
        isinstance(module, Anchored) and _is_convolution(module.layer)
    )


def called_children(module: nn.Module, path: str, calls: Trace) -> Iterator[str]:
    """Paths of the children of `module`, which is at `path`, that own weights and are called, also
    inside lists.
    """
    for name, child in module.named_children():
        below = f"{path}.{name}".lstrip(".")
        if isinstance(child, AddedPaths) or next(child.parameters(), None) is None:
            continue
        if below in calls:
            yield below
        else:  # ModuleList and the like are never called themselves
            yield from called_children(child, below, calls)


def random_genotype(skeleton: Genotype, runtime: Runtime, index: int = 0) -> Genotype:
    """The control: every edge's operation drawn uniformly from those that it may have.

    Args:
        index: number of the block among those repaired together, each of which draws its own.
    """
    generator = runtime.generator(f"random genotype {index}" if index else "random genotype")
    count = len(skeleton.edges) + len(skeleton.replacements)
    drawn = torch.randint(len(skeleton.candidates), (count,), generator=generator)
    return with_operations(skeleton, drawn.tolist())
