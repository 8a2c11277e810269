"""Flow: how data really go through a repaired block, read off one forward pass.

A genotype lists the raw layers in the order of execution; which of them read which is the business
of the block's own code: shortcuts lead past layers, branches run beside each other. Here a pass
with gradients tells it, whatever the code: every value that arrives at a layer or leaves one is
marked, and from each the graph that autograd has recorded is followed back to the marks before.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from timm_repair.architecture.cell import Cell
from timm_repair.architecture.genotype import Genotype
from timm_repair.models.block import Block
from timm_repair.models.surgery import extract
from timm_repair.models.temporary import plain_forward

ARRIVES, LEAVES = "arrives", "leaves"


class _Mark(torch.autograd.Function):
    """The identity, which can be found again in the recorded graph by what it is called."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, name: tuple) -> Tensor:
        ctx.name = name
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple:
        return (*gradients, None)


def flows(
    model: nn.Module, blocks: Sequence[Block], genotypes: Mapping[str, Genotype], image: Tensor
) -> dict[str, list[list]]:
    """For each block with a genotype, its connections but the added paths, as plain JSON.

    A connection is [what, layer, target]: what "arrives" at or "leaves" raw layer number `layer`
    goes, perhaps together with others and through what is no layer, to layer `target`; the number
    after the last is the block's output, layer -1 the block itself.

    Args:
        model: the repaired model; it comes back as it was.
        blocks: the repaired ones.
        image: (1, C, H, W) to run it on.
    """
    found = {}
    for block in blocks:
        if (genotype := genotypes.get(block.name)) is None:
            continue
        cell = extract(model, block)
        # anchored where something was added, else as they were: a run of several modules then
        raw = cell.raw if isinstance(cell, Cell) else cell
        ends = [cell, cell]
        if cell is raw and len(block.paths) > 1:
            ends = [model.get_submodule(path) for path in (block.paths[0], block.paths[-1])]
        layers = [raw.get_submodule(node.layer) for node in genotype.nodes]
        found[block.name] = _flow(model, ends, layers, image)
    return found


def _flow(
    model: nn.Module, ends: Sequence[nn.Module], layers: Sequence[nn.Module], image: Tensor
) -> list[list]:
    """Those of one block; `ends`: what is called first and last of it."""
    seen = _Seen()
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        plain_forward(model),
        _marking(seen, ends, layers),
    ):
        model(image.clone().requires_grad_())
    return seen.connections()


class _Seen:
    """What arrived where, during a pass: functions of the graph, which stay alive with it."""

    def __init__(self):
        # (function, which of its results) to the layer it arrives at; and the way back
        self.values: dict[tuple, tuple] = {}
        self.arrived: dict[int, list[tuple]] = {}

    def arrive(self, value: Tensor, at: int) -> Tensor:
        """Note what arrives at layer `at`; what the layer is to read instead."""
        place = (value.grad_fn, value.output_nr)
        self.values.setdefault(place, (ARRIVES, at))
        self.arrived.setdefault(at, []).append(place)
        return cast(Tensor, _Mark.apply(value, (ARRIVES, at)))

    def connections(self) -> list[list]:
        """All of them, in the order of their targets."""
        found = []
        for target, places in sorted(self.arrived.items()):
            if target < 0:
                continue
            names = {name for place in places for name in self._sources(place, target)}
            found += [[*name, target] for name in sorted(names)]
        return found

    def _sources(self, place: tuple, target: int) -> Iterator[tuple]:
        """The marks that a value comes from, each by the shortest way back."""
        reached, level = {place}, [place]
        while level:
            function, _ = at = level.pop()
            name = getattr(function, "name", None) if _is_mark(function) else None
            other = self.values.get(at)
            if other is not None and other[1] < target:  # what an earlier layer reads too
                yield other
            elif name is not None:
                yield name
            elif function is not None:
                following = [each for each in function.next_functions if each not in reached]
                reached.update(following)
                level += following


def _is_mark(function: Any) -> bool:
    return type(function).__name__ == f"{_Mark.__name__}Backward"


@contextmanager
def _marking(seen: _Seen, ends: Sequence[nn.Module], layers: Sequence[nn.Module]) -> Iterator[None]:
    def arriving(index: int):
        def hook(module: nn.Module, arguments: tuple) -> tuple:
            first, *others = arguments
            return _mapped(first, lambda value: seen.arrive(value, index)), *others

        return hook

    def leaving(index: int):
        def hook(module: nn.Module, arguments: tuple, output: Any) -> Any:
            return _mapped(output, lambda value: _Mark.apply(value, (LEAVES, index)))

        return hook

    def gone(module: nn.Module, arguments: tuple, output: Any) -> Any:
        return _mapped(output, lambda value: seen.arrive(value, len(layers)))

    # a layer may be an end of the block as well: it is outermost
    handles = [ends[0].register_forward_pre_hook(arriving(-1))]
    for index, layer in enumerate(layers):
        handles.append(layer.register_forward_pre_hook(arriving(index)))
        handles.append(layer.register_forward_hook(leaving(index)))
    handles.append(ends[1].register_forward_hook(gone))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _mapped(value: Any, change: Any) -> Any:
    """`value` with each tensor of numbers in it, however nested, changed."""
    if isinstance(value, Tensor):
        return change(value) if value.is_floating_point() and value.grad_fn is not None else value
    if type(value) in (list, tuple):
        return type(value)(_mapped(each, change) for each in value)
    return value
