"""relax() makes a block differentiable in its architecture; discretize() is its inverse.

The relaxed block computes Z_j = X_{j-1} + g_j · Σ_{i<j} β_ij Σ_o w_ij,o · o(X_i),  X_j = L_j(Z_j)
(paper §3.3, Eq. 7 and 8, anchored): the raw layers stay at the nodes and the six operations of
Table 3 come in through gates g_j that start at zero. At g = 0 it computes the original function
exactly, whatever α, β and the sampler, so the original is a point of the space and the search
starts there.

A layer that may be replaced computes L_j + h_j · Σ_o w_j,o (o'_j - L_j), where o' has a gain and a
shift of its own and "none" leaves the layer: at h = 0 the original again, whatever is sampled, at
h = 1 the mixture of the paper's literal reading, in which the raw layer is a candidate.
"""

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from timm_repair.architecture.cell import (
    AddedPaths,
    Cell,
    Replaceable,
    Replaced,
    Tape,
    affine,
    anchored,
    make_operation,
    make_replacement,
)
from timm_repair.architecture.genotype import Genotype, with_operations
from timm_repair.architecture.layouts import channels_of, scaled
from timm_repair.architecture.operations import NONE_PRIOR, channel_slice
from timm_repair.architecture.strategies.strategy import Strategy, final, penalty, prior

INIT_STD = 1e-3  # of α, around zero and the lead of "none"


@dataclass
class _Mixture:
    """Weights of the running forward pass: w (E, O) over the O candidates, those of layers that
    may be replaced after those of the edges; β (E,) over the edges into a node.
    """

    operations: Tensor
    edges: Tensor


class MixedPaths(nn.Module):
    """g_j · Σ_i β_ij Σ_o w_ij,o · o(X_i) for one node; `rows` are its edges' rows in α."""

    def __init__(self, skeleton: Genotype, target: int):
        super().__init__()
        self.candidates = skeleton.candidates
        self.layouts = [node.layout for node in skeleton.nodes]
        self.layout = skeleton.nodes[target].layout
        rows = [(row, e) for row, e in enumerate(skeleton.edges) if e.target == target]
        self.rows, self.sources = [row for row, _ in rows], [e.source for _, e in rows]
        self.slices = [
            channel_slice(i, skeleton.nodes[i].channels, skeleton.partial) for i in self.sources
        ]
        self.operations = nn.ModuleList(
            nn.ModuleDict(
                {
                    o: make_operation(o, skeleton, e.source, target)
                    for o in skeleton.candidates
                    if o != "none"
                }
            )
            for _, e in rows
        )
        width = channel_slice(target, skeleton.nodes[target].channels, skeleton.partial)
        self.gate = nn.Parameter(torch.zeros(width.stop - width.start))

    def forward(self, tape: Tape) -> Tensor:
        total = 0
        for row, source, channels, operations in zip(
            self.rows, self.sources, self.slices, self.operations, strict=True
        ):
            x = channels_of(tape.arrived[source], self.layouts[source], channels)
            weights = tape.mixture.operations[row]
            candidates = cast(nn.ModuleDict, operations).items()
            mixed = sum(weights[self.candidates.index(name)] * op(x) for name, op in candidates)
            total = total + tape.mixture.edges[row] * mixed
        return scaled(cast(Tensor, total), self.gate, self.layout)


