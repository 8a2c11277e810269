"""What most tests share: a tiny trained classifier, what it gets wrong, and the promise that no test changes global state."""

import atexit
import logging
import os
import random
import shutil
import socket
import tempfile
import warnings
from collections.abc import Iterator
from copy import deepcopy

with socket.socket() as _free:
    _free.bind(("127.0.0.1", 0))
    HUB_PORT = _free.getsockname()[1]
_HOME = tempfile.mkdtemp(prefix="timm_repair-tests-")
atexit.register(shutil.rmtree, _HOME, ignore_errors=True)
# Read when huggingface_hub is imported, hence here: no test reaches the real Hub, or anybody's cache or token.
os.environ |= {"HF_ENDPOINT": f"http://127.0.0.1:{HUB_PORT}", "HF_HOME": _HOME, "HF_HUB_DISABLE_TELEMETRY": "1"}
os.environ.pop("HF_TOKEN", None)

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

from timm_repair.data import Images, RepairData, as_images, collect_failures, prepare
from timm_repair.runtime import Runtime

SIDE = 32


@pytest.fixture(autouse=True)
def fenced() -> Iterator[None]:
    """The same random numbers for every test, whichever ran before; global state must be as it was afterwards."""

    def state():
        return {
            "directory": os.getcwd(),
            "environment": dict(os.environ) | {"PYTEST_CURRENT_TEST": None},
            "threads": torch.get_num_threads(),
            "gradients": torch.is_grad_enabled(),
            "dtype": torch.get_default_dtype(),
            "deterministic": torch.are_deterministic_algorithms_enabled(),
            "handlers": [type(h) for h in logging.getLogger("timm_repair").handlers],
            "warnings": list(warnings.filters),
        }

    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    before = state()
    yield
    assert state() == before


def tiny(**options) -> nn.Module:
    """A timm ResNet of 50,000 weights for grey images of 32 pixels, untrained."""
    config = {"input_size": (1, SIDE, SIDE), "crop_pct": 1.0, "mean": (0.3,), "std": (0.35,)}
    options = {"num_classes": 10, "in_chans": 1, "stem_width": 8, "channels": (16, 16, 24, 32)} | options
    return timm.create_model("test_resnet", pretrained_cfg_overlay=config, **options)


def worn(pairs: list) -> list:
    """The same images seen through a worn camera: washed out and noisy. What the classifier fails on."""
    noise = np.random.default_rng(1)
    seen = (90 + 0.5 * np.asarray(image, dtype=float) + noise.normal(0, 12, (SIDE, SIDE)) for image, _ in pairs)
    return [(Image.fromarray(pixels.clip(0, 255).astype(np.uint8)), label) for pixels, (_, label) in zip(seen, pairs, strict=True)]


@pytest.fixture(scope="session")
def digits() -> dict[str, list]:
    """(image, label) pairs: "train" for the classifier, "pool" that failures are drawn from, "unseen" for the holdout."""
    found = load_digits()
    images = [Image.fromarray((p * 15.9).astype(np.uint8)).resize((SIDE, SIDE), Image.BICUBIC) for p in found.images]
    pairs = list(zip(images, found.target.tolist(), strict=True))
    order = np.random.default_rng(0).permutation(len(pairs))
    parts = zip(("train", "pool", "unseen"), np.split(order, [700, 1300]), strict=True)
    return {name: [pairs[i] for i in part] for name, part in parts}


@pytest.fixture(scope="session")
def trained(digits) -> nn.Module:
    """The classifier, in eval mode; take `classifier` to change it."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = tiny(zero_init_last=False)
        images = as_images(digits["train"], model)
        inputs = images.preprocessing.normalize(images.pixels(range(len(images))))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
        model.train()
        for _ in range(8):
            for batch in torch.randperm(len(images)).split(50):
                optimizer.zero_grad(set_to_none=True)
                F.cross_entropy(model(inputs[batch]), images.labels[batch]).backward()
                optimizer.step()
    model.zero_grad(set_to_none=True)
    return model.eval()


@pytest.fixture
def classifier(trained) -> nn.Module:
    return deepcopy(trained)


@pytest.fixture(scope="session")
def failures(trained, digits) -> Images:
    """What the classifier gets wrong through the worn camera."""
    return collect_failures(trained, worn(digits["pool"]), runtime=Runtime(progress=False))


@pytest.fixture(scope="session")
def data(trained, failures, digits) -> RepairData:
    """The data of a repair of the classifier, with failing and retained examples and both populations held out."""
    holdout = {"worn": worn(digits["unseen"]), "clean": digits["unseen"]}
    return prepare(trained, failures, retain=digits["train"], holdout=holdout, runtime=Runtime(progress=False))


@pytest.fixture
def runtime() -> Runtime:
    return Runtime(progress=False)


@pytest.fixture
def offline(monkeypatch) -> None:
    """Any connection is an error."""
    def refuse(*_):
        raise AssertionError("the network was touched")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
