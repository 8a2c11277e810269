"""Photographs of the sizes that corruptions are published for, and random numbers as theirs."""

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

from timm_repair.images.corruptions import kernels as kernels
from timm_repair.images.corruptions.parameters import PARAMETERS

# side and number of the photographs below
SETS = {"cifar": (32, 4), "tiny": (64, 3), "imagenet": (112, 2)}


def photographs(side: int, count: int) -> np.ndarray:
    """(N, S, S, 3): pieces of the two photographs that come with scikit-learn."""
    found = []
    for photo in load_sample_images().images:
        width = 640 if side > 64 else 640 * side // 96
        pixels = np.asarray(
            Image.fromarray(photo).resize((width, 427 * width // 640), Image.Resampling.BOX)
        )
        places = [
            (top, left)
            for top in range(0, len(pixels) - side + 1, side)
            for left in range(0, width - side + 1, side)
        ]
        found.append([pixels[top : top + side, left : left + side] for top, left in places])
    turns = [tile for pair in zip(*found, strict=True) for tile in pair]
    return np.stack(turns[len(turns) // 2 :][:count])


class Legacy:
    """Numpy's old generator, whose numbers never change, asked in the order in which the reference
    asks it.
    """

    def __init__(self, seed: int):
        self.old = np.random.RandomState(seed)

    def normal(self, mean: float, std: float, shape: tuple) -> np.ndarray:
        if len(shape) == 2:
            return self.old.normal(mean, std, shape)
        # the reference has channels last
        return np.moveaxis(self.old.normal(mean, std, (*shape[1:], shape[0])), -1, 0)

    def poisson(self, rates: np.ndarray) -> np.ndarray:
        return np.moveaxis(self.old.poisson(np.moveaxis(rates, 0, -1)), -1, 0)

    def uniform(self, low: float, high: float, shape: tuple | None = None) -> np.ndarray:
        return self.old.uniform(low, high, shape)

    def integers(self, low: int, high: int, shape: tuple) -> np.ndarray:
        rounds, pair, height, width = shape
        return np.moveaxis(self.old.randint(low, high, (rounds, height, width, pair)), -1, 1)


def apply(name: str, x: np.ndarray, rng: object, *parameters: object) -> np.ndarray:
    """The corruption itself, of (N, C, H, W) from 0 to 1, with a generator of our choice."""
    return getattr(kernels, name)(x, lambda one: np.stack([one(rng) for _ in x]), *parameters)


def severities(kind: str, name: str) -> list[tuple]:
    return [p if isinstance(p, tuple) else (p,) for p in PARAMETERS[kind][name]]


def change(before: np.ndarray, after: np.ndarray) -> float:
    return float(np.abs(after.astype(int) - before).mean())
