"""How large a patch is beside the whole model: bytes of the tensors that the repair of one block
changes, for each block.

    python -m benchmarks.models.patch_sizes

Counted, not downloaded: models on the meta device in float32, every block with its densest
architecture, a separable convolution on every edge.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import timm
import torch

from timm_repair.architecture.cell import build
from timm_repair.architecture.skeleton import skeleton_of
from timm_repair.models.partition import blocks
from timm_repair.models.surgery import extract, swap

MODELS = ("resnet18", "resnet50", "vgg16_bn", "densenet121", "efficientnet_b0")
RESULTS = Path(__file__).parents[1] / "results" / "patch_sizes.json"


def bytes_of(tensors: dict[str, torch.Tensor]) -> int:
    """What they take in a safetensors file, without its header."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def sizes(name: str) -> dict[str, int]:
    """Bytes of the whole model, and of a patch for each of its blocks."""
    with torch.device("meta"):
        found = {"whole": bytes_of(timm.create_model(name).state_dict())}
        for block in blocks(timm.create_model(name)):
            if not block.repairable:
                continue
            original, model = timm.create_model(name), timm.create_model(name)
            raw = extract(model, block)
            skeleton = skeleton_of(raw, block.in_shape)
            # of all operations the one with most weights
            edges = tuple(replace(edge, operation="sep_conv") for edge in skeleton.edges)
            swap(model, block, build(replace(skeleton, edges=edges), raw))
            before = original.state_dict().keys()  # what lies in the block has another name now
            found[block.name] = bytes_of(
                {key: tensor for key, tensor in model.state_dict().items() if key not in before}
            )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    found = {name: sizes(name) for name in MODELS}
    arguments.output.write_text(
        json.dumps({"bytes": found, "timm": timm.__version__}, indent=1) + "\n"
    )
    for name, each in found.items():
        parts = ", ".join(
            f"{block} {size / 1e6:.1f}" for block, size in each.items() if block != "whole"
        )
        print(f"{name}: {each['whole'] / 1e6:.1f} MB; a patch: {parts}")


if __name__ == "__main__":
    main()
