"""A diagnosis as a picture."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from timm_repair.diagnosis.applying import seen_through
from timm_repair.diagnosis.statistics import Statistics
from timm_repair.diagnosis.wording import pattern_words
from timm_repair.images.images import Images
from timm_repair.report.figures.drawing import Figure
from timm_repair.report.figures.patterns import Shown, patterns

AMONG = 400  # failures that those shown are chosen from


def figure(diagnosis: Any, retained: Images, failing: Images, count: int) -> Figure:
    """A row of pictures a pattern, see `Diagnosis.figure`."""
    return patterns(rows(diagnosis, retained, failing, count))


def rows(
    diagnosis: Any, retained: Images, failing: Images, count: int
) -> list[tuple[str, Shown, Shown, Shown]]:
    """For each pattern what `figures.patterns` draws of it."""
    statistics = Statistics(diagnosis.input_size)
    rng = np.random.default_rng(diagnosis.seed)
    taken = np.sort(rng.choice(len(retained), min(count, len(retained)), replace=False)).tolist()
    x = retained.pixels(taken).float() / 255
    every = failing.pixels(range(min(len(failing), AMONG))).float() / 255
    theirs = statistics(every)
    shown = []
    for pattern in diagnosis.patterns:
        made = seen_through([(pattern.settings, 1.0)], x, diagnosis.seed, taken)
        alike = _alike(statistics(made), theirs)
        words = pattern_words(pattern)
        shown.append((words, _shown(x), _shown(made), _shown(every[alike])))
    return shown


def _alike(ours: Tensor, theirs: Tensor) -> Tensor:
    """(N,) for each of ours the one of theirs with the nearest statistics, each at most once."""
    scale = theirs.std(0) + 1e-3
    distances = torch.cdist(ours / scale, theirs / scale)
    found = []
    for row in distances:
        free = row.clone()
        free[found] = torch.inf
        found.append(int((free if free.isfinite().any() else row).argmin()))
    return torch.tensor(found)


def _shown(x: Tensor) -> list[np.ndarray]:
    return list((x * 255).round().byte().permute(0, 2, 3, 1).numpy())
