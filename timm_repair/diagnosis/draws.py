"""Draws: the random numbers of a pattern, which follow from a seed and the place of an image, and
from nothing else: the same whatever else is in the batch, on any device.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


class Draws:
    """Random numbers for some images, kept once drawn: a fit changes strengths, not draws.

    Args:
        seed: of all of them.
        places: (N,) of the images: equal places of equal seeds have equal draws.
        device: where they are wanted.
    """

    def __init__(self, seed: int, places: Sequence[int], device: torch.device | str | None = None):
        self.seed, self.places, self.device = seed, list(places), device
        self._kept: dict[tuple, Tensor] = {}

    def normal(self, name: str, *shape: int) -> Tensor:
        """(N, *shape) of mean 0 and variance 1."""
        return self._drawn(name, shape, lambda rng: rng.standard_normal(shape, np.float32))

    def uniform(self, name: str, *shape: int) -> Tensor:
        """(N, *shape) from 0 to 1."""
        return self._drawn(name, shape, lambda rng: rng.random(shape, np.float32))

    def _drawn(self, name: str, shape: tuple[int, ...], one) -> Tensor:
        if (name, shape) not in self._kept:
            digest = hashlib.sha256(f"{self.seed} {name}".encode()).digest()
            key = int.from_bytes(digest[:8], "little") << 64
            drawn = np.stack(
                [one(np.random.Generator(np.random.Philox(key=key + i))) for i in self.places]
            )
            self._kept[name, shape] = torch.from_numpy(drawn).to(self.device)
        return self._kept[name, shape]
