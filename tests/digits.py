"""Scikit-learn's digits as pictures of 32 pixels, and the small ResNet that was trained on them
once.

For tests that need a trained meaning: a scorer names a fault, a repair mends it.
"""

from pathlib import Path

import numpy as np
import planted
from making import repair_data
from PIL import Image
from safetensors.torch import load_file
from sklearn.datasets import load_digits
from torch import nn

from timm_repair.data.repair_data import RepairData

WEIGHTS = Path(__file__).parent / "assets" / "digits.safetensors"  # by make_digits.py


def pairs() -> dict[str, list[planted.Pair]]:
    """(image, label) pairs: "train" (700) for the classifier, "pool" (600), "unseen" (497)."""
    found = load_digits()
    # repeated, not interpolated: the same everywhere
    enlarged = (found.images * 15.9).astype(np.uint8).repeat(4, 1).repeat(4, 2)
    images = map(Image.fromarray, enlarged)
    every = list(zip(images, found.target.tolist(), strict=True))
    order = np.random.default_rng(0).permutation(len(every))
    parts = zip(("train", "pool", "unseen"), np.split(order, [700, 1300]), strict=True)
    return {name: [every[i] for i in part] for name, part in parts}


def trained() -> nn.Module:
    """The classifier, in eval mode. Its weights are those of the file, whatever PLANTED_SEED
    says.
    """
    model = planted.network()
    model.load_state_dict(load_file(WEIGHTS))
    return planted.disturbed(model).eval()


def with_fault(stage: str) -> tuple[nn.Module, RepairData]:
    """The classifier with most of a stage dead, and the data of its repair.

    Failing: 150 pictures that it had right and now has wrong; retained: those that it has right.
    """
    model, parts = trained(), pairs()
    every = parts["train"] + parts["pool"]
    _, had_right = planted.wrong_by(model, every)
    assert len(had_right) > 0.9 * len(every), "it reads most digits"
    faulty = planted.deadened(model, stage)
    failing, _ = planted.wrong_by(faulty, had_right, at_least=100)
    _, retained = planted.wrong_by(faulty, every, at_least=100)
    return faulty, repair_data(faulty, failing[:150], retained)


def worn(pairs: list[planted.Pair]) -> list[planted.Pair]:
    """The same images seen through a worn camera: washed out and noisy. What the classifier fails
    on.
    """
    noise, seen = np.random.default_rng(1), []
    for image, label in pairs:
        pixels = np.asarray(image, dtype=float)
        pixels = 90 + 0.5 * pixels + noise.normal(0, 12, pixels.shape)
        seen.append((Image.fromarray(pixels.clip(0, 255).astype(np.uint8)), label))
    return seen