class MixedLayer(Replaceable):
    """L + h · Σ_o w_o (gain · o + shift - L): a raw layer, and what may stand in its place; `row`
    is its row in α.
    """

    def __init__(self, layer: nn.Module, skeleton: Genotype, index: int, tape: Tape):
        super().__init__(layer)
        self.candidates = skeleton.candidates
        self.tape = tape
        self.row = len(skeleton.edges) + [*skeleton.replaced].index(index)
        channels = skeleton.replaced[index].channels
        self.operations = nn.ModuleDict(
            {o: make_replacement(o, skeleton, index) for o in skeleton.candidates if o != "none"}
        )
        self.gate = nn.Parameter(torch.zeros(channels))
        self.gain = nn.Parameter(torch.ones(channels))
        self.shift = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        raw = self.raw(x)
        weights = self.tape.mixture.operations[self.row]
        instead = (
            (name, affine(op(x), self.gain, self.shift)) for name, op in self.operations.items()
        )
        mixed = sum(weights[self.candidates.index(name)] * (y - raw) for name, y in instead)
        # autocast may have changed it; the raw path keeps its type, and lies in memory as before:
        # another order may be another kernel's, which rounds in another way
        found = raw + scaled(cast(Tensor, mixed), self.gate, "NCHW").to(raw.dtype)
        return found if found.stride() == raw.stride() else torch.empty_like(raw).copy_(found)


class RelaxedBlock(nn.Module):
    """A block that is differentiable in its architecture; made by `relax`, turned back by
    `discretize`.

    Args:
        raw: the block, taken over; its layers stay at the nodes.
        skeleton: `plan(raw, …)`.
        strategy: gives the weights of operations and edges (softmax, edge normalization, …).
        generator: draws α's initial values and the strategy's samples; the global random state is
            left alone.
    """

    targets: Tensor
    contested: Tensor

    def __init__(
        self, raw: nn.Module, skeleton: Genotype, strategy: Strategy, generator: torch.Generator
    ):
        super().__init__()
        self.skeleton, self.strategy, self.generator = skeleton, strategy, generator
        self.progress = 0.0  # 0 … 1 through the search, for strategies that anneal
        self.fixed: Tensor | None = None  # (E, O): weights in the place of the strategy's
        targets = [e.target for e in skeleton.edges]
        self.cell = Cell(
            raw,
            skeleton,
            lambda plan, index: MixedPaths(plan, index) if index in targets else None,
            lambda layer, index, tape: MixedLayer(layer, skeleton, index, tape),
        )
        # what may replace a layer is no edge into a node
        targets += [len(skeleton.nodes) + layer for layer in skeleton.replaced]
        self.alpha = nn.Parameter(
            INIT_STD * torch.randn(len(targets), len(skeleton.candidates), generator=generator)
        )
        with torch.no_grad():
            self.alpha[:, skeleton.candidates.index("none")] += NONE_PRIOR
        # a lone edge has nothing to be normalized against: its β would never receive a gradient
        contested = (
            [row for row, t in enumerate(targets) if targets.count(t) > 1]
            if strategy.edge_normalization
            else []
        )
        self.beta = (
            nn.Parameter(INIT_STD * torch.randn(len(contested), generator=generator))
            if contested
            else None
        )
        self.prior = prior(strategy, self.alpha)
        self.register_buffer("targets", torch.tensor(targets, dtype=torch.long), persistent=False)
        self.register_buffer(
            "contested", torch.tensor(contested, dtype=torch.long), persistent=False
        )

    def forward(self, *args, **kwargs):
        weights = self.operation_weights() if self.fixed is None else self.fixed
        self.cell.tape.mixture = _Mixture(weights, self.edge_weights())
        try:
            return self.cell(*args, **kwargs)
        finally:
            self.cell.tape.mixture = None

    def operation_weights(self) -> Tensor:
        """(E, O): w of Eq. 8 as the strategy forms them from α."""
        return self.strategy.weights(self.alpha, progress=self.progress, generator=self.generator)

    def penalty(self) -> list[Tensor]:
        """What the strategy adds to the loss of a step that moves α."""
        own = penalty(self.strategy, self.alpha, self.progress)
        return own if self.prior is None else [*own, cast(Any, self.prior).penalty(self.alpha)]

    def observe(self, examples: int) -> None:
        """A step over so many examples has moved α: let the strategy learn from its gradient."""
        if self.prior is not None:
            assert self.alpha.grad is not None, "a step that moves α has one"
            cast(Any, self.prior).observe(self.alpha, self.alpha.grad, examples)

    @torch.no_grad()
    def chosen(self) -> Tensor:
        """(E,) number of each edge's operation: the argmax of α (paper §3.3.2), where the strategy
        has no rule of its own.
        """
        if self.prior is not None:
            return cast(Any, self.prior).chosen(self.alpha)
        return self.alpha.argmax(1)

    @torch.no_grad()
    def final_weights(self) -> Tensor:
        """(E, O): w as it is at the end of the search, see `strategy.final`."""
        self.progress = 1.0
        return final(self.strategy, self.alpha, self.generator)

    def edge_weights(self) -> Tensor:
        """(E,): β normalized by softmax over the edges into one node (PC-DARTS, Eq. 4 there); ones
        where not normalized.
        """
        weights = torch.ones_like(self.alpha[:, 0])
        if self.beta is None:
            return weights
        shares = torch.zeros_like(self.beta)
        into = self.targets[self.contested]
        for target in into.unique().tolist():
            shares = torch.where(
                into == target,
                torch.softmax(self.beta.masked_fill(into != target, -torch.inf), 0),
                shares,
            )
        return weights.index_copy(0, self.contested, shares)

    def architecture_parameters(self) -> list[nn.Parameter]:
        """α and, with edge normalization, β."""
        return [self.alpha] if self.beta is None else [self.alpha, self.beta]

    def weight_parameters(self) -> list[nn.Parameter]:
        """Everything else: raw weights, candidates' weights, gates."""
        return list(self.cell.parameters())


