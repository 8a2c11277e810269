"""Partition: the blocks of a model, found by asking the model (§4.1, Table 2).

timm's `group_matcher` says which parameters belong together (cutting.py), one traced forward pass verifies what the
blocks take and return. Choose the granularity by what is to be repaired: `"stage"` (the paper's blocks), `"pair"` (its
DenseNet blocks: two dense layers), `"unit"` (one residual, MBConv or dense unit), `"layer"` (one convolution or linear
layer, for methods that change weights only).
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from timm.models.densenet import DenseBlock
from torch import Tensor, nn

from timm_repair.cutting import Piece, cut, layers, plan
from timm_repair.errors import OptionError, PartitionError, did_you_mean
from timm_repair.loading import load
from timm_repair.surgery import is_layer
from timm_repair.tracing import Trace, trace

GRANULARITIES = ("stage", "pair", "unit", "layer")


@dataclass(frozen=True)
class Block:
    """A part of a model that can be taken out and replaced.

    Args:
        name: module path ("layer3"), or first and last member of a run ("features.24-29").
        paths: the modules it spans: consecutive children of one parent, in call order.
        role: "stem", "body" or "head".
        in_shape: (C, H, W) of what arrives for one image; None where that is not one tensor.
        out_shape: the same for what leaves.
        parameters: full names of the parameters it owns.
        num_params: how many numbers they hold.
        flops: of one image's forward pass; a multiply-add counts two.
        reason: why it cannot be repaired; "" if it can.
    """

    name: str
    paths: tuple[str, ...]
    role: str
    in_shape: tuple[int, ...] | None
    out_shape: tuple[int, ...] | None
    parameters: tuple[str, ...]
    num_params: int
    flops: int
    reason: str = ""

    @property
    def repairable(self) -> bool:
        """Whether a repair may choose it."""
        return self.role == "body" and not self.reason


def blocks(
    model: str | nn.Module,
    *,
    granularity: str = "stage",
    names: Sequence[str] | None = None,
    input_size: tuple[int, ...] | None = None,
) -> tuple[Block, ...]:
    """The blocks of `model`, in the order of the forward pass; the model stays untouched.

    ResNets have four stages, VGG the five groups of convolutions between its max-pools, EfficientNet seven stages; a
    DenseNet's dense blocks and transitions are stages, and `"pair"` or `"unit"` cut the dense blocks further. Stem and
    head are in the result too, but not `repairable`.

    Args:
        model: a timm model or its name, or any `nn.Module` that maps images to logits.
        granularity: "stage", "pair", "unit" or "layer".
        names: cut by hand instead: module paths, runs of consecutive children of a Sequential or DenseBlock
            ("features.0:features.4"), or names of blocks found earlier. Exactly these are returned, and all are body;
            with granularity="layer" of any shape, since then only weights are to change.
        input_size: (C, H, W) of an image, where the model has no `pretrained_cfg` that says it.

    Returns:
        tuple[Block, ...]: disjoint in parameters. With "stage", "pair" and "unit" every parameter of the body is in
        one; with "layer" the norms are in none.

    Raises:
        PartitionError: no block can be repaired, a name is unknown, named blocks overlap or cannot be repaired, or the
            input size is unknown.
        OptionError: the granularity is unknown.
    """
    if granularity not in GRANULARITIES:
        raise OptionError(f"unknown granularity {granularity!r}{did_you_mean(granularity, GRANULARITIES)}")
    if isinstance(model, str):
        _, model = load(model, pretrained=False)
    calls = trace(model, input_size)
    if names is not None:
        pieces = _by_hand(model, names)
    elif granularity == "layer":
        pieces = layers(model, calls)
    else:
        pieces = cut("", model, plan(model, calls, granularity))
    weights_only = granularity == "layer"
    found = [_describe(model, piece, calls, weights_only, by_hand=names is not None) for piece in pieces]
    found.sort(key=lambda block: calls[block.paths[0]][0].start if block.paths[0] in calls else float("inf"))
    _require_repairable(model, found, by_hand=names is not None)
    return tuple(found)


def _describe(model: nn.Module, piece: Piece, calls: Trace, weights_only: bool, by_hand: bool) -> Block:
    parameters = dict(model.named_parameters())
    owned = tuple(name for name in piece.parameters if name in parameters)
    in_shape, out_shape, reason = _shapes(model, piece, calls, weights_only)
    alone = len(piece.paths) == 1 and is_layer(model.get_submodule(piece.paths[0]))
    parent = model.get_submodule(piece.paths[0].rpartition(".")[0])
    if not reason and alone and not (weights_only or by_hand or isinstance(parent, nn.Sequential)):
        reason = "a single layer"
    first, last = piece.paths[0], piece.paths[-1].rpartition(".")[2]
    return Block(
        name=first if len(piece.paths) == 1 else f"{first}-{last}",
        paths=tuple(piece.paths),
        role=piece.role,
        in_shape=in_shape,
        out_shape=out_shape,
        parameters=owned,
        num_params=sum(parameters[name].numel() for name in owned),
        flops=sum(call.flops for path in piece.paths for call in calls.get(path, ())),
        reason=reason,
    )


def _shapes(model: nn.Module, piece: Piece, calls: Trace, weights_only: bool) -> tuple[tuple | None, tuple | None, str]:
    """In- and out-shape of a piece for one image, and why it cannot be repaired ("" if it can)."""
    made = [calls.get(path, []) for path in piece.paths]
    if not all(made):
        return None, None, "never called as a module"
    arrived, left = made[0][0].inputs, [member[0].output for member in made]
    if isinstance(model.get_submodule(piece.paths[0].rpartition(".")[0]), DenseBlock):
        if len(arrived) != 1 or not all(isinstance(new, Tensor) for new in left):
            return None, None, "not a list of tensors in, one tensor out"
        features = arrived[0] if isinstance(arrived[0], tuple) else (arrived[0],)
        in_shape, out_shape = _joined(features), _joined(left)
    else:
        if len(arrived) != 1 or not isinstance(arrived[0], Tensor) or not isinstance(left[-1], Tensor):
            return None, None, "not one tensor in, one tensor out"
        in_shape, out_shape = tuple(arrived[0].shape[1:]), tuple(left[-1].shape[1:])
    return in_shape, out_shape, "" if weights_only else _objection(model, made, in_shape, out_shape)


def _joined(features: Sequence[Tensor]) -> tuple[int, ...]:
    return (sum(feature.shape[1] for feature in features), *features[0].shape[2:])


def _objection(model: nn.Module, made: list, in_shape: tuple, out_shape: tuple) -> str:
    times = max(len(member) for member in made)
    if times > 1:
        return f"called {times} times in one forward pass"
    if len(in_shape) != 3 or len(out_shape) != 3:
        return "tokens or vectors, not feature maps"
    return "channels last, not first" if getattr(model, "output_fmt", "NCHW") != "NCHW" else ""


def _by_hand(model: nn.Module, names: Sequence[str]) -> list[Piece]:
    if isinstance(names, str):
        raise PartitionError(f"names must be a list of names, not one string; pass names=[{names!r}]")
    pieces, owner = [], {}
    for name in names:
        paths = _spanned(model, name)
        owned = [f"{path}.{own}" for path in paths for own, _ in model.get_submodule(path).named_parameters()]
        if not owned:
            raise PartitionError(f"block {name!r} has no parameters; name one that has")
        for parameter in owned:
            if parameter in owner:
                raise PartitionError(
                    f"blocks {owner[parameter]!r} and {name!r} overlap: both own {parameter}; drop one"
                )
            owner[parameter] = name
        pieces.append(Piece(paths, owned))
    return pieces


def _spanned(model: nn.Module, name: str) -> list[str]:
    """Paths of the modules that `name` means: one module, "parent.a:parent.b", or "parent.a-b" as blocks are named."""
    modules = dict(model.named_modules())
    if name in modules and name:
        return [name]
    first, _, last = name.partition(":")
    parent = first.rpartition(".")[0]
    if not last:
        first, _, last = name.rpartition("-")
        parent = first.rpartition(".")[0]
        last = f"{parent}.{last}" if parent else last
    for path in (first, last):
        if path not in modules or not path:
            missing = path if ":" in name else name
            known = [known for known in modules if known and known.count(".") < 2]
            raise PartitionError(f"no block or module {missing!r} in the model{did_you_mean(missing, known)}")
    if last.rpartition(".")[0] != parent or not isinstance(modules[parent], nn.Sequential | DenseBlock):
        raise PartitionError(
            f"{name!r} is not a run: it needs children of one nn.Sequential or DenseBlock; name one module"
        )
    keys = list(modules[parent]._modules)
    begin, end = (keys.index(path.rpartition(".")[2]) for path in (first, last))
    if end < begin:
        raise PartitionError(f"{name!r} runs backwards; write {last}:{first}")
    return [f"{parent}.{key}" if parent else key for key in keys[begin : end + 1]]


def _require_repairable(model: nn.Module, found: list[Block], by_hand: bool) -> None:
    if by_hand:
        refused = [f"{block.name} ({block.reason})" for block in found if block.reason]
        if refused:
            raise PartitionError(
                f"cannot repair {', '.join(refused)}; leave it out of names, or use granularity='layer'"
            )
    if not any(block.repairable for block in found):
        reasons = Counter(block.reason for block in found if block.role == "body")
        why = "; ".join(f"{count} x {reason}" for reason, count in reasons.items()) or "it has a stem and a head only"
        raise PartitionError(
            f"no block of {type(model).__name__} can be repaired: {why}. Pass names=[...] with modules that map one "
            "(N, C, H, W) tensor to another, or granularity='layer' for methods that change weights only"
        )
