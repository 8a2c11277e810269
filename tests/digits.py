"""Scikit-learn's digits as pictures of 32 pixels, and the small ResNet that was trained on them once: for tests that need a trained meaning."""

from pathlib import Path

import numpy as np
import planted
from PIL import Image
from safetensors.torch import load_file
from sklearn.datasets import load_digits
from torch import nn

WEIGHTS = Path(__file__).parent / "assets" / "digits.safetensors"  # float16, made by make_digits.py beside it


def pairs() -> dict[str, list[planted.Pair]]:
    """(image, label) pairs: "train" (700) for the classifier, "pool" (600) for failures, "unseen" (497) for the holdout."""
    found = load_digits()
    enlarged = (found.images * 15.9).astype(np.uint8).repeat(4, 1).repeat(4, 2)  # no interpolation: the same everywhere
    every = [(Image.fromarray(pixels), label) for pixels, label in zip(enlarged, found.target.tolist(), strict=True)]
    order = np.random.default_rng(0).permutation(len(every))
    parts = zip(("train", "pool", "unseen"), np.split(order, [700, 1300]), strict=True)
    return {name: [every[i] for i in part] for name, part in parts}


def trained() -> nn.Module:
    """The classifier, in eval mode. Its weights are those of the file, whatever PLANTED_SEED says."""
    model = planted.network()
    model.load_state_dict(load_file(WEIGHTS))
    return planted.disturbed(model).eval()


def worn(pairs: list[planted.Pair]) -> list[planted.Pair]:
    """The same images seen through a worn camera: washed out and noisy. What the classifier fails on."""
    noise, seen = np.random.default_rng(1), []
    for image, label in pairs:
        pixels = 90 + 0.5 * np.asarray(image, dtype=float) + noise.normal(0, 12, (planted.SIDE, planted.SIDE))
        seen.append((Image.fromarray(pixels.clip(0, 255).astype(np.uint8)), label))
    return seen
