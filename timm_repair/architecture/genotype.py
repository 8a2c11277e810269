"""Genotype: the plan of a block's architecture, as plain JSON, checked before anything is built.

A block of K raw operation layers L_1 … L_K has nodes X_0 … X_{K-1}: X_{j-1} is what arrives at L_j.
An edge i -> j adds an operation on X_i to the input of a later layer, so that the layer reads Z_j =
X_{j-1} + Σ_i gain_ij · o_ij(X_i) (Eq. 7, anchored at the raw block: no edges, or all gains zero, is
exactly the original). Layers are counted from zero in code: `Edge.target == t` feeds layer t.

In the paper's literal reading a raw layer itself may give way: a replacement puts an operation on
Z_j in the place of L_j. The original is then no longer in the cell.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from timm_repair.architecture.layouts import LAYOUTS
from timm_repair.architecture.operations import CANDIDATES, CANDIDATES_IN_LINE, OPERATIONS
from timm_repair.errors import ConfigError

MAX_NODES, MAX_CHANNELS, MAX_SCALE = 512, 65_536, 64
MAX_SIDE, MAX_PREFIX = 4096, 256
REPLACING = 3  # the version of a saved plan with replacements; of others it is that of the nodes

LEVELS = ("unit", "layer")


@dataclass(frozen=True)
class Node:
    """What arrives at one raw layer: `layer` is its path inside the block, `scale` how often its
    map was halved since the block's input.

    Args:
        layout: "NCHW" of a map, "NHWC" where its channels are last, "NLC" of tokens.
        grid: (H, W) of the grid that the tokens lie on; None where there is none.
        prefix: how many tokens before them have no place on it.
    """

    layer: str
    channels: int
    scale: int
    layout: str = "NCHW"
    grid: tuple[int, int] | None = None
    prefix: int = 0

    @property
    def in_line(self) -> bool:
        """Whether it is tokens that lie on no grid."""
        return self.layout == "NLC" and self.grid is None


@dataclass(frozen=True)
class Edge:
    """Adds `operation` applied to node `source` to the input of raw layer `target` (source <=
    target).
    """

    source: int
    target: int
    operation: str


@dataclass(frozen=True)
class Replacement:
    """Puts `operation`, on all channels, in the place of raw layer `layer`.

    Args:
        channels: that it gives.
        stride: how often it halves the map.
    """

    layer: int
    operation: str
    channels: int
    stride: int


@dataclass(frozen=True)
class Genotype:
    """A discrete block architecture: the raw layers, the edges kept beside them, and what stands in
    the place of some. Plain numbers and strings only.

    Args:
        level: what counts as one operation layer, "unit" (a residual unit, a convolution of a plain
            stack) or "layer" (a convolution).
        partial: operations see 1/partial of the channels.
        nodes: one per raw layer, in the order of execution.
        edges: the kept edges; an edge whose operation is "none" is absent.
        version: 1 where all nodes are maps, else 2.
        replacements: at most one a layer; one whose operation is "none" is absent.
    """

    level: str
    partial: int
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...] = ()
    version: int = 1
    replacements: tuple[Replacement, ...] = ()

    @property
    def changed(self) -> bool:
        """Whether it is another architecture than the raw one."""
        return bool(self.edges or self.replacements)

    @property
    def raw(self) -> "Genotype":
        """The same layers without edges and replacements."""
        return replace(self, edges=(), replacements=())

    @property
    def replaced(self) -> dict[int, Replacement]:
        """By the number of the layer."""
        return {each.layer: each for each in self.replacements}

    @property
    def candidates(self) -> tuple[str, ...]:
        """The operations that an edge may have: those of Table 3, or of tokens on no grid those
        that need no neighbours.
        """
        in_line = any(node.in_line for node in self.nodes)
        return CANDIDATES_IN_LINE if in_line else CANDIDATES

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON; the inverse is `from_dict`."""
        plan = asdict(self) | {
            "nodes": [_plain(n, self.version) for n in self.nodes],
            "edges": [asdict(e) for e in self.edges],
        }
        replacements = [asdict(each) for each in self.replacements]
        del plan["replacements"]
        if replacements:
            plan |= {"version": REPLACING, "replacements": replacements}
        return plan

    @classmethod
    def from_dict(cls, plan: Mapping[str, Any]) -> "Genotype":
        """The genotype of a saved repair. Everything is checked before anything is built: the plan
        may come from a stranger.

        Raises:
            ConfigError: unknown version, keys or operations, numbers out of range, edges that do
                not point forward.
        """
        version = plan.get("version") if isinstance(plan, Mapping) else None
        if version not in (1, 2, REPLACING) or type(version) is not int:
            raise ConfigError(
                f"this genotype has version {version!r:.50}; this timm_repair reads 1 to"
                f" {REPLACING}: upgrade timm_repair"
            )
        names = {f.name for f in fields(cls)}
        plan = _record(plan, cls, names if version == REPLACING else names - {"replacements"})
        if plan["level"] not in LEVELS:
            raise ConfigError(f"genotype level {plan['level']!r} is none of {', '.join(LEVELS)}")
        _integer("partial", plan["partial"], 1, MAX_CHANNELS)
        if not isinstance(plan["nodes"], (list, tuple)) or not 1 <= len(plan["nodes"]) <= MAX_NODES:
            raise ConfigError(f"a genotype has 1 to {MAX_NODES} nodes in a list")
        if version == REPLACING:
            first = plan["nodes"][0]
            version = 1 if isinstance(first, Mapping) and set(first) == set(_OF_MAPS) else 2
        nodes = tuple(_node(n, version) for n in plan["nodes"])
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
        replacements = _replacements(plan.get("replacements", ()), len(nodes))
        return cls(plan["level"], plan["partial"], nodes, edges, version, replacements)


