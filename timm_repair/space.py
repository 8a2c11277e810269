"""The search space: operations (paper Table 3), Edge and Genotype (the plan), build() (its
executor).

A block of K raw operation layers L_1 … L_K has nodes X_0 … X_{K-1}: X_{j-1} is what arrives at L_j.
An edge i -> j adds an operation on X_i to the input of a later layer, so that the layer reads Z_j =
X_{j-1} + Σ_i gain_ij · o_ij(X_i) (Eq. 7, anchored at the raw block: no edges, or all gains zero, is
exactly the original). Layers are counted from zero in code: `Edge.target == t` feeds layer t.

The operations work on a contiguous slice of 1/partial of the channels (PC-DARTS §3.1), another
slice at each node; the other channels take the anchor X_{j-1} alone.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from timm_repair.errors import ConfigError

MAX_NODES, MAX_CHANNELS, MAX_SCALE = 512, 65_536, 64
# times a block's own parameters; the densest search space met so far adds 90 with all its
# candidates
MAX_GROWTH = 100


@dataclass(frozen=True)
class Node:
    """What arrives at one raw layer: `layer` is its path inside the block, `scale` how often its
    map was halved since the block's input.
    """

    layer: str
    channels: int
    scale: int


@dataclass(frozen=True)
class Edge:
    """Adds `operation` applied to node `source` to the input of raw layer `target` (source <=
    target).
    """

    source: int
    target: int
    operation: str


@dataclass(frozen=True)
class Genotype:
    """A discrete block architecture: the raw layers, and the edges kept beside them. Plain numbers
    and strings only.

    Args:
        level: what counts as one operation layer, "unit" (a residual unit, a convolution of a plain
            stack) or "layer" (a convolution).
        partial: operations see 1/partial of the channels.
        nodes: one per raw layer, in the order of execution.
        edges: the kept edges; an edge whose operation is "none" is absent.
    """

    level: str
    partial: int
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...] = ()
    version: int = 1

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON; the inverse is `from_dict`."""
        return asdict(self) | {
            "nodes": [asdict(n) for n in self.nodes],
            "edges": [asdict(e) for e in self.edges],
        }

    @classmethod
    def from_dict(cls, plan: Mapping[str, Any]) -> "Genotype":
        """The genotype of a saved repair. Everything is checked before anything is built: the plan
        may come from a stranger.

        Raises:
            ConfigError: unknown version, keys or operations, numbers out of range, edges that do
                not point forward.
        """
        plan = _record(plan, cls)
        if plan["version"] != 1 or isinstance(plan["version"], bool):
            raise ConfigError(
                f"this genotype has version {plan['version']!r}; this timm_repair reads 1: upgrade"
                " timm_repair"
            )
        if plan["level"] not in LEVELS:
            raise ConfigError(f"genotype level {plan['level']!r} is none of {', '.join(LEVELS)}")
        _integer("partial", plan["partial"], 1, MAX_CHANNELS)
        if not isinstance(plan["nodes"], (list, tuple)) or not 1 <= len(plan["nodes"]) <= MAX_NODES:
            raise ConfigError(f"a genotype has 1 to {MAX_NODES} nodes in a list")
        nodes = tuple(_node(n) for n in plan["nodes"])
        if (
            not isinstance(plan["edges"], (list, tuple))
            or len(plan["edges"]) > len(nodes) * (len(nodes) + 1) // 2
        ):
            raise ConfigError(
                "a genotype's edges are a list with at most one edge per pair of nodes"
            )
        edges = tuple(_edge(e, len(nodes)) for e in plan["edges"])
        if len({(e.source, e.target) for e in edges}) != len(edges) or len(
            {n.layer for n in nodes}
        ) != len(nodes):
            raise ConfigError("a genotype has two edges between the same nodes, or one layer twice")
        return cls(plan["level"], plan["partial"], nodes, edges)


LEVELS = ("unit", "layer")


def _record(plan: Any, kind: type) -> dict[str, Any]:
    names = {f.name for f in fields(kind)}
    if not isinstance(plan, Mapping) or set(plan) != names:
        raise ConfigError(
            f"a {kind.__name__.lower()} needs exactly the keys {', '.join(sorted(names))}; got"
            f" {plan!r:.200}"
        )
    return dict(plan)


