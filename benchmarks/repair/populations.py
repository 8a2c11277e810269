"""The populations of the benchmarks: CIFAR-10 JPEG, clean or corrupted, as a pool to draw failures
from and an untouched holdout.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from datasets import load_dataset
from PIL import Image
from scipy.ndimage import gaussian_filter

from timm_repair import corrupt

CORRUPTIONS = {
    "gaussian_noise_s5": lambda x, rng: x + rng.normal(0, 0.10, x.shape),
    "gaussian_blur_1.5": lambda x, rng: gaussian_filter(x, (0, 1.5, 1.5, 0)),
    "contrast_s5": lambda x, rng: (x - (mean := x.mean((1, 2), keepdims=True))) * 0.15 + mean,
    "drift": lambda x, rng: x,  # no corruption: the failures of everyday
}


@dataclass(frozen=True)
class Population:
    """Lists of (PIL image, label): `pool` and `failing` come from disjoint halves of the
    (corrupted) test set, `clean` shows the same photographs as `failing` without the corruption.
    """

    pool: list
    failing: list
    clean: list


def load_population(data: Path, corruption: str, seed: int) -> tuple[Population, object]:
    """The population of one corruption, and the training set (a datasets.Dataset); the halves and
    the noise follow from `seed`.

    Args:
        corruption: of `CORRUPTIONS`, or one of the package's with its severity, as "fog_s4".
    """
    files = {"train": str(data / "train.parquet"), "test": str(data / "test.parquet")}
    splits = load_dataset("parquet", data_files=files)
    clean = np.stack([np.asarray(image.convert("RGB")) for image in splits["test"]["image"]])
    labels = splits["test"]["label"]
    rng = np.random.default_rng(seed)
    corrupted = _corrupted(clean, corruption, seed, rng)
    pool, held = np.split(rng.permutation(len(labels)), 2)

    def pairs(pixels: np.ndarray, rows: np.ndarray) -> list:
        return [(Image.fromarray(pixels[i]), int(labels[i])) for i in rows]

    return (
        Population(pairs(corrupted, pool), pairs(corrupted, held), pairs(clean, held)),
        splits["train"],
    )


def _corrupted(clean: np.ndarray, name: str, seed: int, rng: np.random.Generator) -> np.ndarray:
    """(N, H, W, 3) uint8."""
    if name not in CORRUPTIONS:
        kind, _, severity = name.rpartition("_s")
        return corrupt(clean, kind, int(severity), seed=seed, parameters="cifar")
    # truncated, as the reference implementation of the common corruptions does
    found = 255 * CORRUPTIONS[name](clean.astype(np.float64) / 255, rng).clip(0, 1)
    return found.astype(np.uint8)
