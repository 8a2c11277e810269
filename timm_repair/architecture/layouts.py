"""Layouts: how what arrives at a raw layer lies, and operations that work on maps all the same.

Tokens (N, L, C) are laid back on their grid for an operation, and off it for the layer that is fed.
Prefix tokens (class, registers, distillation) have no place there: an operation adds nothing to
them, but for an identity, which needs no grid. Tokens without a grid lie in a line: a map of L x 1.
"""

from typing import Any

import torch
from torch import Tensor, nn

from timm_repair.errors import PartitionError

LAYOUTS = ("NCHW", "NHWC", "NLC")


def channels_of(x: Tensor, layout: str, channels: slice) -> Tensor:
    """Those `channels` of `x`, which lies in `layout`."""
    return x[:, channels] if layout == "NCHW" else x[..., channels]


def scaled(x: Tensor, factors: Tensor, layout: str) -> Tensor:
    """`x`, each channel multiplied by its factor."""
    return factors.view(1, -1, 1, 1) * x if layout == "NCHW" else factors * x


def plus(x: Tensor, added: Tensor, layout: str, channels: slice) -> Tensor:
    """`x` with `added` on those channels."""
    if layout != "NCHW":  # tokens may come in groups, (N, groups, L, C)
        added = added.reshape(*x.shape[:-1], added.shape[-1])
    if added.shape == x.shape:  # on all channels
        return x + added
    parts = slice(0, channels.start), slice(channels.stop, None)
    before, after = (channels_of(x, layout, part) for part in parts)
    axis = 1 if layout == "NCHW" else -1
    sum_ = torch.cat([before, channels_of(x, layout, channels) + added, after], axis)
    # in memory as before: another order may be another kernel's, which rounds in another way
    like = sum_ if sum_.stride() == x.stride() else torch.empty_like(x, dtype=sum_.dtype)
    return sum_ if like.stride() == sum_.stride() else like.copy_(sum_)


def on_maps(operation: nn.Module, source: Any, target: Any) -> nn.Module:
    """`operation`, which works on maps, for an edge between two nodes of a genotype: itself where
    both are maps.
    """
    maps = source.layout == target.layout == "NCHW"
    return operation if maps else OnMaps(operation, source, target)


class OnMaps(nn.Module):
    """Lays what arrives at a node out as a map, works on it, and lays the result out as another
    node's.
    """

    def __init__(self, operation: nn.Module, source: Any, target: Any):
        super().__init__()
        self.operation, self.source, self.target = operation, source, target
        same = (source.layout, source.prefix) == (target.layout, target.prefix)
        self.untouched = isinstance(operation, nn.Identity) and same

    def forward(self, x: Tensor) -> Tensor:
        return (
            x if self.untouched else _from_maps(self.operation(_maps(x, self.source)), self.target)
        )


def _maps(x: Tensor, node: Any) -> Tensor:
    if node.layout == "NCHW":
        return x
    if node.layout == "NHWC":
        return x.permute(0, 3, 1, 2)
    tokens = x.flatten(1, -2)[:, node.prefix :]
    height, width = sides(tokens.shape[1], node.grid)
    return tokens.transpose(1, 2).reshape(x.shape[0], x.shape[-1], height, width)


def _from_maps(x: Tensor, node: Any) -> Tensor:
    if node.layout == "NCHW":
        return x
    if node.layout == "NHWC":
        return x.permute(0, 2, 3, 1)
    tokens = x.flatten(2).transpose(1, 2)
    return nn.functional.pad(tokens, (0, 0, node.prefix, 0)) if node.prefix else tokens


def sides(count: int, grid: tuple[int, int] | None) -> tuple[int, int]:
    """(H, W) of `count` tokens that lie on `grid`, or on one of the same proportions where the
    image has another size; (count, 1) without a grid.

    Raises:
        PartitionError: they lie on none.
    """
    if grid is None:
        return count, 1
    if grid[0] * grid[1] == count:
        return grid
    height = round((count * grid[0] / grid[1]) ** 0.5)
    if (
        not height
        or count % height
        or abs(height * grid[1] - count // height * grid[0]) > max(grid)
    ):
        raise PartitionError(
            f"{count} tokens do not lie on a grid like the {grid[0]}x{grid[1]} of the images that"
            " the model was repaired for: give it images of those proportions"
        )
    return height, count // height