def _integer(name: str, value: Any, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ConfigError(
            f"genotype: {name} must be an integer from {low} to {high}, got {value!r:.50}"
        )


def _node(plan: Any) -> Node:
    plan = _record(plan, Node)
    if not isinstance(plan["layer"], str) or not 0 < len(plan["layer"]) <= 500:
        raise ConfigError(f"genotype: a node's layer is a module path, got {plan['layer']!r:.50}")
    _integer("channels", plan["channels"], 1, MAX_CHANNELS)
    _integer("scale", plan["scale"], 1, MAX_SCALE)
    return Node(**plan)


def _edge(plan: Any, nodes: int) -> Edge:
    plan = _record(plan, Edge)
    _integer("an edge's target", plan["target"], 0, nodes - 1)
    _integer("an edge's source", plan["source"], 0, plan["target"])
    if (
        not isinstance(plan["operation"], str)
        or plan["operation"] not in OPERATIONS
        or plan["operation"] == "none"
    ):
        raise ConfigError(
            f"genotype: unknown operation {plan['operation']!r:.50}; known: {', '.join(OPERATIONS)}"
        )
    return Edge(**plan)


# ---- the operations of Table 3: (input channels, output channels, stride) -> module; all keep H, W
# up to the stride


def _identity_conv(c_in: int, c_out: int) -> nn.Conv2d:
    """Table 3's "Identity CNN layer": a 1x1 convolution that starts as the identity on the channels
    both sides have.
    """
    conv = nn.Conv2d(c_in, c_out, 1, bias=False)
    nn.init.dirac_(conv.weight)
    return conv


def _norm(channels: int) -> nn.BatchNorm2d:
    # affine-free (DARTS §2): a learnt scale could stand in for the architecture parameters; the
    # gain after it is the only scale
    return nn.BatchNorm2d(channels, affine=False)


def _skip(c_in: int, c_out: int, stride: int) -> nn.Module:
    if c_in == c_out and stride == 1:
        return nn.Identity()
    layers = OrderedDict({"0": _identity_conv(c_in, c_out), "1": _norm(c_out)})
    # not the convolution's own stride: its weight gradient (oneDNN 3.13, AVX2) writes beyond the
    # end of fewer than 8 channels
    return nn.Sequential(
        OrderedDict({"every": nn.AvgPool2d(1, stride)}) | layers if stride > 1 else layers
    )


def _avg_pool(c_in: int, c_out: int, stride: int) -> nn.Module:
    pool = nn.AvgPool2d(3, stride, padding=1, count_include_pad=False)
    return nn.Sequential(pool, _identity_conv(c_in, c_out), _norm(c_out))


def _max_pool(c_in: int, c_out: int, stride: int) -> nn.Module:
    return nn.Sequential(
        nn.MaxPool2d(3, stride, padding=1), _identity_conv(c_in, c_out), _norm(c_out)
    )


def _sep_conv(c_in: int, c_out: int, stride: int) -> nn.Module:
    depthwise = nn.Conv2d(c_in, c_in, 3, stride, padding=1, groups=c_in, bias=False)
    return nn.Sequential(
        depthwise, _norm(c_in), nn.ReLU(), nn.Conv2d(c_in, c_out, 1, bias=False), _norm(c_out)
    )


def _dil_conv(c_in: int, c_out: int, stride: int) -> nn.Module:
    dilated = nn.Conv2d(c_in, c_in, 3, stride, padding=2, dilation=2, bias=False)
    return nn.Sequential(dilated, _norm(c_in), nn.ReLU(), _identity_conv(c_in, c_out), _norm(c_out))


OPERATIONS: dict[str, Callable[[int, int, int], nn.Module] | None] = {
    "none": None,  # not connected
    "skip": _skip,
    "avg_pool": _avg_pool,
    "max_pool": _max_pool,
    "sep_conv": _sep_conv,
    "dil_conv": _dil_conv,
}


def channel_slice(node: int, channels: int, partial: int) -> slice:
    """The channels of node number `node` that operations see: 1/partial of them, contiguous,
    rotating from node to node.
    """
    width = max(channels // partial, 1)
    start = node % (channels // width) * width
    return slice(start, start + width)


def make_operation(name: str, genotype: Genotype, source: int, target: int) -> nn.Module:
    """The module of `name` for the edge source -> target of `genotype`'s nodes.

    Raises:
        ConfigError: the target's map is larger than the source's.
    """
    a, b = genotype.nodes[source], genotype.nodes[target]
    if b.scale % a.scale:
        raise ConfigError(
            f"no operation leads from {a.layer!r} (scale {a.scale}) to {b.layer!r} (scale"
            f" {b.scale})"
        )
    c_in, c_out = (
        s.stop - s.start
        for s in (
            channel_slice(source, a.channels, genotype.partial),
            channel_slice(target, b.channels, genotype.partial),
        )
    )
    return OPERATIONS[name](c_in, c_out, b.scale // a.scale)


# ---- execution: raw layers are wrapped so that they see, and may be fed by, what arrived at
# earlier ones


class Tape:
    """What arrived at the raw layers during the running forward pass (X_0 … X_{j-1}), and what else
    they share during it.
    """

    def __init__(self):
        self.arrived: dict[int, Tensor] = {}
        self.mixture: Any = None


class Anchored(nn.Module):
    """A raw layer that notes what arrives at it, and reads X_{j-1} plus the added paths (Z_j). All
    other arguments pass through.

    Args:
        layer: the raw layer; it may take a tensor (N, C, H, W) or, as DenseNet's do, a list of
            tensors to be concatenated.
        index: its number in the block, from zero.
        added: module (tape) -> the sum of the searched paths for `channels`, or None where no edge
            ends.
    """

    def __init__(
        self,
        layer: nn.Module,
        index: int,
        tape: Tape,
        channels: slice,
        added: nn.Module | None = None,
    ):
        super().__init__()
        self.layer, self.added = layer, added
        self.index, self.tape, self.channels = index, tape, channels

    def forward(self, x, *args, **kwargs):
        arrived = x if isinstance(x, Tensor) else torch.cat(x, 1)
        self.tape.arrived[self.index] = arrived
        if self.added is None:
            return self.layer(x, *args, **kwargs)
        # autocast may have changed it; the raw path keeps its type
        added = self.added(self.tape).to(arrived.dtype)
        c = self.channels
        z = torch.cat([arrived[:, : c.start], arrived[:, c] + added, arrived[:, c.stop :]], 1)
        # the layer may need the maps one by one, as a DLA's root does
        if not isinstance(x, Tensor):
            z = list(z.split([m.shape[1] for m in x], 1))
        return self.layer(z, *args, **kwargs)


class AddedPaths(nn.Module):
    """Σ_i gain_i · o_i(X_i) over the kept edges of one node. Gains are vectors over the node's
    channel slice, zero at first.
    """

    def __init__(self, genotype: Genotype, target: int):
        super().__init__()
        edges = [e for e in genotype.edges if e.target == target]
        width = channel_slice(target, genotype.nodes[target].channels, genotype.partial)
        self.sources = [e.source for e in edges]
        self.slices = [
            channel_slice(e.source, genotype.nodes[e.source].channels, genotype.partial)
            for e in edges
        ]
        self.operations = nn.ModuleList(
            make_operation(e.operation, genotype, e.source, target) for e in edges
        )
        self.gains = nn.ParameterList(torch.zeros(width.stop - width.start) for _ in edges)

    def forward(self, tape: Tape) -> Tensor:
        paths = zip(self.sources, self.slices, self.operations, self.gains, strict=True)
        return sum(gain.view(1, -1, 1, 1) * op(tape.arrived[i][:, c]) for i, c, op, gain in paths)


class Cell(nn.Module):
    """A raw block whose layers are anchored: the raw block's call signature, keys and shapes, plus
    the genotype's edges.
    """

    def __init__(
        self,
        raw: nn.Module,
        genotype: Genotype,
        make_added: Callable[[Genotype, int], nn.Module | None],
    ):
        super().__init__()
        self.raw, self.genotype, self.tape = raw, genotype, Tape()
        for module in raw.modules():
            if getattr(module, "inplace", False):
                # later layers read what arrived here: nothing may overwrite it
                module.inplace = False
        for index, node in enumerate(genotype.nodes):
            try:
                layer = raw.get_submodule(node.layer)
            except AttributeError as error:
                raise ConfigError(
                    f"the genotype names layer {node.layer!r}, which this block does not have"
                ) from error
            channels = channel_slice(index, node.channels, genotype.partial)
            raw.set_submodule(
                node.layer, Anchored(layer, index, self.tape, channels, make_added(genotype, index))
            )

    def forward(self, *args, **kwargs):
        try:
            return self.raw(*args, **kwargs)
        finally:
            self.tape.arrived.clear()

    def unwrapped(self) -> nn.Module:
        """A copy of the raw block with its present weights, without the added paths: what `build`
        and `relax` take.
        """
        raw = deepcopy(self.raw)
        for node in self.genotype.nodes:
            raw.set_submodule(node.layer, raw.get_submodule(node.layer).layer)
        return raw


def added_parameters(cell: Cell) -> list[nn.Parameter]:
    """Parameters of the paths that `cell` adds to its raw layers; those of an earlier repair inside
    it are not among them.
    """
    layers = [cell.raw.get_submodule(node.layer) for node in cell.genotype.nodes]
    return [p for layer in layers if layer.added is not None for p in layer.added.parameters()]


def build(genotype: Genotype, raw: nn.Module) -> Cell:
    """Execute a genotype: `raw` (taken over, not copied) with the kept edges added through zero
    gains, so it still computes what it did; weights come from training, `relax.inherit` or a state
    dict.

    Raises:
        ConfigError: the genotype does not fit the block, or adds far more than the block has
            (nothing of it is allocated then).
    """
    widths = [channel_slice(i, n.channels, genotype.partial) for i, n in enumerate(genotype.nodes)]
    widths = [w.stop - w.start for w in widths]
    added = sum(
        10 * widths[e.source] * max(widths[e.source], widths[e.target]) for e in genotype.edges
    )
    if added > MAX_GROWTH * (sum(p.numel() for p in raw.parameters()) + 10_000):
        raise ConfigError(
            f"this genotype adds up to {added:,} parameters to a block that is far smaller: refused"
        )
    targets = {e.target for e in genotype.edges}
    return Cell(
        raw, genotype, lambda plan, index: AddedPaths(plan, index) if index in targets else None
    )
