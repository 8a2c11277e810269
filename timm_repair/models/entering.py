"""The prefix of a block: what a model computes before it. While only the block changes, that part
can be computed once and kept.

Which modules lie before a block is read from a trace, so it needs no table of families. A model
that does something between its modules on the way to the block (a sum, a reshape) cannot be entered
in the middle like this; `resumes_exactly` finds out.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from accelerate.utils.memory import should_reduce_batch_size
from torch import Tensor, nn

from timm_repair.models.block import Block
from timm_repair.models.surgery import is_dense
from timm_repair.models.temporary import capture, capture_inputs, evaluating, only_trainable
from timm_repair.models.tracing import Trace
from timm_repair.models.weights import names_in

CACHE_BYTES = 2**30
AT_ONCE = 256  # images run at once to fill a cache


class _Passed(nn.Module):
    """In the place of a module that was run before: hands on what it is given."""

    def forward(self, x: Tensor, *ignored, **options) -> Tensor:
        return x


class _Joined(nn.Module):
    """In the place of a dense layer that was run before: its features are among those that the
    model is entered with.
    """

    def forward(self, features: Tensor | Sequence[Tensor], *ignored, **options) -> Tensor:
        return (features if isinstance(features, Tensor) else features[0])[:, :0]


class _AllArrived(Exception):
    """Stops a forward pass of which no more is wanted."""


@dataclass(frozen=True)
class Place:
    """A place in a model where it can be entered.

    Args:
        path: the module that is run first.
        before: the outermost of the modules that have been run by then.
        flops: of these, for one image.
    """

    path: str
    before: tuple[str, ...]
    flops: int

    @classmethod
    def at(cls, path: str, calls: Trace) -> "Place":
        """That of the module at `path`; `calls` is `trace(model)`."""
        start = calls[path][0].start
        done = {
            name for name, made in calls.items() if name and all(call.end < start for call in made)
        }
        before = tuple(
            name for name in calls if name in done and name.rpartition(".")[0] not in done
        )
        return cls(path, before, sum(call.flops for name in before for call in calls[name]))


@contextmanager
def starting_at(model: nn.Module, place: Place) -> Iterator[None]:
    """For a while `model(x)` takes what arrives at `place`, (N, …), instead of images; parameters
    keep their names.

    Inside a dense block that is all features so far, joined along the channels.
    """
    replaced = []
    try:
        for path in place.before:
            parent, _, key = path.rpartition(".")
            owner = model.get_submodule(parent)
            replaced.append((owner._modules, key, owner._modules[key]))
            owner._modules[key] = _Joined() if is_dense(owner) else _Passed()
        yield
    finally:
        for modules, key, module in replaced:
            modules[key] = module


class Entered(nn.Module):
    """`model` as a function of what arrives at `place`."""

    def __init__(self, model: nn.Module, place: Place):
        super().__init__()
        self.model, self.place = model, place

    def forward(self, arrived: Tensor) -> Tensor:
        with starting_at(self.model, self.place):
            return self.model(arrived)


@torch.no_grad()
def arriving(
    model: nn.Module, places: Sequence[Place], batches: Iterable[Tensor]
) -> dict[str, Tensor]:
    """What arrives at each of `places` for all images of `batches`, (N, …) by path, in eval mode.

    One forward pass for all places, up to the last of them. Takes N times the size of the maps in
    memory.
    """
    found: dict[str, list[Tensor]] = {place.path: [] for place in places}

    def keep(path: str, last: int):
        def hook(module: nn.Module, inputs: tuple) -> None:
            x = inputs[0]
            # an in-place layer may overwrite it
            found[path].append(x.clone() if isinstance(x, Tensor) else torch.cat(list(x), 1))
            if all(len(parts) == last for parts in found.values()):
                raise _AllArrived

        return hook

    with evaluating(model):
        for number, images in enumerate(batches, start=1):
            with capture_inputs(model, {place.path: keep(place.path, number) for place in places}):
                try:
                    model(images)
                except _AllArrived:
                    pass
    return {path: torch.cat(parts) if len(parts) > 1 else parts[0] for path, parts in found.items()}


@torch.no_grad()
def leaving(model: nn.Module, path: str, x: Tensor) -> Any:
    """What the module at `path` gives when the model is run on `x`, and no further, in the mode
    that it is in.
    """
    found = []

    def keep(_: nn.Module, inputs: tuple, output: Any) -> None:
        found.append(output)
        raise _AllArrived

    with capture(model, {path: keep}):
        try:
            model(x)
        except _AllArrived:
            pass
    return found[0]


def resumes_exactly(
    model: nn.Module, place: Place, images: Tensor, part: nn.Module
) -> Tensor | None:
    """What arrives at `place` for `images`, (n, …), if a repair of `part` may start there; None if
    not.

    It may if the model entered there gives the logits of the whole model, bit for bit, and the same
    gradients for `part`, and if what arrives for an image does not depend on the others. A model
    with gradient checkpointing around the place, for one, does not: in its backward pass it would
    run what was left out.
    """
    weights = [parameter for parameter in part.parameters() if parameter.is_floating_point()]

    def run(forward: nn.Module, x: Tensor) -> tuple[Tensor, tuple[Tensor | None, ...]]:
        with torch.enable_grad(), only_trainable(model, names_in(model, part)):
            logits = forward(x.clone())  # an in-place layer may overwrite it
            return logits.detach(), torch.autograd.grad(
                logits.float().logsumexp(1).sum(), weights, allow_unused=True
            )

    with evaluating(model):
        try:
            whole, gradients = run(model, images)
            arrived = arriving(model, [place], [images])[place.path]
            alone = torch.cat(
                [arriving(model, [place], [image])[place.path] for image in images.split(1)]
            )
            entered, same = run(Entered(model, place), arrived)
        except Exception as error:  # the model is somebody's, and is given what it does not expect
            if should_reduce_batch_size(error):
                raise
            return None
    return (
        arrived
        if torch.equal(entered, whole)
        and _close(alone, arrived)
        and all(map(_close, same, gradients))
        else None
    )


def _close(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None:
        return one is other
    # rounding, also that of bfloat16
    return bool((one - other).float().norm() <= 1e-2 * other.float().norm())


@dataclass(frozen=True)
class Entrance:
    """A model that is run many times on the same images while only one block changes, entered as
    late as can be; from `entrances`.

    Args:
        images: row numbers (n,) to what the model takes for them, (n, C, H, W).
        maps: what arrives at the block for every row; None where the model is run from the images
            each time.
    """

    model: nn.Module
    block: Block
    place: Place
    images: Callable[[Tensor], Tensor]
    maps: Tensor | None = None

    @contextmanager
    def entered(self) -> Iterator[Callable[[Tensor], Tensor]]:
        """Row numbers (n,) to logits (n, classes), with gradients where the mode of the caller has
        them.
        """
        maps = self.maps
        if maps is None:
            yield lambda rows: self.model(self.images(rows))
            return
        with starting_at(self.model, self.place):
            yield lambda rows: self.model(maps[rows])


def entrances(
    model: nn.Module,
    blocks: Sequence[Block],
    calls: Trace,
    images: Callable[[Tensor], Tensor],
    count: int,
    budget: int = CACHE_BYTES,
) -> dict[str, Entrance]:
    """Where to enter `model` for each of `blocks`, by name; one forward pass of all images serves
    all of them.

    Args:
        calls: `trace(model)`.
        images: row numbers (n,) to what the model takes for them.
        count: number of images.
        budget: bytes that all maps together may take. The smallest are kept first; for a block
            whose maps do not fit, or at which the model cannot be entered, it is run from the
            images.
    """
    rows, kept = torch.arange(count), []
    places = {block.name: Place.at(block.paths[0], calls) for block in blocks}
    sizes = {block.name: 4 * count * prod(block.in_shape or (budget,)) for block in blocks}
    for block in sorted(blocks, key=lambda block: sizes[block.name]):
        if (
            sizes[block.name] <= budget
            and resumes_exactly(
                model,
                places[block.name],
                images(rows[:2]),
                nn.ModuleList(map(model.get_submodule, block.paths)),
            )
            is not None
        ):
            budget -= sizes[block.name]
            kept.append(places[block.name])
    maps = arriving(model, kept, (images(part) for part in rows.split(AT_ONCE))) if kept else {}
    return {
        block.name: Entrance(model, block, place, images, maps.get(place.path))
        for block, place in zip(blocks, places.values(), strict=True)
    }
