"""Taps: where each neuron is read, decided on a trace before the pass over the data."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import cast

import torch
from torch import Tensor, nn

from timm_repair.errors import PartitionError
from timm_repair.models.block import Block
from timm_repair.models.tracing import Call, Trace, trace

# pixels at which a map of 1x1 inside a block of larger maps is a gate, and not a very deep layer
_CLEAR_SIZE = 224


@dataclass(frozen=True)
class Tap:
    """Where the neurons of one convolution or linear layer are read.

    Args:
        layer: path of the layer; its output channels are the neurons.
        block: name of the block it is in.
        path: the module that is hooked, at its input if `before`, else at its output.
        channels: number of neurons.
        axis: dimension of the channels: 1 after a convolution, -1 after a linear layer.
    """

    layer: str
    block: str
    path: str
    before: bool
    channels: int
    axis: int

    def mean(self, tensor: Tensor, images: int) -> Tensor:
        """Mean of (N, ..., C, ...) over positions, (images, C) in float32 or wider."""
        return self.reduce(tensor, images) * (images * self.channels / max(tensor.numel(), 1))

    def reduce(self, tensor: Tensor, images: int) -> Tensor:
        """Sum of (N, ..., C, ...) over positions, (images, C) in float32 or wider.

        N may be more than the number of images: windows of tokens stand in the batch, those of one
        image in a row. What is computed once for all images, as a table of positions, is shared
        among them.
        """
        tensor = tensor if tensor.dtype == torch.float64 else tensor.float()
        positions = [d for d in range(1, tensor.ndim) if d != self.axis % tensor.ndim]
        sums = tensor.sum(positions) if positions else tensor
        if len(sums) == images:
            return sums
        if len(sums) % max(images, 1) == 0:
            return sums.view(images, -1, self.channels).sum(1)
        return (sums.sum(0, keepdim=True) / images).expand(images, -1)


def pooled(tensor: Tensor, *, last: bool) -> Tensor:
    """Means over positions, (n, C): of (n, C, H, W), or (n, ..., C) where channels are `last`."""
    positions = tuple(range(1, tensor.ndim - 1)) if last else (2, 3)
    return tensor.mean(positions) if tensor.ndim > 2 else tensor


def layers_of(model: nn.Module, blocks: Sequence[Block]) -> dict[str, str]:
    """Convolutions and linear layers inside the blocks: path -> name of the block, in registration
    order.
    """
    owner = {path: block.name for block in blocks for path in block.paths}
    found = {}
    for path, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            parts = path.split(".")
            above = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
            block = next((owner[prefix] for prefix in above if prefix in owner), None)
            if block is not None:
                found[path] = block
    return found


def find_taps(
    model: nn.Module, blocks: Sequence[Block], input_size: tuple[int, ...]
) -> tuple[Tap, ...]:
    """Where to read each neuron of `blocks`: its pre-activation, after the norm where one follows.

    A plain norm is read at its output, a fused norm and activation (timm's BatchNormAct2d) at the
    input of its `act`, and a layer that no norm follows directly (the last of a dense layer) at its
    own output. Gates are left out: layers with one position in a block whose maps are larger
    (squeeze-excite). They are looked for on a trace with images of 224 pixels or more, so that the
    true 1x1 maps at the end of a network for 32 pixels do not look like gates.
    """
    larger = (input_size[0], *(max(side, _CLEAR_SIZE) for side in input_size[1:]))
    try:
        calls = trace(model, larger)
    except PartitionError:  # a model for one size only
        calls = trace(model, input_size)
    modules = dict(model.named_modules())
    arrivals: dict[tuple[int, int], list[str]] = {}
    for path, made in calls.items():
        for call in made:
            if call.arrived is not None:
                arrivals.setdefault(call.arrived, []).append(path)
    wide = {block.name: _is_wide(block, calls) for block in blocks}
    taps = []
    for layer, block in layers_of(model, blocks).items():
        if layer not in calls or (
            wide[block] and _positions(cast(Tensor, calls[layer][0].output), modules[layer]) == 1
        ):
            continue
        left = calls[layer][0].left
        followers = [] if left is None else arrivals.get(left, [])
        norm = next((path for path in followers if _is_norm(modules[path])), None)
        act = f"{norm}.act"
        fused = norm is not None and act in calls and not isinstance(modules[act], nn.Identity)
        convolution = isinstance(modules[layer], nn.Conv2d)
        channels = modules[layer].out_channels if convolution else modules[layer].out_features
        taps.append(
            Tap(
                layer,
                block,
                act if fused else norm or layer,
                fused,
                cast(int, channels),
                1 if convolution else -1,
            )
        )
    return tuple(taps)


def _is_norm(module: nn.Module) -> bool:
    # by name: torch, timm and torchvision have no common base class for BatchNorm2d,
    # FrozenBatchNorm2d, EvoNorm, ...
    holds_layers = any(isinstance(part, nn.Conv2d | nn.Linear) for part in module.modules())
    return "Norm" in type(module).__name__ and not holds_layers


def _positions(output: Tensor, layer: nn.Module) -> int:
    return prod(output.shape[2:] if isinstance(layer, nn.Conv2d) else output.shape[1:-1])


def _is_wide(block: Block, calls: Trace) -> bool:
    """Whether more than one position enters and leaves the block."""
    first: list[Call] = calls.get(block.paths[0], [])
    last: list[Call] = calls.get(block.paths[-1], [])
    if not first or not last or not first[0].inputs:
        return False
    arrived, left = first[0].inputs[0], last[0].output
    arrived = arrived[0] if isinstance(arrived, tuple) else arrived  # the features of a DenseBlock
    return all(
        isinstance(x, Tensor) and x.ndim > 2 and prod(x.shape[2:]) > 1 for x in (arrived, left)
    )