def with_operations(skeleton: Genotype, numbers: Iterable[int]) -> Genotype:
    """`skeleton` with the operation of each edge, then of each layer that may be replaced, by its
    number among the candidates; what has "none" is left out.
    """
    names = [skeleton.candidates[number] for number in numbers]
    pairs = zip([*skeleton.edges, *skeleton.replacements], names, strict=True)
    kept = [replace(each, operation=name) for each, name in pairs if name != "none"]
    return replace(
        skeleton,
        edges=tuple(each for each in kept if isinstance(each, Edge)),
        replacements=tuple(each for each in kept if isinstance(each, Replacement)),
    )


# of a node in version 1: there all are maps
_OF_MAPS = ("layer", "channels", "scale")


def _plain(node: Node, version: int) -> dict[str, Any]:
    plain = asdict(node) | {"grid": None if node.grid is None else list(node.grid)}
    return {name: plain[name] for name in _OF_MAPS} if version == 1 else plain


def _record(plan: Any, kind: type, names: Iterable[str] | None = None) -> dict[str, Any]:
    names = {f.name for f in fields(kind)} if names is None else set(names)
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


def _node(plan: Any, version: int) -> Node:
    plan = _record(plan, Node, _OF_MAPS if version == 1 else None)
    if not isinstance(plan["layer"], str) or not 0 < len(plan["layer"]) <= 500:
        raise ConfigError(f"genotype: a node's layer is a module path, got {plan['layer']!r:.50}")
    _integer("channels", plan["channels"], 1, MAX_CHANNELS)
    _integer("scale", plan["scale"], 1, MAX_SCALE)
    if version == 1:
        return Node(**plan)
    if not isinstance(plan["layout"], str) or plan["layout"] not in LAYOUTS:
        raise ConfigError(
            f"genotype: a node's layout {plan['layout']!r:.50} is none of {', '.join(LAYOUTS)}"
        )
    grid = plan["grid"]
    if grid is not None:
        if not isinstance(grid, (list, tuple)) or len(grid) != 2:
            raise ConfigError(f"genotype: a node's grid is [height, width], got {grid!r:.50}")
        for side in grid:
            _integer("a side of a grid", side, 1, MAX_SIDE)
        plan["grid"] = tuple(grid)
    _integer("prefix", plan["prefix"], 0, MAX_PREFIX)
    if (plan["layout"] != "NLC" and grid is not None) or (grid is None and plan["prefix"]):
        raise ConfigError("genotype: only tokens lie on a grid, and only there is a prefix")
    return Node(**plan)


def _edge(plan: Any, nodes: int) -> Edge:
    plan = _record(plan, Edge)
    _integer("an edge's target", plan["target"], 0, nodes - 1)
    _integer("an edge's source", plan["source"], 0, plan["target"])
    _require_operation(plan["operation"])
    return Edge(**plan)


def _replacements(plans: Any, nodes: int) -> tuple[Replacement, ...]:
    if not isinstance(plans, (list, tuple)) or len(plans) > nodes:
        raise ConfigError("a genotype's replacements are a list with at most one per node")
    found = tuple(_replacement(plan, nodes) for plan in plans)
    if len({each.layer for each in found}) != len(found):
        raise ConfigError("a genotype replaces one layer twice")
    return found


def _replacement(plan: Any, nodes: int) -> Replacement:
    plan = _record(plan, Replacement)
    _integer("a replaced layer", plan["layer"], 0, nodes - 1)
    _integer("channels", plan["channels"], 1, MAX_CHANNELS)
    _integer("a stride", plan["stride"], 1, MAX_SCALE)
    _require_operation(plan["operation"])
    return Replacement(**plan)


def _require_operation(name: Any) -> None:
    if not isinstance(name, str) or name not in OPERATIONS or name == "none":
        raise ConfigError(
            f"genotype: unknown operation {name!r:.50}; known: {', '.join(OPERATIONS)}"
        )
