"""The prefix of a block: what a model computes before it. While only the block changes, that part can be computed once and kept.

Which modules lie before a block is read from a trace, so it needs no table of families. A model that does something between its
modules on the way to the block (a sum, a reshape) cannot be entered in the middle like this; `resumes_exactly` finds out.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn

from timm_repair.partition import Block
from timm_repair.surgery import capture_inputs, evaluating
from timm_repair.tracing import Trace

CACHE_BYTES = 2**30
_BATCH = 256  # images run at once to fill a cache


class _Passed(nn.Module):
    """In the place of a module that was run before: hands on what it is given."""

    def forward(self, x: Tensor, *ignored, **options) -> Tensor:
        return x


class _AllArrived(Exception):
    """Stops a forward pass of which no more is wanted."""


@contextmanager
def starting_at(model: nn.Module, block: Block, calls: Trace) -> Iterator[None]:
    """For a while `model(x)` takes what arrives at `block`, (N, C, H, W), instead of images; parameters keep their names.

    Args:
        calls: `trace(model)`.
    """
    start = calls[block.paths[0]][0].start
    done = [path for path, made in calls.items() if path and all(call.end < start for call in made)]
    outermost = [path for path in done if path.rpartition(".")[0] not in done]
    replaced = []
    try:
        for path in outermost:
            parent, _, key = path.rpartition(".")
            modules = model.get_submodule(parent)._modules
            replaced.append((modules, key, modules[key]))
            modules[key] = _Passed()
        yield
    finally:
        for modules, key, module in replaced:
            modules[key] = module


@torch.no_grad()
def arriving(model: nn.Module, blocks: Sequence[Block], batches: Iterable[Tensor]) -> dict[str, Tensor]:
    """What arrives at each of `blocks` for all images of `batches`, (N, C, H, W) by block name, in eval mode.

    One forward pass for all blocks, up to the last of them. Takes N times the size of the maps in memory.
    """
    found: dict[str, list[Tensor]] = {block.name: [] for block in blocks}

    def keep(name: str, last: int):
        def hook(module: nn.Module, inputs: tuple) -> None:
            found[name].append(inputs[0].clone())  # an in-place layer may overwrite it
            if all(len(parts) == last for parts in found.values()):
                raise _AllArrived

        return hook

    with evaluating(model):
        for number, images in enumerate(batches, start=1):
            with ExitStack() as hooks:
                for block in blocks:
                    hooks.enter_context(capture_inputs(model, {block.paths[0]: keep(block.name, number)}))
                try:
                    model(images)
                except _AllArrived:
                    pass
    return {name: torch.cat(parts) for name, parts in found.items()}


@torch.no_grad()
def resumes_exactly(model: nn.Module, block: Block, calls: Trace, images: Tensor) -> bool:
    """Whether `model` entered at `block` gives the logits of the whole model, bit for bit, for `images`."""
    with evaluating(model):
        try:
            whole = model(images)
            arrived = arriving(model, [block], [images])[block.name]
            with starting_at(model, block, calls):
                return torch.equal(model(arrived), whole)
        except (RuntimeError, TypeError, AttributeError, ValueError):
            return False


@dataclass(frozen=True)
class Entrance:
    """A model that is run many times on the same images while only one block changes, entered as late as can be; from `entrances`.

    Args:
        images: row numbers (n,) to what the model takes for them, (n, C, H, W).
        maps: what arrives at the block for every row; None where the model is run from the images each time.
    """

    model: nn.Module
    block: Block
    calls: Trace
    images: Callable[[Tensor], Tensor]
    maps: Tensor | None = None

    @contextmanager
    def entered(self) -> Iterator[Callable[[Tensor], Tensor]]:
        """Row numbers (n,) to logits (n, classes), with gradients where the mode of the caller has them."""
        if self.maps is None:
            yield lambda rows: self.model(self.images(rows))
            return
        with starting_at(self.model, self.block, self.calls):
            yield lambda rows: self.model(self.maps[rows])


def entrances(model: nn.Module, blocks: Sequence[Block], calls: Trace, images: Callable[[Tensor], Tensor], count: int,
              budget: int = CACHE_BYTES) -> dict[str, Entrance]:
    """Where to enter `model` for each of `blocks`, by name; one forward pass of all images serves all of them.

    Args:
        calls: `trace(model)`.
        images: row numbers (n,) to what the model takes for them.
        count: number of images.
        budget: bytes that all maps together may take. The smallest are kept first; for a block whose maps do not fit, or at which the
            model cannot be entered, it is run from the images.
    """
    rows, kept = torch.arange(count), []
    sizes = {block.name: 4 * count * prod(block.in_shape or (budget,)) for block in blocks}
    for block in sorted(blocks, key=lambda block: sizes[block.name]):
        if sizes[block.name] <= budget and resumes_exactly(model, block, calls, images(rows[:2])):
            budget -= sizes[block.name]
            kept.append(block)
    maps = arriving(model, kept, (images(part) for part in rows.split(_BATCH))) if kept else {}
    return {block.name: Entrance(model, block, calls, images, maps.get(block.name)) for block in blocks}
