"""Populations that fail by what they show, not by how they look: a pair of classes that the model
confuses, and a group of classes that it has forgotten.

The halves of the test set are those of populations.py. "Clean" are all other classes of the half
that is measured on.
"""

from pathlib import Path

import numpy as np
import torch
from torch import nn

from benchmarks.localization.tasks import GROUP, forget, load_cifar, most_confused, predict
from benchmarks.repair.populations import Population


def load_meaning(
    model: nn.Module, data: Path, name: str, seed: int
) -> tuple[nn.Module, Population, list]:
    """The model that fails, its population, and what is retained, (PIL image, label).

    Of the pair the population is what is of one of these classes, and what the model takes for one
    of them where failures are drawn from. The group is forgotten by training on without it, and is
    missing in what is retained.
    """
    train, test = load_cifar(data)
    pool, held = np.split(np.random.default_rng(seed).permutation(len(test)), 2)
    pool, held = torch.from_numpy(pool), torch.from_numpy(held)
    if name == "forgotten_group":
        classes = torch.tensor(GROUP)
        train = train[~torch.isin(train.labels, classes)]
        model = forget(model, train, torch.Generator().manual_seed(seed))
    else:
        answers = predict(model, test[pool].pixels)
        classes = torch.tensor(most_confused(test.labels[pool], answers))
        pool = pool[torch.isin(answers, classes)]
    inside = torch.isin(test.labels, classes)
    population = Population(
        test[pool[inside[pool]]].pairs(),
        test[held[inside[held]]].pairs(),
        test[held[~inside[held]]].pairs(),
    )
    return model, population, train.pairs()
