"""A classifier that nobody trained, whose failures are known by construction; faults to plant in
it; images with known answers.

Its body is a random timm network whose norms take their statistics from one pass. Its head is the
nearest of ten prototypes, in closed form. Its pictures are ten coarse patterns with a little noise,
far apart for any random body, so that no rounding, number of threads or kernel crosses a margin.
Exchanging two rows of the head makes exactly the pictures of two classes wrong.

Two environment variables test the tests: PLANTED_SEED takes another random body, PLANTED_DISTURB
multiplies every weight of every planted model by 1 plus so much normal noise. The suite must pass
all the same.
"""

import os
from collections.abc import Sequence
from copy import deepcopy

import numpy as np
import timm
import torch
from PIL import Image
from scipy.linalg import hadamard
from torch import nn

SIDE = 32  # pixels
CLASSES = 10
NOISE = 2  # grey levels
SEED = int(os.environ.get("PLANTED_SEED", "0"))
DISTURB = float(os.environ.get("PLANTED_DISTURB", "0"))
SMALL = {"stem_width": 8, "channels": (16, 16, 24, 32), "zero_init_last": False}  # 50,000 weights
PATTERNS = 128 + 90 * hadamard(16)[1 : CLASSES + 1].reshape(CLASSES, 4, 4)

Pair = tuple[Image.Image, int]


def network(
    name: str = "test_resnet",
    *,
    classes: int = CLASSES,
    in_chans: int = 1,
    config: dict | None = None,
    **options,
) -> nn.Module:
    """A random timm network in eval mode for images of 32 pixels; the small ResNet unless another
    is named.
    """
    cfg = {
        "input_size": (in_chans, SIDE, SIDE),
        "crop_pct": 1.0,
        "mean": (0.5,) * in_chans,
        "std": (0.25,) * in_chans,
    } | (config or {})
    options = (SMALL if name == "test_resnet" else {}) | options
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        return disturbed(
            timm.create_model(
                name, num_classes=classes, in_chans=in_chans, pretrained_cfg_overlay=cfg, **options
            )
        ).eval()


def disturbed(model: nn.Module) -> nn.Module:
    """`model` itself, each weight changed by as much as PLANTED_DISTURB says."""
    generator = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for parameter in model.parameters() if DISTURB else ():
            parameter.mul_(1 + DISTURB * torch.randn(parameter.shape, generator=generator))
    return model


def classifier(name: str = "test_resnet", **options) -> nn.Module:
    """A network that has every picture right, by a wide margin, in eval mode. Options are those of
    `network`.
    """
    return headed(network(name, **options))


def headed(model: nn.Module) -> nn.Module:
    """`model` itself, with the head that has every picture right."""
    examples = pictures(
        10 * model.num_classes,
        seed=1000,
        classes=model.num_classes,
        mode="L" if _channels(model) == 1 else "RGB",
    )
    images = inputs(model, examples)
    norms = [
        module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)
    ]
    momenta = [norm.momentum for norm in norms]
    with torch.no_grad():
        for norm in norms:
            norm.momentum = None  # the statistics of this one pass
            norm.train()
        model(images)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        model.eval()
        features = model.forward_head(model.forward_features(images), pre_logits=True)
        prototypes = torch.stack(
            [features[label :: model.num_classes].mean(0) for label in range(model.num_classes)]
        )
        centre = prototypes.mean(0)
        distances = (prototypes - centre).square().sum(1)
        head, scale = model.get_classifier(), distances.mean()
        head.weight.copy_(10 / scale * (prototypes - centre))
        head.bias.copy_(-5 / scale * distances - head.weight @ centre)
    disturbed(head)
    assert margins(model, examples).min() > 1, (
        "this body does not tell the pictures apart: take `network` where answers do not matter"
    )
    return model.eval()


def confused(model: nn.Module, one: int = 0, other: int = 1) -> nn.Module:
    """A copy with the planted fault: it takes two classes for each other, and has all pictures of
    the others right.
    """
    model = deepcopy(model)
    head, rows = model.get_classifier(), [one, other]
    with torch.no_grad():
        for parameter in head.parameters():
            parameter[rows] = parameter[rows[::-1]].clone()
    return model


