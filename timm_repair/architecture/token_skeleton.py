"""The skeleton of a block that works on tokens: which layers are nodes, how what arrives at them
lies, and on which grid.

All is read from one trace of the whole model, since a block of tokens alone says neither how large
its grid is nor what it is given besides.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain
from math import prod
from typing import Any

from torch import Tensor, nn

from timm_repair.architecture.genotype import LEVELS, Edge, Genotype, Node
from timm_repair.architecture.skeleton import called_children, skeleton_of
from timm_repair.errors import OptionError, PartitionError, did_you_mean
from timm_repair.models.block import Block
from timm_repair.models.interface import reads_maps
from timm_repair.models.surgery import extract, is_layer
from timm_repair.models.tracing import Call, Trace, layout, trace

# tokens before those of a grid where the model does not say how many: a class, a distillation
LIKELY_PREFIXES = (1, 2)

Grid = tuple[int, int]


def skeleton_in(
    model: nn.Module, block: Block, input_size: tuple[int, ...], **options: Any
) -> Genotype:
    """The skeleton of a block of `model`, whatever it works on; `options` are those of
    `skeleton_of`.

    Raises:
        PartitionError: no operation layer was found.
    """
    raw = extract(model, block)
    if not block.maps or block.in_shape is None or len(block.in_shape) != 3:
        return skeleton_on_tokens(model, raw, input_size, **options)
    # maps between the stages, tokens inside, as in a NesT or a SwinV2-CR
    try:
        found = skeleton_of(raw, block.in_shape, **options)
    except PartitionError as refused:
        try:
            return skeleton_on_tokens(model, raw, input_size, **options)
        except PartitionError:
            raise refused from None
    inside = _misread(model, raw, found, input_size)
    return skeleton_on_tokens(model, raw, input_size, **options) if inside else found


def _misread(
    model: nn.Module, raw: nn.Module, found: Genotype, input_size: tuple[int, ...]
) -> bool:
    """Whether a node of `found`, for whose trace the block stood alone, reads tokens: in groups, or
    with their channels last.
    """
    path = next((name for name, module in model.named_modules() if module is raw), None)
    calls = trace(model, input_size)
    for node in found.nodes:
        name = f"{path}.{node.layer}"
        x = calls[name][0].inputs[0] if path and calls.get(name) else None
        if isinstance(x, Tensor) and x.ndim == 4:
            shape = tuple(x.shape[1:])
            lies = layout(shape, input_size, getattr(model, "output_fmt", "NCHW"))
            if lies != "NCHW" and not reads_maps([name], model, calls, shape):
                return True
    return False


def skeleton_on_tokens(
    model: nn.Module,
    raw: nn.Module,
    input_size: tuple[int, ...],
    *,
    level: str = "unit",
    partial: int = 4,
    max_span: int = 3,
) -> Genotype:
    """The skeleton of `raw`, a module of `model` that works on tokens or on maps with their
    channels last, see `skeleton_of`.

    Where layers read what lies on a grid, these are the nodes; where none does, those that read
    tokens in a line. What a window or a head holds, in the batch, is no node.

    Raises:
        OptionError: unknown level.
        PartitionError: no operation layer was found.
    """
    if level not in LEVELS:
        raise OptionError(f"unknown level {level!r}{did_you_mean(level, LEVELS)}")
    path = next((name for name, module in model.named_modules() if module is raw), None)
    traced = trace(model, input_size)
    if is_layer(raw) or not path or path not in traced:
        raise PartitionError(
            "a single layer has no architecture to search: choose a block of several layers, or"
            " method='finetune'"
        )
    calls = {
        name.removeprefix(path).removeprefix("."): made
        for name, made in traced.items()
        if name == path or name.startswith(f"{path}.")
    }
    places = _Places(model, traced, input_size)
    found, arrived = [], set()
    for name in sorted(_candidates(raw, calls, level), key=lambda name: calls[name][0].start):
        call = calls[name][0]
        if call.arrived in arrived:  # it runs beside an earlier layer
            continue
        node = places.node(name, raw.get_submodule(name), call)
        if node is not None:
            arrived |= {call.arrived} - {None}
            found.append(node)
    nodes = [each for each in found if not each[0].in_line] or found
    if not nodes:
        raise PartitionError(
            f"no operation layer found at level {level!r}: try another level or another block"
        )
    top = max(height for _, (height, _) in nodes)
    sizes = [sides for _, sides in nodes]
    scaled = tuple(
        node if node.in_line else replace(node, scale=max(round(top / height), 1))
        for node, (height, _) in nodes
    )

    def fits(i: int, j: int) -> bool:
        # as in `skeleton_of`; tokens in a line keep their number
        stride, rest = divmod(scaled[j].scale, scaled[i].scale)
        pairs = zip(sizes[i], sizes[j], strict=True)
        return not rest and all(-(-a // stride) == b for a, b in pairs)

    pairs = ((i, j) for j in range(len(nodes)) for i in range(max(0, j - max_span + 1), j + 1))
    edges = tuple(Edge(i, j, "skip") for i, j in pairs if fits(i, j))
    return Genotype(level, partial, scaled, edges, version=2)


def _candidates(raw: nn.Module, calls: Trace, level: str) -> list[str]:
    """Paths of the layers that may be nodes: called once, with weights that mix channels."""
    added = [f"{name}." for name, module in raw.named_modules() if name.endswith(".added")]
    linear = [
        name for name, module in raw.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)
    ]
    names = linear if level == "layer" else _units(raw, calls)
    return [
        name
        for name in names
        if len(calls.get(name, ())) == 1 and not name.startswith(tuple(added))
    ]


def _units(raw: nn.Module, calls: Trace) -> list[str]:
    """Paths of the block's units: attentions and perceptrons of one transformer block, the blocks
    of a stage of several.
    """

    def inside(path: str) -> list[str]:
        found = called_children(raw.get_submodule(path), path, calls)
        return [each for each in found if _mixes(raw.get_submodule(each))]

    found = inside("")
    while len(found) == 1 and not is_layer(raw.get_submodule(found[0])):
        found = inside(found[0]) or found[:1]
    return [unit for path in found for unit in _opened(raw, path, inside)]


def _opened(raw: nn.Module, path: str, inside: Any) -> list[str]:
    # a stage's blocks stand in a Sequential beside its downsampling
    return inside(path) if type(raw.get_submodule(path)) is nn.Sequential else [path]


def _mixes(module: nn.Module) -> bool:
    """Whether it holds a matrix: norms and scales do not."""
    return any(parameter.ndim > 1 for parameter in module.parameters())


class _Places:
    """Where tokens of a model lie, by a trace of it."""

    def __init__(self, model: nn.Module, calls: Trace, image: Sequence[int]):
        self.image = tuple(image)
        self.otherwise = getattr(model, "output_fmt", "NCHW")
        told = getattr(model, "num_prefix_tokens", None)
        self.told = [told] if isinstance(told, int) else []
        seen = sorted(set(self._seen(calls)), key=self._distortion)
        # by the number of their places; also halved, as a LeViT halves its own between modules
        self.seen: dict[int, Grid] = {}
        self.grids: dict[int, Grid] = {}
        for grid in seen:
            self.seen.setdefault(prod(grid), grid)
        for grid in chain(seen, *map(_halved, seen)):
            self.grids.setdefault(prod(grid), grid)

    def _distortion(self, grid: Grid) -> float:
        """How far its proportions are from the image's; of the sides, the larger if equal."""
        height, width = self.image[1:]
        return abs(grid[0] * width - grid[1] * height) / (grid[0] * width)

    def _seen(self, calls: Trace) -> Iterator[Grid]:
        """Sides of all maps, and of all grids that modules tell each other."""
        for call in (call for made in calls.values() for call in made):
            for value in _values((call.inputs, call.output)):
                if not isinstance(value, Tensor):
                    yield value
                elif value.ndim == 4 and len(value) == 1:
                    one, two, three = value.shape[1:]
                    lies = layout((one, two, three), self.image, self.otherwise)
                    if lies:
                        yield (two, three) if lies == "NCHW" else (one, two)

    def node(self, name: str, layer: nn.Module, call: Call) -> tuple[Node, Grid] | None:
        """The node of a layer, with the sides of what arrives there; None where that is nothing
        that an operation can be applied to.
        """
        x = call.inputs[0] if call.inputs else None
        if not isinstance(x, Tensor) or x.ndim not in (3, 4) or len(x) != 1:
            return None
        shape = tuple(x.shape[1:])
        lies = "NLC" if x.ndim == 3 else self._lies(layer, shape)
        sides: Grid
        if lies == "NCHW":
            node, sides = Node(name, shape[0], 1), (shape[1], shape[2])
        elif lies == "NHWC":
            node, sides = Node(name, shape[2], 1, lies), (shape[0], shape[1])
        else:
            count = prod(shape[:-1])
            grid, prefix = self._laid(count) if len(shape) == 2 else (None, 0)
            node, sides = Node(name, shape[-1], 1, "NLC", grid, prefix), grid or (count, 1)
        return None if sides[0] * sides[1] <= 1 else (node, sides)

    def _lies(self, layer: nn.Module, shape: tuple[int, ...]) -> str:
        if isinstance(layer, nn.Conv2d):
            return "NCHW"
        lies = layout(shape, self.image, self.otherwise)
        # tokens in groups, as a NesT's, lie in a line
        return "NHWC" if lies == "NHWC" or (lies and isinstance(layer, nn.Linear)) else lies

    def _laid(self, count: int) -> tuple[Grid | None, int]:
        """The grid that `count` tokens lie on, and how many stand before it."""
        for prefix in (*self.told, 0):
            if count - prefix in self.grids:
                return self.grids[count - prefix], prefix
        for prefix in LIKELY_PREFIXES:
            if count - prefix in self.seen:
                return self.seen[count - prefix], prefix
        return None, 0


def _halved(grid: Grid) -> Iterator[Grid]:
    height, width = grid
    while height * width > 4:
        height, width = -(-height // 2), -(-width // 2)
        yield height, width


def _values(value: Any) -> Iterator[Tensor | Grid]:
    """Tensors, and pairs of whole numbers, in what a module takes and gives."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        yield from (each for part in value for each in _values(part))
        for pair in zip(value, value[1:], strict=False):
            if all(
                isinstance(side, int) and not isinstance(side, bool) and side > 0 for side in pair
            ):
                yield pair
