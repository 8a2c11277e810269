"""Replacing: which raw layers an operation may stand in the place of (`mode="replace"`)."""

from dataclasses import replace

from torch import Tensor, nn

from timm_repair.architecture.cell import Anchored
from timm_repair.architecture.genotype import Genotype, Replacement
from timm_repair.models.tracing import trace


def replaceable(raw: nn.Module, in_shape: tuple[int, ...] | None, skeleton: Genotype) -> Genotype:
    """`skeleton` with a replacement (operation "skip") for each layer that takes one map and gives
    one that an operation of some stride gives too. Layers that are fed lists of maps, or tokens,
    have none, nor have those of an earlier repair, whose paths read what arrives at them.

    Args:
        raw: the block as `surgery.extract` gives it.
        in_shape: (C, H, W) of its input; None where that is no map.
    """
    earlier = any(isinstance(module, Anchored) for module in raw.modules())
    maps = all(node.layout == "NCHW" for node in skeleton.nodes)
    if in_shape is None or earlier or not maps:
        return skeleton
    calls, found = trace(raw, in_shape), []
    for index, node in enumerate(skeleton.nodes):
        call = calls[node.layer][0]
        arrives, leaves = _shape(call.inputs), _shape((call.output,))
        if arrives is None or leaves is None:
            continue
        stride = max(round(arrives[1] / leaves[1]), 1)
        if [-(-side // stride) for side in arrives[1:]] == [*leaves[1:]]:
            found.append(Replacement(index, "skip", leaves[0], stride))
    return replace(skeleton, replacements=tuple(found))


def _shape(values: tuple) -> tuple[int, ...] | None:
    """(C, H, W) of the only one of `values`, if it is a map."""
    alone = values[0] if len(values) == 1 else None
    return tuple(alone.shape[1:]) if isinstance(alone, Tensor) and alone.ndim == 4 else None