def relax(
    raw: nn.Module, skeleton: Genotype, strategy: Strategy, generator: torch.Generator
) -> RelaxedBlock:
    """Make `raw` (taken over) differentiable in its architecture. The inverse is `discretize`."""
    return RelaxedBlock(raw, skeleton, strategy, generator)


def discretize(relaxed: RelaxedBlock, chosen: Tensor | None = None) -> Genotype:
    """The operation that is chosen on every edge, and for every layer that may be replaced, "none"
    included. `inherit` then carries the weights over. Inverse of `relax`.

    Args:
        chosen: (E,) number of each one's operation; None asks `relaxed.chosen()`.
    """
    numbers = (relaxed.chosen() if chosen is None else chosen).tolist()
    return with_operations(relaxed.skeleton, numbers)


@torch.no_grad()
def inherit(cell: Cell, relaxed: RelaxedBlock, weights: Tensor | None = None) -> None:
    """Copy a relaxed block's weights into `cell` (built from a genotype of the same skeleton),
    folding gate · β · w into the gains.

    Folding keeps each kept path at the strength it had in the mixture, so that the function jumps
    less than with w = β = 1.

    Args:
        weights: (E, O) of the mixture; None asks `relaxed.final_weights()`.
    """
    skeleton, raw = relaxed.skeleton, relaxed.cell.raw
    candidates = skeleton.candidates
    rows = {(e.source, e.target): row for row, e in enumerate(skeleton.edges)}
    operations = relaxed.final_weights() if weights is None else weights
    edge_weights = relaxed.edge_weights()
    for index, place in cell.genotype.replaced.items():
        path = skeleton.nodes[index].layer
        mixed, layer = (cast(Any, anchored(each, path).layer) for each in (raw, cell.raw))
        cast(Replaced, layer).operation.load_state_dict(
            mixed.operations[place.operation].state_dict()
        )
        layer.gain.copy_(mixed.gain)
        layer.shift.copy_(mixed.shift)
    for index, node in enumerate(skeleton.nodes):
        old, new = anchored(raw, node.layer).added, anchored(cell.raw, node.layer).added
        if new is None:
            continue
        old, new = cast(MixedPaths, old), cast(AddedPaths, new)
        for path, edge in enumerate(e for e in cell.genotype.edges if e.target == index):
            row = rows[edge.source, index]
            trained = cast(nn.ModuleDict, old.operations[old.rows.index(row)])
            new.operations[path].load_state_dict(trained[edge.operation].state_dict())
            strength = edge_weights[row] * operations[row, candidates.index(edge.operation)]
            new.gains[path].copy_(old.gate * strength)
