"""Partition: the blocks of a model, found by asking the model (§4.1, Table 2).

timm's `group_matcher` says which parameters belong together (cutting.py), one traced forward pass
verifies what the blocks take and return. Choose the granularity by what is to be repaired:
`"stage"` (the paper's blocks), `"pair"` (its DenseNet blocks: two dense layers), `"unit"` (one
residual, MBConv or dense unit), `"layer"` (one convolution or linear layer, for methods that change
weights only). Whether a block works on feature maps or on tokens is told by interface.py.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf

from torch import nn

from timm_repair.errors import OptionError, PartitionError, did_you_mean
from timm_repair.models.block import Block
from timm_repair.models.cutting import Grouping, Piece, by_hand, cut, group_parameters, layers
from timm_repair.models.interface import SEVERAL, UNCALLED, interface, objection
from timm_repair.models.surgery import Swapped
from timm_repair.models.tracing import Trace, trace

GRANULARITIES = ("stage", "pair", "unit", "layer")
SINGLE = "a single layer"


def blocks(
    model: nn.Module,
    *,
    granularity: str = "stage",
    names: Sequence[str] | None = None,
    input_size: tuple[int, ...] | None = None,
) -> tuple[Block, ...]:
    """The blocks of `model`, in the order of the forward pass; the model stays untouched.

    ResNets have four stages, VGG the five groups of convolutions between its max-pools,
    EfficientNet seven stages; a DenseNet's dense blocks and transitions are stages, and `"pair"` or
    `"unit"` cut the dense blocks further. Stem and head are in the result too, but not
    `repairable`.

    Args:
        model: a timm model, or any `nn.Module` that maps images to logits.
        granularity: "stage", "pair", "unit" or "layer".
        names: cut by hand instead: module paths, runs of consecutive children of a Sequential or
            dense block ("features.0:features.4"), or names of blocks found earlier. Exactly these
            are returned, and all are body; with granularity="layer" of any shape, since then only
            weights are to change.
        input_size: (C, H, W) of an image, where the model has no `pretrained_cfg` that says it.

    Returns:
        tuple[Block, ...]: disjoint in parameters. With "stage", "pair" and "unit" every parameter
        of the body is in one; with "layer" the norms are in none.

    Raises:
        PartitionError: no block can be repaired, a name is unknown, named blocks overlap or cannot
            be repaired, or the input size is unknown.
        OptionError: the granularity is unknown.
    """
    if granularity not in GRANULARITIES:
        raise OptionError(
            f"unknown granularity {granularity!r}{did_you_mean(granularity, GRANULARITIES)}"
        )
    return blocks_in(model, trace(model, input_size), granularity=granularity, names=names)


def blocks_in(
    model: nn.Module,
    calls: Trace,
    *,
    granularity: str = "stage",
    names: Sequence[str] | None = None,
) -> tuple[Block, ...]:
    """Like `blocks`, of a model that was traced already: cut one several ways for the time of one
    forward pass.
    """
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    given = _Given(model, calls, granularity, sizes, by_hand=names is not None)
    if names is not None:
        found = [_describe(piece, given) for piece in by_hand(model, names)]
    elif granularity == "layer":
        found = [_describe(piece, given) for piece in layers(model, calls)]
    else:
        grouped = group_parameters(model, calls, granularity)
        found = [
            block for piece in cut("", model, grouped) for block in _opened(piece, grouped, given)
        ]
    found.sort(key=lambda block: calls[block.paths[0]][0].start if block.paths[0] in calls else inf)
    found = _fringes_named(found)
    _require_repairable(model, found, by_hand=names is not None)
    return tuple(found)


@dataclass(frozen=True)
class _Given:
    """What pieces are described by; `sizes` are those of the parameters."""

    model: nn.Module
    calls: Trace
    granularity: str
    sizes: dict[str, int]
    by_hand: bool

    @property
    def weights_only(self) -> bool:
        """Whether nothing will be put in a block's place, so that shapes do not matter."""
        return self.granularity == "layer"

    def parent(self, piece: Piece) -> nn.Module:
        """The module that the piece's are children of."""
        return self.model.get_submodule(piece.paths[0].rpartition(".")[0])


