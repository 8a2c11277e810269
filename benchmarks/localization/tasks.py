"""The ways to fail of the localization benchmark: corruptions, everyday drift, a confused pair of
classes, a forgotten class group.

A task is a model and three sets of CIFAR-10 JPEG images: failures to repair with, retained training
images, and untouched held-out sets. Pool and holdout are disjoint halves of the test set.
"""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from datasets import load_dataset
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from timm_repair.images.corruptions.corrupting import corrupt
from timm_repair.images.corruptions.parameters import CORRUPTIONS
from timm_repair.images.preprocessing import Preprocessing

COMMON = tuple(CORRUPTIONS)[:15]
TASKS = (
    *(f"{name}_s5" for name in COMMON),
    "gaussian_noise_s3",
    "defocus_blur_s3",
    "drift",
    "confused_pair",
    "forgotten_group",
)
FAILURES, RETAINED, POOL, HELD, CLEAN = 400, 800, 2500, 1200, 300
GROUP = (1, 9)  # automobile, truck: what the model of "forgotten_group" unlearned


@dataclass(frozen=True)
class Labelled:
    """Pixels (N, 3, 32, 32) uint8 and labels (N,)."""

    pixels: Tensor
    labels: Tensor

    def __getitem__(self, rows) -> "Labelled":
        return Labelled(self.pixels[rows], self.labels[rows])

    def __len__(self) -> int:
        return len(self.labels)

    def pairs(self) -> list:
        """A list of (PIL image, label), as a user would have it."""
        return [
            (Image.fromarray(p.permute(1, 2, 0).numpy()), int(y))
            for p, y in zip(self.pixels, self.labels, strict=True)
        ]


@dataclass(frozen=True)
class Task:
    """What a localizer and a repair get (`failures` with the model's `answers`, `retained`), and
    what they are judged by.

    `held` is the population that the failures came from, less what it shares with nobody; `clean`
    shows what a repair breaks.
    """

    model: nn.Module
    failures: Labelled
    answers: Tensor
    retained: Labelled
    held: Labelled
    clean: Labelled
    error_rate: float


def load_cifar(data: Path) -> tuple[Labelled, Labelled]:
    """Training and test set."""
    splits = load_dataset(
        "parquet",
        data_files={"train": str(data / "train.parquet"), "test": str(data / "test.parquet")},
    )
    return tuple(_labelled(splits[name]) for name in ("train", "test"))


def _labelled(split) -> Labelled:
    pixels = np.stack([np.asarray(image.convert("RGB")) for image in split["image"]])
    return Labelled(
        torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), torch.tensor(split["label"])
    )


def make_task(name: str, model: nn.Module, train: Labelled, test: Labelled, seed: int) -> Task:
    """The task `name`; halves, draws and corruptions follow from `seed`. `model` is not changed."""
    generator = torch.Generator().manual_seed(seed)
    pool, held = torch.randperm(len(test), generator=generator).chunk(2)
    kept = torch.randperm(len(train), generator=generator)
    clean = test[held[HELD : HELD + CLEAN]]
    if name == "confused_pair":
        answers = predict(model, test[pool[:POOL]].pixels)
        pair = most_confused(test.labels[pool[:POOL]], answers)
        pool, held = (
            rows[torch.isin(test.labels[rows], torch.tensor(pair))] for rows in (pool, held)
        )
        # confused with each other
        pool = pool[torch.isin(predict(model, test[pool].pixels), torch.tensor(pair))]
    elif name == "forgotten_group":
        group = torch.tensor(GROUP)
        kept = kept[~torch.isin(train.labels[kept], group)]
        model = forget(model, train[kept], generator)
        pool, held = (rows[torch.isin(test.labels[rows], group)] for rows in (pool, held))
    pool, held = test[pool[:POOL]], test[held[:HELD]]
    if name.rpartition("_s")[0] in COMMON:
        kind, _, severity = name.rpartition("_s")
        pool, held = (
            Labelled(corrupt(part.pixels, kind, int(severity), seed=seed + salt), part.labels)
            for salt, part in ((0, pool), (1000, held))
        )
    answers = predict(model, pool.pixels)
    wrong = (answers != pool.labels).nonzero().flatten()
    rows = wrong[:FAILURES]
    return Task(
        model,
        pool[rows],
        answers[rows],
        train[kept[:RETAINED]],
        held,
        clean,
        len(wrong) / len(pool),
    )


def most_confused(labels: Tensor, answers: Tensor) -> tuple[int, int]:
    """The pair of classes that are taken for each other most often."""
    counts = torch.bincount(10 * labels + answers, minlength=100).view(10, 10).fill_diagonal_(0)
    a, b = divmod(int((counts + counts.T).argmax()), 10)
    return a, b


def forget(
    model: nn.Module, rest: Labelled, generator: torch.Generator, steps: int = 40
) -> nn.Module:
    """A copy of `model` that was trained on with `rest`, which lacks some classes, until it hardly
    answers those.
    """
    model = deepcopy(model).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    for _ in range(steps):
        rows = torch.randint(len(rest), (64,), generator=generator)
        loss = F.cross_entropy(model(next(normalized(model, rest.pixels[rows]))), rest.labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def normalized(model: nn.Module, pixels: Tensor, size: int = 250) -> Iterator[Tensor]:
    """What the model takes, in batches of `size`."""
    preprocessing = Preprocessing.of(model)
    for part in pixels.split(size):
        yield preprocessing.normalize(part, torch.device("cpu"))


@torch.no_grad()
def predict(model: nn.Module, pixels: Tensor) -> Tensor:
    """Predicted classes (N,)."""
    return torch.cat([model(images).argmax(1) for images in normalized(model, pixels)])
