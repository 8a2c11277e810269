"""timm models as a repair leaves them, without a repair: with random paths in one block."""

import json

import planted
import torch
from torch import nn

from timm_repair.architecture.skeleton import random_genotype, skeleton_of
from timm_repair.hub import entry_point
from timm_repair.hub.entry_point import apply_edits
from timm_repair.models.partition import blocks
from timm_repair.models.surgery import extract
from timm_repair.runtime.runtime import Runtime

MODELS = {  # model -> its options, and the block to repair
    "test_resnet": ({}, "stage", "layer2"),
    "vgg11_bn": ({"mlp_ratio": 0.02}, "stage", "features.8-13"),
    "densenet121": ({}, "pair", "features.denseblock1.denselayer3-denselayer4"),
    "efficientnet_b0": ({}, "stage", "blocks.2"),
}


def image(channels: int = 3) -> torch.Tensor:
    return torch.randn(2, channels, 64, 64, generator=torch.Generator().manual_seed(1))


def edited(name: str, times: int = 1) -> nn.Module:
    """A timm model with a random genotype in one block, or in two turns, and random gains, as a
    repair leaves it.
    """
    options, granularity, block = MODELS[name]
    model = planted.network(name, classes=5, in_chans=3, **options)
    for turn in range(times):
        found = next(
            b
            for b in blocks(model, granularity=granularity, input_size=(3, 64, 64))
            if b.paths[0] == block.rpartition("-")[0] or b.name == block
        )
        genotype = random_genotype(
            skeleton_of(extract(model, found), found.in_shape), Runtime(seed=turn, progress=False)
        )
        assert genotype.edges
        edits = [
            {"paths": list(found.paths), "genotype": json.loads(json.dumps(genotype.to_dict()))}
        ]
        apply_edits(model, edits)
        entry_point.mark(model, edits)
    for name_, parameter in model.named_parameters():
        if ".gains." in name_:
            nn.init.normal_(parameter, std=0.3)
    return model.eval()
