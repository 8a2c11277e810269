"""Small models, images and data for the tests of single parts."""

import numpy as np
import timm
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

from timm_repair.data.repair_data import RepairData
from timm_repair.images.preprocessing import Preprocessing
from timm_repair.images.sources import as_images
from timm_repair.runtime.runtime import Runtime


def quiet(**options) -> Runtime:
    return Runtime(progress=False, **options)


def make(name: str = "test_resnet", **options) -> nn.Module:
    torch.manual_seed(0)
    config = {"input_size": (1, 32, 32), "crop_pct": 1.0, "mean": (0.5,), "std": (0.5,)}
    return timm.create_model(
        name, num_classes=10, in_chans=1, pretrained_cfg_overlay=config, **options
    ).eval()


def digits(count: int) -> list[tuple[np.ndarray, int]]:
    """Scikit-learn's 8x8 digits, enlarged to 32 pixels."""
    found = load_digits()
    pixels = (found.images[:count] * 15.9).astype(np.uint8).repeat(4, 1).repeat(4, 2)[..., None]
    return list(zip(pixels, map(int, found.target), strict=False))


def trained_on_digits() -> nn.Module:
    """A tiny ResNet that reads most digits."""
    model = make(zero_init_last=False).train()
    images = as_images(digits(1200), model)
    inputs = Preprocessing.of(model).normalize(images.pixels(torch.arange(1200)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    generator = torch.Generator().manual_seed(0)
    for _ in range(6):
        for batch in torch.randperm(1200, generator=generator).split(64):
            optimizer.zero_grad()
            F.cross_entropy(model(inputs[batch]), images.labels[batch]).backward()
            optimizer.step()
    return model.eval()


def repair_data(model: nn.Module, failing: list, retained: list | None) -> RepairData:
    images = [
        None if examples is None else as_images(examples, model) for examples in (failing, retained)
    ]
    return RepairData(*images, {}, {}, Preprocessing.of(model), 10, None, None, {})
