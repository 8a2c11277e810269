"""A model that reads the class off the red channel, and images that it gets right or wrong: no
training, no luck.
"""

import numpy as np
import torch
from PIL import Image
from torch import nn

CLASSES = 3


class Reddest(nn.Module):
    """Answers the class whose centre (20, 40, 60) is nearest to the mean of the red channel, times
    255.
    """

    num_classes = CLASSES

    def __init__(self):
        super().__init__()
        config = {"input_size": (3, 8, 8), "mean": (0, 0, 0), "std": (1, 1, 1), "crop_pct": 1.0}
        self.pretrained_cfg = config
        self.centres = nn.Parameter(torch.tensor([20.0, 40.0, 60.0]))

    def forward(self, x):
        return -(255 * x[:, 0].mean((1, 2), keepdim=False)[:, None] - self.centres).abs()


def examples(n, *, right, start=0, seed=0):
    """`n` different images with labels that the model gets `right`, or all wrong; classes in
    turn.
    """
    noise = np.random.default_rng(seed)
    items = []
    for i in range(start, start + n):
        array = noise.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        array[..., 0] = 20 + 20 * (i % CLASSES)
        items.append((Image.fromarray(array), i % CLASSES if right else (i + 1) % CLASSES))
    return items
