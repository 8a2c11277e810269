"""Tiny models of tokens: what timm calls them, and the options that make them tiny."""

from copy import deepcopy
from functools import lru_cache
from importlib import import_module

import planted
import torch
from torch import nn

VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 2}
SWIN = {"img_size": 32, "patch_size": 2, "window_size": 4, "embed_dim": 8, "depths": (2, 2)}
MODELS: dict[str, dict] = {
    "vit_tiny_patch16_224": VIT,
    "deit_tiny_distilled_patch16_224": VIT,
    "vit_relpos_small_patch16_224": VIT,
    "eva02_tiny_patch14_224": VIT,
    "swin_tiny_patch4_window7_224": SWIN | {"num_heads": (2, 2)},
    "swinv2_cr_tiny_224": SWIN | {"num_heads": (2, 2)},
    "xcit_nano_12_p16_224": {"embed_dim": 16, "depth": 2, "num_heads": 2, "cls_attn_layers": 1},
    "levit_128s": {"embed_dim": (16, 16), "depth": (2, 1), "num_heads": (2, 2), "key_dim": 8},
    "mambaout_femto": {"depths": (1, 1), "dims": (8, 16)},
    "pvt_v2_b0": {"depths": (1, 1), "embed_dims": (8, 16), "num_heads": (1, 2), "sr_ratios": (4, 2)}
    | {"mlp_ratios": (2, 2), "linear": False},
    "mlp_mixer.MlpMixer": {"img_size": 32, "patch_size": 8, "embed_dim": 32, "num_blocks": 2},
    "nest.Nest": {"img_size": 32, "patch_size": 2, "embed_dims": (8, 8, 8)}
    | {"num_heads": (2, 2, 2), "depths": (1, 1, 1)},
}
SIDES = {"levit_128s": 64, "xcit_nano_12_p16_224": 64}


def side(name: str) -> int:
    """Of the images that the tiny model takes."""
    return SIDES.get(name, 32)


@lru_cache
def original(name: str) -> nn.Module:
    """The model with random weights, in eval mode; the tests that change it copy it."""
    config = {"input_size": (3, side(name), side(name)), "mean": (0.5,) * 3, "std": (0.25,) * 3}
    if "." in name:  # a class, since its entry points settle how large it is
        owner, _, kind = name.partition(".")
        torch.manual_seed(0)
        made = getattr(import_module(f"timm.models.{owner}"), kind)(num_classes=5, **MODELS[name])
        model = planted.disturbed(made).eval()
        model.pretrained_cfg = config
    else:
        model = planted.network(name, classes=5, in_chans=3, config=config, **MODELS[name])
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # what starts at almost nothing would hide all that is behind it
        for parameter in model.parameters():
            if parameter.abs().max() < 1e-3:
                parameter.add_(0.5 * torch.rand(parameter.shape, generator=generator))
    return model


def classifier() -> nn.Module:
    """A tiny ViT that has all planted pictures right, in eval mode."""
    model = deepcopy(original("vit_tiny_patch16_224"))
    generator = torch.Generator().manual_seed(planted.SEED)
    with torch.no_grad():  # timm's weights start so small that all pictures look alike to them
        for parameter in model.parameters():
            if parameter.ndim > 1:
                table = parameter.ndim == 3  # of positions
                spread = 1.0 if table else 1.0 / parameter[0].numel() ** 0.5
                parameter.copy_(spread * torch.randn(parameter.shape, generator=generator))
    model.reset_classifier(planted.CLASSES)
    return planted.headed(model)


def images(name: str, count: int = 3) -> torch.Tensor:
    """Noise."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 3, side(name), side(name), generator=generator)
