"""The relaxation as its equations say it (paper §3.3, Eq. 7 and 8, anchored), one edge, one
operation, one number at a time.

Slow, and for blocks that are a plain sequence of layers only: what relax.RelaxedBlock and
space.Cell must agree with.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

TABLE_3 = ("none", "skip", "avg_pool", "max_pool", "sep_conv", "dil_conv")

Operation = Callable[[Tensor], Tensor]


def softmax(values: Sequence[float]) -> list[float]:
    powers = [math.exp(value - max(values)) for value in values]
    return [power / sum(powers) for power in powers]


def seen(node: int, channels: int, partial: int) -> list[int]:
    """The channels that operations see at a node: 1/partial of them, the next ones at the next node
    (PC-DARTS §3.1).
    """
    width = max(1, channels // partial)
    group = node % (channels // width)
    return [group * width + k for k in range(width)]


def relaxed(
    x: Tensor,
    layers: Sequence[Operation],
    operations: dict[tuple[int, int, str], Operation],
    alpha: dict[tuple[int, int], list[float]],
    beta: dict[tuple[int, int], float] | None,
    gates: dict[int, list[float]],
    partial: int,
) -> Tensor:
    """X_K, where Z_j = X_{j-1} + g_j · Σ_{i<j} β_ij Σ_o w_ij,o · o(X_i) and X_j = L_j(Z_j).

    Args:
        x: X_0 (N, C, H, W).
        layers: L_1 … L_K.
        operations: (i, j, name) -> o, on the channels seen at i to those seen at j; nodes are
            counted from zero.
        alpha: (i, j) -> one number for each of TABLE_3.
        beta: (i, j) -> number, normalized over the edges into j; None leaves it out.
        gates: j -> one number for each channel seen at j.
        partial: operations see 1/partial of the channels.
    """
    arrived = []
    for j, layer in enumerate(layers):
        arrived.append(x)
        z = x.clone()
        sources = [i for i, target in alpha if target == j]
        shares = (
            softmax([beta[i, j] for i in sources])
            if beta is not None and sources
            else [1.0] * len(sources)
        )
        for i, share in zip(sources, shares, strict=True):
            part = arrived[i][:, seen(i, arrived[i].shape[1], partial)]
            for name, weight in zip(TABLE_3, softmax(alpha[i, j]), strict=True):
                if name == "none":
                    continue
                path = operations[i, j, name](part)
                for k, channel in enumerate(seen(j, x.shape[1], partial)):
                    z[:, channel] += gates[j][k] * share * weight * path[:, k]
        x = layer(z)
    return x


def discrete(
    x: Tensor,
    layers: Sequence[Operation],
    kept: dict[tuple[int, int], Operation],
    gains: dict[tuple[int, int], list[float]],
    partial: int,
) -> Tensor:
    """X_K of a discrete block: Z_j = X_{j-1} + Σ_i gain_ij · o_ij(X_i)."""
    arrived = []
    for j, layer in enumerate(layers):
        arrived.append(x)
        z = x.clone()
        for (i, target), operation in kept.items():
            if target == j:
                path = operation(arrived[i][:, seen(i, arrived[i].shape[1], partial)])
                z[:, seen(j, x.shape[1], partial)] += (
                    torch.tensor(gains[i, j]).view(1, -1, 1, 1) * path
                )
        x = layer(z)
    return x