def pictures(count: int, seed: int = 0, *, classes: int = CLASSES, mode: str = "L") -> list[Pair]:
    """(image, label) pairs: the i-th shows class i % classes. Another seed, other noise: no two
    images are equal.
    """
    noise, pairs = np.random.default_rng(seed), []
    for i in range(count):
        pattern = PATTERNS[i % classes].repeat(SIDE // 4, 0).repeat(SIDE // 4, 1)
        pixels = (
            (pattern + noise.normal(0, NOISE, pattern.shape)).round().clip(0, 255).astype(np.uint8)
        )
        pairs.append((Image.fromarray(pixels).convert(mode), i % classes))
    return pairs


def inputs(model: nn.Module, pairs: Sequence[Pair]) -> torch.Tensor:
    """The images as the model takes them, computed without this package."""
    pixels = torch.stack(
        [
            torch.from_numpy(np.array(image)).reshape(SIDE, SIDE, -1).permute(2, 0, 1)
            for image, _ in pairs
        ]
    )
    mean, std = (
        torch.tensor(model.pretrained_cfg[name]).view(-1, 1, 1) for name in ("mean", "std")
    )
    return (pixels / 255 - mean) / std


@torch.no_grad()
def margins(model: nn.Module, pairs: Sequence[Pair]) -> torch.Tensor:
    """By how much the true class's logit is above the highest other one: negative where the model
    is wrong. One number a pair.
    """
    logits = model(inputs(model, pairs)).float()
    true = torch.tensor([label for _, label in pairs])[:, None]
    return logits.gather(1, true)[:, 0] - logits.scatter(1, true, -torch.inf).amax(1)


def wrong_by(
    model: nn.Module,
    pairs: Sequence[Pair],
    margin: float = 0.3,
    *,
    at_least: int = 1,
    right_at_least: int | None = None,
) -> tuple[list[Pair], list[Pair]]:
    """What the model gets wrong and what it gets right, each by a margin that no rounding crosses;
    the rest is left out.

    Raises:
        AssertionError: where one of them has fewer than `at_least`, or what is right fewer than
            `right_at_least` if that is given: then the test rests on nothing.
    """
    distances = margins(model, pairs).tolist()
    wrong = [pair for pair, distance in zip(pairs, distances, strict=True) if distance < -margin]
    right = [pair for pair, distance in zip(pairs, distances, strict=True) if distance > margin]
    enough = at_least if right_at_least is None else right_at_least
    assert len(wrong) >= at_least and len(right) >= enough, (len(wrong), len(right))
    return wrong, right


@torch.no_grad()
def mislabelled(model: nn.Module, pairs: Sequence[Pair]) -> list[Pair]:
    """The images with the class after the model's own answer: wrong for any model, whatever it was
    repaired to.
    """
    answers = model(inputs(model, pairs)).argmax(1).tolist()
    return [
        (image, (answer + 1) % model.num_classes)
        for (image, _), answer in zip(pairs, answers, strict=True)
    ]


def scrambled(model: nn.Module, stage: str) -> nn.Module:
    """A copy with a fault in a block: the filters of its convolutions in another order."""
    model, generator = deepcopy(model), torch.Generator().manual_seed(0)
    for module in model.get_submodule(stage).modules():
        if isinstance(module, nn.Conv2d):
            module.weight.data = module.weight.data[
                torch.randperm(len(module.weight), generator=generator)
            ]
    return model


def deadened(model: nn.Module, stage: str, share: float = 0.6) -> nn.Module:
    """A copy with another fault in a block: this share of its filters is zero."""
    model, generator = deepcopy(model), torch.Generator().manual_seed(1)
    for parameter in model.get_submodule(stage).parameters():
        if parameter.ndim == 4:
            parameter.data[torch.rand(len(parameter), generator=generator) < share] = 0
    return model


def _channels(model: nn.Module) -> int:
    return model.pretrained_cfg["input_size"][0]
