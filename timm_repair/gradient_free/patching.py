"""Patching: a few single weights of a model, chosen and replaced."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn


def front(one: Tensor, other: Tensor) -> Tensor:
    """Numbers, in order, of the pairs (one, other), two (n,), that no pair beats in both: the
    Pareto front, both to be large. Of equal pairs the first.
    """
    first, second = (np.asarray(each.double().cpu()) for each in (one, other))
    order = np.lexsort((np.arange(len(first)), -second, -first))
    best = np.maximum.accumulate(second[order])
    kept = np.concatenate([[True], second[order][1:] > best[:-1]]) if len(order) else order
    return torch.from_numpy(np.sort(order[kept.astype(bool)]))


class Patch:
    """Single weights of `model`, in a fixed order.

    Args:
        places: name of a parameter to which of its weights (k,), counted as if it were flat.
    """

    def __init__(self, model: nn.Module, places: Mapping[str, Tensor]):
        parameters = dict(model.named_parameters())
        self.places = {name: these.cpu() for name, these in places.items() if len(these)}
        self.parameters = {name: parameters[name] for name in self.places}
        self.indices = {
            name: torch.unravel_index(these.to(parameters[name].device), parameters[name].shape)
            for name, these in self.places.items()
        }

    def __len__(self) -> int:
        return sum(map(len, self.places.values()))

    @torch.no_grad()
    def apply(self, values: Tensor) -> None:
        """The weights become `values` (size,)."""
        sizes = [len(these) for these in self.places.values()]
        for name, part in zip(self.places, values.split(sizes), strict=True):
            parameter = self.parameters[name]
            parameter[self.indices[name]] = part.to(parameter)

    def siblings(self) -> np.ndarray:
        """(5, size) what each is now; mean, standard deviation, least and largest of all weights of
        the layer that it is one of.
        """
        columns = []
        for name, these in self.places.items():
            weight = self.parameters[name].detach().double().cpu()
            moments = weight.mean(), weight.std(correction=0), *weight.aminmax()
            of_all = np.array([float(each) for each in moments])
            now = weight[torch.unravel_index(these, weight.shape)].numpy()[None]
            columns.append(np.concatenate([now, np.repeat(of_all[:, None], len(these), 1)]))
        return np.concatenate(columns, 1)


def beginning(siblings: np.ndarray, count: int, seed: int) -> np.ndarray:
    """(count, size) places that a search begins with: the weights as they are, and others from
    N(mean, deviation) of their layers.

    Args:
        siblings: as from `Patch.siblings`.
    """
    now, mean, deviation, *_ = siblings
    first = np.random.default_rng(seed).normal(mean, deviation, (count, len(mean)))
    first[0] = now
    return first