def _describe(piece: Piece, given: _Given) -> Block:
    # a shared one counts under one name
    owned = tuple(name for name in piece.parameters if name in given.sizes)
    found = interface(piece, given.model, given.calls)
    reason = found.reason
    if not reason and not given.weights_only:
        reason = objection(found, given.by_hand)
    if (
        reason != UNCALLED
        and not (given.weights_only or given.by_hand)
        and _is_single(piece, given)
    ):
        reason = SINGLE
    first, last = piece.paths[0], piece.paths[-1].rpartition(".")[2]
    return Block(
        name=first if len(piece.paths) == 1 else f"{first}-{last}",
        paths=tuple(piece.paths),
        role=piece.role,
        in_shape=found.in_shape,
        out_shape=found.out_shape,
        parameters=owned,
        num_params=sum(given.sizes[name] for name in owned),
        flops=sum(call.flops for path in piece.paths for call in given.calls.get(path, ())),
        reason=reason,
        maps=found.maps,
    )


def _opened(piece: Piece, grouped: Grouping, given: _Given) -> list[Block]:
    """The block that `piece` is; or, where it takes or returns several maps, as the stages of an
    HRNet do, or is a list that is never called, the blocks inside it, provided that most of its
    parameters are in repairable ones and none gets lost.
    """
    whole = _describe(piece, given)
    unwhole = whole.reason in (SEVERAL, UNCALLED) or None in (whole.in_shape, whole.out_shape)
    if whole.role != "body" or not unwhole or len(piece.paths) > 1:
        return [whole]
    path = piece.paths[0]
    parts = cut(path, given.model.get_submodule(path), grouped)
    inside = [block for part in parts for block in _opened(part, grouped, given)]
    complete = {name for block in inside for name in block.parameters} == set(whole.parameters)
    # tokens beside others, as a PiT's stages take them, do not break a stage up
    repairable = sum(
        block.num_params for block in inside if block.repairable and (whole.reason or block.maps)
    )
    if complete and 2 * repairable >= whole.num_params:
        return inside
    # a ModuleList itself is never called
    reasons = Counter(block.reason for block in inside if block.reason)
    return [
        (
            replace(whole, reason=reasons.most_common(1)[0][0])
            if whole.reason == UNCALLED and reasons
            else whole
        )
    ]


def _fringes_named(found: list[Block]) -> list[Block]:
    """Single layers of the body before its first block of several are the stem's, those after the
    last the head's (an EfficientNet's `conv_head`, a last norm).
    """
    inner = [i for i, block in enumerate(found) if block.role == "body" and block.reason != SINGLE]
    if not inner:
        return found
    fringe = {
        i: "stem" if i < inner[0] else "head"
        for i in range(len(found))
        if not inner[0] <= i <= inner[-1]
    }
    moved = ((block, fringe.get(i, "body")) for i, block in enumerate(found))
    return [replace(block, role=role) if block.role == "body" else block for block, role in moved]


def _is_single(piece: Piece, given: _Given) -> bool:
    """Whether only one layer owns parameters, and it is not a convolution of a plain Sequential
    (VGG's units are).
    """
    modules = [given.model.get_submodule(path) for path in piece.paths]
    if any(isinstance(module, Swapped) for module in modules):
        return False
    owners = [part for module in modules for part in module.modules() if part._parameters]
    plain = isinstance(given.parent(piece), nn.Sequential) and isinstance(
        owners[0], nn.Conv2d | nn.Linear
    )
    return len(owners) == 1 and not plain


def _require_repairable(model: nn.Module, found: list[Block], by_hand: bool) -> None:
    if by_hand:
        refused = [f"{block.name} ({block.reason})" for block in found if block.reason]
        if refused:
            raise PartitionError(
                f"cannot repair {', '.join(refused)}; leave it out of names, or use"
                " granularity='layer'"
            )
    if not any(block.repairable for block in found):
        reasons = Counter(block.reason for block in found if block.role == "body")
        why = (
            "; ".join(f"{count} x {reason}" for reason, count in reasons.most_common())
            or "it has a stem and a head only"
        )
        raise PartitionError(
            f"no block of {type(model).__name__} can be repaired: {why}. Pass names=[...] with"
            " modules that map feature maps or tokens to others, or granularity='layer' for"
            " methods that change weights only"
        )
