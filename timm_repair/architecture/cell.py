"""Cell: a genotype put to work. `build` adds its edges to a raw block, and replaces layers of it.

Raw layers are wrapped so that they see, and may be fed by, what arrived at earlier ones.
"""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from timm_repair.architecture.genotype import Edge, Genotype
from timm_repair.architecture.layouts import channels_of, on_maps, plus, scaled
from timm_repair.architecture.operations import OPERATIONS, channel_slice
from timm_repair.errors import ConfigError
from timm_repair.models.copying import copied

# times a block's own parameters; the densest search space met so far adds 90 with all its
# candidates
MAX_GROWTH = 100


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
    operation = OPERATIONS[name]
    assert operation is not None, "a genotype has no edges of 'none'"
    return on_maps(operation(c_in, c_out, b.scale // a.scale), a, b)


def make_replacement(name: str, genotype: Genotype, layer: int) -> nn.Module:
    """The module of `name` for the place of that layer, which may have one."""
    operation, place = OPERATIONS[name], genotype.replaced[layer]
    assert operation is not None, "nothing is replaced by 'none'"
    return operation(genotype.nodes[layer].channels, place.channels, place.stride)


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
        layer: the raw layer; it may take a tensor or, as DenseNet's do, a list of maps to be
            concatenated.
        index: its number in the block, from zero.
        added: module (tape) -> the sum of the searched paths for `channels`, or None where no edge
            ends.
        layout: of what arrives, see `Node`.
    """

    def __init__(
        self,
        layer: nn.Module,
        index: int,
        tape: Tape,
        channels: slice,
        added: nn.Module | None = None,
        layout: str = "NCHW",
    ):
        super().__init__()
        self.layer, self.added, self.layout = layer, added, layout
        self.index, self.tape, self.channels = index, tape, channels

    def forward(self, x, *args, **kwargs):
        arrived = x if isinstance(x, Tensor) else torch.cat(x, 1)
        self.tape.arrived[self.index] = arrived
        if self.added is None:
            return self.layer(x, *args, **kwargs)
        # autocast may have changed it; the raw path keeps its type
        added = self.added(self.tape).to(arrived.dtype)
        z = plus(arrived, added, self.layout, self.channels)
        # the layer may need the maps one by one, as a DLA's root does
        if not isinstance(x, Tensor):
            z = list(z.split([m.shape[1] for m in x], 1))
        return self.layer(z, *args, **kwargs)


def anchored(raw: nn.Module, layer: str) -> Anchored:
    """The layer of that name in a block whose nodes are anchored."""
    return cast(Anchored, raw.get_submodule(layer))


class AddedPaths(nn.Module):
    """Σ_i gain_i · o_i(X_i) over the kept edges of one node. Gains are vectors over the node's
    channel slice, zero at first.
    """

    def __init__(self, genotype: Genotype, target: int):
        super().__init__()
        edges = [e for e in genotype.edges if e.target == target]
        width = channel_slice(target, genotype.nodes[target].channels, genotype.partial)
        self.sources = [e.source for e in edges]
        self.layouts = [node.layout for node in genotype.nodes]
        self.layout = genotype.nodes[target].layout
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
        added = (
            scaled(op(channels_of(tape.arrived[i], self.layouts[i], c)), gain, self.layout)
            for i, c, op, gain in paths
        )
        return cast(Tensor, sum(added))  # there is a path, or there were no AddedPaths


class Replaceable(nn.Module):
    """A layer in whose place something else may stand, with it: `raw`."""

    def __init__(self, raw: nn.Module):
        super().__init__()
        self.raw = raw


class Replaced(nn.Module):
    """gain · o(Z) + shift per channel, in the place of `raw`, whose weights go and whose form is
    kept, so that a repair can be reverted.
    """

    def __init__(self, operation: nn.Module, channels: int, raw: nn.Module):
        super().__init__()
        self.operation = operation
        self.was = (copied(raw).to("meta"),)  # in a tuple, which has no part in the state
        self.gain = nn.Parameter(torch.ones(channels))
        self.shift = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return affine(self.operation(x), self.gain, self.shift)


def affine(x: Tensor, gain: Tensor, shift: Tensor) -> Tensor:
    """`x` (N, C, H, W), each channel with its own gain (C,) and shift (C,)."""
    return gain.view(1, -1, 1, 1) * x + shift.view(1, -1, 1, 1)


class Cell(nn.Module):
    """A raw block whose layers are anchored: the raw block's call signature, keys and shapes, plus
    the genotype's edges.
    """

    def __init__(
        self,
        raw: nn.Module,
        genotype: Genotype,
        make_added: Callable[[Genotype, int], nn.Module | None],
        make_layer: Callable[[nn.Module, int, Tape], nn.Module],
    ):
        super().__init__()
        self.raw, self.genotype, self.tape = raw, genotype, Tape()
        for module in raw.modules():
            if getattr(module, "inplace", False):
                # later layers read what arrived here: nothing may overwrite it
                cast(Any, module).inplace = False
        for index, node in enumerate(genotype.nodes):
            try:
                layer = raw.get_submodule(node.layer)
            except AttributeError as error:
                raise ConfigError(
                    f"the genotype names layer {node.layer!r}, which this block does not have"
                ) from error
            channels = channel_slice(index, node.channels, genotype.partial)
            added = make_added(genotype, index)
            if index in genotype.replaced:
                layer = make_layer(layer, index, self.tape)
            raw.set_submodule(
                node.layer, Anchored(layer, index, self.tape, channels, added, node.layout)
            )

    def forward(self, *args, **kwargs):
        try:
            return self.raw(*args, **kwargs)
        finally:
            self.tape.arrived.clear()

    def unwrapped(self) -> nn.Module:
        """A copy of the raw block with its present weights, without the added paths: what `build`
        and `relax` take. A replaced layer is there again, with weights that are yet to be loaded.
        """
        raw = copied(self.raw)
        for node in self.genotype.nodes:
            layer = anchored(raw, node.layer).layer
            if isinstance(layer, Replaceable):
                layer = layer.raw
            elif isinstance(layer, Replaced):
                layer = layer.was[0].to_empty(device=layer.gain.device).train(layer.training)
            raw.set_submodule(node.layer, layer)
        return raw


def added_parameters(cell: Cell) -> list[nn.Parameter]:
    """Parameters of the paths that `cell` adds to its raw layers, and of what stands, or may
    stand, in the place of some; those of an earlier repair inside it are not among them.
    """
    layers = [anchored(cell.raw, node.layer) for node in cell.genotype.nodes]
    found = [p for layer in layers if layer.added is not None for p in layer.added.parameters()]
    for index in cell.genotype.replaced:
        own = layers[index].layer.named_parameters()
        # the raw layer that a `Replaceable` still holds was trained before
        found += [p for name, p in own if not name.startswith("raw.")]
    return found


def added_operations(cell: Cell) -> tuple[str, ...]:
    """How the names of the added operations' states begin in `cell`; gains are not among them, nor
    is what belongs to an earlier repair inside it.
    """
    return tuple(f"raw.{node.layer}.added.operations." for node in cell.genotype.nodes)


@torch.no_grad()
def strengths(cell: Cell) -> dict[Edge, float]:
    """How strongly each edge enters its node: the norm of its gains."""
    found = {}
    for index, node in enumerate(cell.genotype.nodes):
        if (added := anchored(cell.raw, node.layer).added) is not None:
            edges = [edge for edge in cell.genotype.edges if edge.target == index]
            gains = cast(AddedPaths, added).gains
            found |= {e: gain.norm().item() for e, gain in zip(edges, gains, strict=True)}
    return found


def build(genotype: Genotype, raw: nn.Module) -> Cell:
    """Execute a genotype: `raw` (taken over, not copied) with the kept edges added through zero
    gains, so it still computes what it did where nothing is replaced; weights come from training,
    `relaxation.inherit` or a state dict.

    Raises:
        ConfigError: the genotype does not fit the block, or adds far more than the block has
            (nothing of it is allocated then).
    """
    widths = [channel_slice(i, n.channels, genotype.partial) for i, n in enumerate(genotype.nodes)]
    widths = [w.stop - w.start for w in widths]
    added = sum(
        10 * widths[e.source] * max(widths[e.source], widths[e.target]) for e in genotype.edges
    ) + sum(
        10 * (c_in := genotype.nodes[each.layer].channels) * max(c_in, each.channels)
        for each in genotype.replacements
    )
    if added > MAX_GROWTH * (sum(p.numel() for p in raw.parameters()) + 10_000):
        raise ConfigError(
            f"this genotype adds up to {added:,} parameters to a block that is far smaller: refused"
        )
    targets = {e.target for e in genotype.edges}

    def replacement(layer: nn.Module, index: int, tape: Tape) -> Replaced:
        place = genotype.replaced[index]
        return Replaced(make_replacement(place.operation, genotype, index), place.channels, layer)

    return Cell(
        raw,
        genotype,
        lambda plan, index: AddedPaths(plan, index) if index in targets else None,
        replacement,
    )
