"""Images seen through a pattern: made when they are decoded, the same each time."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from timm_repair.diagnosis.draws import Draws
from timm_repair.diagnosis.fitting import Settings, applied
from timm_repair.images.images import Images
from timm_repair.images.pool import Pool, Reader

Weighted = Sequence[tuple[Settings, float]]


class _Keyed:
    """A reader of the same source, whose examples are others: they are seen through a pattern."""

    def __init__(self, reader: Reader, key: Any):
        self.reader, self.key = reader, (reader.key, key)

    def read(self, rows: list[int]) -> list:
        return self.reader.read(rows)


class TransformedPool(Pool):
    """A pool whose images are seen through one of `patterns` each, chosen with their weights."""

    def __init__(self, pool: Pool, patterns: Weighted, seed: int):
        key = ("seen through", tuple((settings, weight) for settings, weight in patterns), seed)
        reader = _Keyed(pool.reader, key)
        super().__init__(reader, pool.ids, pool.preprocessing, pool.budget, pool.transform)
        self.scales, self.made = pool.scales, pool.made
        self.patterns, self.seed = list(patterns), seed

    def decode_one(self, row: int, raw: Any) -> Tensor | None:
        image = super().decode_one(row, raw)
        if image is None:
            return None
        x = image[None].float() / 255
        return (seen_through(self.patterns, x, self.seed, [row])[0] * 255).round().byte()


def seen_through(patterns: Weighted, x: Tensor, seed: int, places: Sequence[int]) -> Tensor:
    """Images (N, C, H, W) from 0 to 1, each through one of the patterns; randomness follows from
    `seed` and `places` (N,).
    """
    draws = Draws(seed, places, x.device)
    shares = np.cumsum([weight for _, weight in patterns])
    which = np.searchsorted(
        shares / shares[-1], draws.uniform("which pattern").cpu().numpy(), side="right"
    ).clip(max=len(patterns) - 1)
    found = x.clone()
    for number, (settings, _) in enumerate(patterns):
        mine = [i for i, chosen in enumerate(which) if chosen == number]
        if mine:
            own = Draws(seed, [places[i] for i in mine], x.device)
            rows = torch.tensor(mine, device=x.device)
            found[rows] = applied(settings, x[rows], own)
    return found


def transformed(images: Images, patterns: Weighted, seed: int) -> Images:
    """`images` through the patterns, with the same labels; nothing is decoded yet."""
    pool = TransformedPool(images.pool, patterns, seed)
    origin = images.origin | {"seen_through": {"seed": seed, "patterns": len(patterns)}}
    return Images(
        pool,
        images.rows,
        images.labels,
        name=f"{images.name}, seen through what failures have in common",
        origin=origin,
        on_unreadable=images.on_unreadable,
    )
