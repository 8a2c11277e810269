"""Pictures with the statistics of photographs, whatever a model makes of them: labels are its own
answers, so that it has all of them right, or others, so that it has all of them wrong.
"""

from collections.abc import Callable, Sequence

import numpy as np
import planted
import torch
from PIL import Image
from torch import nn

from timm_repair.diagnosis.diagnosing import diagnose
from timm_repair.diagnosis.diagnosis import Diagnosis
from timm_repair.diagnosis.sampling import Looking
from timm_repair.images.images import Images
from timm_repair.images.sources import as_images
from timm_repair.runtime.runtime import Runtime

SIDE = planted.SIDE
QUICK = {"compared": 40, "parts": 2, "populations": 1}


def scenes(count: int, seed: int) -> np.ndarray:
    """(N, H, W, 3) uint8: leaves of all sizes that cover each other under a sky, brighter above and
    bluer, warmer and darker below.
    """
    rng = np.random.default_rng(seed)
    yy, xx = np.mgrid[:SIDE, :SIDE]
    found = np.empty((count, SIDE, SIDE, 3), np.uint8)
    for image in found:
        base = rng.uniform(0.35, 0.6) + np.array([-0.05, 0, 0.12])
        light = rng.uniform(0.1, 0.4)
        x = np.ones((SIDE, SIDE, 3)) * base + light * (0.5 - yy[..., None] / SIDE)
        for size in np.sort(2 + 12 * rng.random(24) ** 2)[::-1]:
            cy, cx = rng.uniform(0, SIDE, 2)
            turn, flat = rng.uniform(0, np.pi), rng.uniform(0.5, 1)
            u = (xx - cx) * np.cos(turn) + (yy - cy) * np.sin(turn)
            v = (yy - cy) * np.cos(turn) - (xx - cx) * np.sin(turn)
            edge = (size - np.hypot(u, v / flat) + 0.5).clip(0, 1)[..., None]
            below = cy / SIDE
            grey = rng.uniform(0.05, 0.95 - 0.35 * below)
            tint = np.array([0.12, 0.02, -0.1]) * (2 * below - 0.4)
            colour = (grey + tint + rng.normal(0, 0.07, 3)).clip(0, 1) + 0.08 * u[..., None] / SIDE
            x = x * (1 - edge) + edge * colour
        image[:] = (255 * (x + rng.normal(0, 0.008, x.shape)).clip(0, 1)).round()
    return found


@torch.no_grad()
def labelled(model: nn.Module, pixels: np.ndarray, *, wrong: bool) -> list[planted.Pair]:
    """(image, label) pairs: the model has all of them right, or all of them wrong."""
    pairs = [(Image.fromarray(image), 0) for image in pixels]
    if wrong:
        return planted.mislabelled(model, pairs)
    answers = model(planted.inputs(model, pairs)).argmax(1).tolist()
    return [(image, answer) for (image, _), answer in zip(pairs, answers, strict=True)]


def images(model: nn.Module, pairs: Sequence[planted.Pair], name: str = "images") -> Images:
    """As `Images`; of failures, with what the model answers."""
    found = as_images(list(pairs), model, name=name)
    with torch.no_grad():
        found.answers = model(planted.inputs(model, pairs)).argmax(1)
    return found


def failing_by(
    model: nn.Module, change: Callable[[np.ndarray], np.ndarray], count: int, seed: int
) -> list[planted.Pair]:
    """Changed scenes with the labels of the unchanged ones, which the model has wrong for the
    change: undone, it has them right.
    """
    pixels = scenes(4 * count, seed)
    labels = [label for _, label in labelled(model, pixels, wrong=False)]
    seen = [
        (Image.fromarray(image), label) for image, label in zip(change(pixels), labels, strict=True)
    ]
    wrong = planted.wrong_by(model, seen)[0][:count]
    assert len(wrong) == count, "the change does not matter to this body"
    return wrong


def diagnosed(
    model: nn.Module, failing: Sequence[planted.Pair], *, seed: int = 0, **looking
) -> Diagnosis:
    """The diagnosis of these failures, against 200 scenes as they are."""
    retained = images(model, labelled(model, scenes(200, 200 + seed), wrong=False))
    options, runtime = Looking(**(QUICK | looking)), Runtime(seed=seed, progress=False)
    return diagnose(model, images(model, failing), retained, None, runtime, options)


def mislabelled(
    model: nn.Module, change: Callable[[np.ndarray], np.ndarray], count: int = 120, seed: int = 0
) -> list[planted.Pair]:
    """Changed scenes whose labels are wrong by construction: failures however mild the change."""
    return labelled(model, change(scenes(count, 100 + seed)), wrong=True)
