"""Streams that count how many examples they were asked for."""

import datasets
import torch
from images.sources_of_images import NAMES

FEATURES = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=NAMES)})


class Asked:
    """A generator of examples that counts how many it was asked for."""

    def __init__(self, pairs, columns=("image", "label")):
        self.pairs, self.columns, self.count = pairs, columns, 0

    def __call__(self):
        for pair in self.pairs:
            self.count += 1
            yield dict(zip(self.columns, pair, strict=True))

    def stream(self, features=None):
        return datasets.IterableDataset.from_generator(self, features=features)


def same(streamed, plain):
    assert streamed.labels.tolist() == plain.labels.tolist()
    assert torch.equal(streamed.pixels(range(len(streamed))), plain.pixels(range(len(plain))))
