"""Neurons: where they are read, and which weights scale them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from timm_repair.models import partition
from timm_repair.models.taps import Tap, find_taps
from timm_repair.models.temporary import capture, capture_inputs


@dataclass(frozen=True)
class Site:
    """The neurons of one layer.

    Args:
        tap: where they are read.
        weights: (name of a parameter, its dimension that runs over the neurons): multiplying these
            multiplies the neuron.
    """

    tap: Tap
    weights: tuple[tuple[str, int], ...]


def sites(
    model: nn.Module, input_size: tuple[int, ...], within: Sequence[str] | None = None
) -> tuple[Site, ...]:
    """Where the neurons of every convolution and linear layer are read and scaled.

    In a plain chain of linear layers a hidden neuron is read behind its activation, and its factor
    folds into its outgoing weights, whatever the activation. Elsewhere it is read before the
    activation, after the norm where one follows, and its factor goes to its own weight and bias:
    behind a ReLU the two are the same, since a factor is not negative.

    Args:
        within: paths of modules; only layers inside them. None takes all.
    """
    found = _of_chain(model) if isinstance(model, nn.Sequential) else None
    found = _of_taps(model, input_size) if found is None else found
    if within is None:
        return found
    inside = [f"{path}." for path in within]
    return tuple(s for s in found if any(f"{s.tap.layer}.".startswith(path) for path in inside))


def _of_chain(model: nn.Sequential) -> tuple[Site, ...] | None:
    children = dict(model.named_children())
    linear = {name: m for name, m in children.items() if isinstance(m, nn.Linear)}
    others = [child for child in children.values() if not isinstance(child, nn.Linear)]
    # a norm, or anything else with weights or parts: not this simple
    if not linear or any([*each.children(), *each.parameters()] for each in others):
        return None
    names, result = list(children), []
    for layer, following in zip(linear, [*list(linear)[1:], None], strict=True):
        count = linear[layer].out_features
        if following is None:
            read, weights = layer, _own(linear[layer], layer)
        else:  # what stands just before the next layer is what arrives there
            read = names[names.index(following) - 1]
            weights = ((f"{following}.weight", 1),)
        result.append(Site(Tap(layer, layer, read, False, count, -1), weights))
    return tuple(result)


def _own(module: nn.Module, path: str) -> tuple[tuple[str, int], ...]:
    names = dict(module.named_parameters(recurse=False))
    return tuple((f"{path}.{name}", 0) for name in names if name in ("weight", "bias"))


def _of_taps(model: nn.Module, input_size: tuple[int, ...]) -> tuple[Site, ...]:
    modules = dict(model.named_modules())
    blocks = partition.blocks(model, granularity="layer", input_size=input_size)
    result = []
    for tap in find_taps(model, blocks, input_size):
        norm = tap.path.removesuffix(".act") if tap.before else tap.path
        if weights := _own(modules[norm], norm):
            # a norm without weights undoes what its layer is scaled by
            result.append(Site(tap, weights))
    return tuple(result)


def states(model: nn.Module, places: Sequence[Site], run: Callable[[], object]) -> Tensor:
    """States (n, all neurons) of the neurons at `places`, means over positions, while `run()` runs
    the model.
    """
    # by layer, a list of its states a batch: it may be called several times
    seen: dict[str, list[list[Tensor]]] = {site.tap.layer: [] for site in places}
    images = [0]  # of the batch that is running

    def begins(_: nn.Module, given: tuple) -> None:
        images[0] = len(given[0])
        for batches in seen.values():
            batches.append([])

    def reading(tap: Tap) -> Callable:
        # a hook's last argument is the output, or the inputs where it is called before
        return lambda _, *given: seen[tap.layer][-1].append(
            tap.mean(given[0][0] if tap.before else given[1], images[0]).detach()
        )

    taps = [site.tap for site in places]
    after = {tap.path: reading(tap) for tap in taps if not tap.before}
    before = {tap.path: reading(tap) for tap in taps if tap.before}
    with capture_inputs(model, {"": begins}), capture(model, after), capture_inputs(model, before):
        run()

    def whole(tap: Tap) -> Tensor:
        return torch.cat([torch.stack(calls).mean(0) for calls in seen[tap.layer]])

    return torch.cat([whole(tap) for tap in taps], 1)


@contextmanager
def doing(
    model: nn.Module, tap: Tap, channel: int, change: Callable[[Tensor], Tensor]
) -> Iterator[None]:
    """For a while the state of one neuron, at all positions, is what `change` makes of it."""

    def changed(tensor: Tensor) -> Tensor:
        tensor = tensor.clone()
        state = tensor.select(tap.axis, channel)
        state.copy_(change(state))
        return tensor

    module = model.get_submodule(tap.path)
    if tap.before:

        def before(_: nn.Module, given: tuple) -> tuple:
            return changed(given[0]), *given[1:]

        handle = module.register_forward_pre_hook(before)
    else:
        handle = module.register_forward_hook(
            lambda _, __, output: changed(cast(Tensor, output))  # it has neurons: a tensor
        )
    try:
        yield
    finally:
        handle.remove()


class Factors:
    """Factors of chosen neurons of `model`, folded into its weights; its modules stay as they are.

    Args:
        chosen: numbers of neurons, counted over `places` in order.
    """

    def __init__(self, model: nn.Module, places: Sequence[Site], chosen: Sequence[int]):
        self.parameters = dict(model.named_parameters())
        owners = [(site, channel) for site in places for channel in range(site.tap.channels)]
        self.slices = [
            [(name, dimension, owners[number][1]) for name, dimension in owners[number][0].weights]
            for number in chosen
        ]
        touched = {name for each in self.slices for name, *_ in each}
        self.original = {name: self.parameters[name].detach().clone() for name in sorted(touched)}

    @torch.no_grad()
    def apply(self, factors: Tensor) -> None:
        """The weights as if each chosen neuron were multiplied by its factor (k,)."""
        for name, tensor in self.original.items():
            self.parameters[name].copy_(tensor)
        for factor, each in zip(factors.tolist(), self.slices, strict=True):
            for name, dimension, channel in each:
                self.parameters[name].select(dimension, channel).mul_(factor)
