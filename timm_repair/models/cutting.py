"""Cutting: where one block of a model ends and the next begins. `partition.blocks` describes and
verifies what is cut here.

The module tree is descended until a child's parameters share one group of timm's `group_matcher`.
Two containers get a rule of their own: a Sequential of bare layers (VGG) is cut at its pools, a
dense block by its layers.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, groupby
from typing import Any, cast

from timm.models._manipulate import group_with_matcher
from torch import Tensor, nn

from timm_repair.errors import PartitionError, did_you_mean
from timm_repair.models.surgery import Swapped, is_dense, is_layer
from timm_repair.models.tracing import Trace

# for models without a group_matcher of their own; the names are those that torchvision and most
# repositories use
_STAGES = r"^(?:stages|stage|blocks|block|layers|layer|features|transformers|dense_stages)\.?(\d+)"
_STEM = r"^(?:stem|patch_embed|conv_stem|conv1|bn1)\b"
_UNITS = (_STAGES + r"\.blocks\.(\d+)", None)
_FALLBACK = {
    "stage": {"stem": _STEM, "blocks": _STAGES},
    "unit": {"stem": _STEM, "blocks": [(_STAGES + r"\.(?:blocks\.)?(\d+)", None), (_STAGES, (0,))]},
}


@dataclass
class Piece:
    """A block before it is described: the modules it spans, the parameters it owns, its role."""

    paths: list[str]
    parameters: list[str]
    role: str = "body"


@dataclass(frozen=True)
class Grouping:
    """What the cut goes by: the ordinal of each parameter's group, that of the head, the trace, the
    granularity.
    """

    ordinals: dict[str, int]
    head: int
    calls: Trace
    granularity: str

    def groups(self, names: Iterable[str]) -> set[int]:
        """Ordinals of the groups of these parameters."""
        # a shared parameter has one name only
        return {self.ordinals[name] for name in names if name in self.ordinals}

    def role(self, names: Iterable[str]) -> str:
        """What a piece that owns these parameters is."""
        groups = self.groups(names)
        if groups == {self.head}:
            return "head"
        # a run may begin with the stem's layer and go on with its norm
        return "stem" if 0 in groups else "body"

    def keeps_size(self, path: str) -> bool:
        """Whether the module at `path` was called and leaves height and width as they are: a pool
        does not.
        """
        call = self.calls[path][0] if path in self.calls else None
        arrived = call.inputs[0] if call and call.inputs else None
        return (
            call is not None
            and isinstance(arrived, Tensor)
            and isinstance(call.output, Tensor)
            and arrived.shape[2:] == call.output.shape[2:]
        )

    def grows(self, path: str, module: nn.Module) -> bool:
        """Whether the module at `path` is a dense block: its children were called with a list (or
        tuple) of features.
        """
        first = next((f"{path}.{key}" for key, _ in module.named_children()), "")
        return (
            is_dense(module)
            and first in self.calls
            and isinstance(self.calls[first][0].inputs[0], tuple)
        )


def group_parameters(model: nn.Module, calls: Trace, granularity: str) -> Grouping:
    """Ask the model how its parameters group: by stage, or by unit for every finer granularity. One
    that only prepares what it gives to a model inside has that one's groups.
    """
    inside = _all_of(model)
    if inside is not None:
        path, core = inside
        found = group_parameters(core, calls, granularity)
        ordinals = {f"{path}.{name}": ordinal for name, ordinal in found.ordinals.items()}
        return Grouping(ordinals, found.head, calls, granularity)
    level = "stage" if granularity == "stage" else "unit"
    matcher = _matcher(model, level)
    # a name that no matcher knows gets the ordinal of what belongs to no group: the head
    unmatched = ("-", None)
    ordinals = cast(
        dict[str, int],
        group_with_matcher(chain(model.named_parameters(), [unmatched]), matcher, reverse=True),
    )
    head = ordinals.pop("-")
    if matcher is _FALLBACK[level] and set(ordinals.values()) <= {0, head}:
        ordinals, head = _by_children(model)
    classifier = (getattr(model, "pretrained_cfg", None) or {}).get("classifier") or ()
    heads = tuple(
        f"{name}." for name in ([classifier] if isinstance(classifier, str) else classifier)
    )
    ordinals = {
        name: head if name.startswith(heads) else ordinal for name, ordinal in ordinals.items()
    }
    return Grouping(ordinals, head, calls, granularity)


def _all_of(model: nn.Module) -> tuple[str, nn.Module] | None:
    """The child that has all parameters of a model without a `group_matcher`, and itself, or one
    inside it, has one.
    """
    if hasattr(model, "group_matcher"):
        return None
    owners = [(path, child) for path, child in model.named_children() if _owns(child)]
    if len(owners) != 1 or any(True for _ in model.parameters(recurse=False)):
        return None
    path, child = owners[0]
    return (path, child) if hasattr(child, "group_matcher") or _all_of(child) else None


def _matcher(model: nn.Module, level: str) -> dict | Callable:
    def own(coarse: bool) -> dict | Callable | None:
        try:
            return cast(Any, model).group_matcher(coarse=coarse)
        except (AttributeError, AssertionError):
            # no such method; or "coarse grouping is not implemented"
            return None

    matcher = own(coarse=level == "stage") or _FALLBACK[level]
    groups = matcher.get("blocks") if isinstance(matcher, dict) else None
    if (
        isinstance(matcher, dict) and level == "unit" and groups and matcher == own(coarse=True)
    ):  # no finer groups were drawn
        return matcher | {
            "blocks": [_UNITS, *([(groups, None)] if isinstance(groups, str) else groups)]
        }
    return matcher


def _by_children(model: nn.Module) -> tuple[dict[str, int], int]:
    """Each child of the root is a group; the last is the head, the first is the stem if it is one
    bare layer.

    Where nearly all is in one Sequential (torchvision's `features`), its children take its place.
    """
    owners = [(path, child) for path, child in model.named_children() if _owns(child)]
    while 0 < len(owners) <= 2 and isinstance(owners[0][1], nn.Sequential):
        (path, trunk), *rest = owners
        owners = [
            (f"{path}.{key}", child) for key, child in trunk.named_children() if _owns(child)
        ] + rest
    first = 0 if owners and is_layer(owners[0][1]) else 1
    head = first + len(owners) - 1
    ordinals = dict.fromkeys((name for name, _ in model.named_parameters()), head)
    for index, (path, child) in enumerate(owners):
        ordinals |= {f"{path}.{name}": first + index for name, _ in child.named_parameters()}
    return ordinals, head


def cut(path: str, module: nn.Module, plan: Grouping) -> list[Piece]:
    """The pieces of `module`, which is at `path`, in registration order."""
    pieces: list[Piece] = []
    run: Piece | None = None  # the piece that the next bare layer may join
    flat = _bare_convolutions(module) > 1
    for key, child in module.named_children():
        child_path = f"{path}.{key}" if path else key
        names = [f"{child_path}.{name}" for name, _ in child.named_parameters()]
        if not names:  # an activation joins the run, a pool ends it
            run = run if run and plan.keeps_size(child_path) else None
            if run:
                run.paths.append(child_path)
            continue
        groups = plan.groups(names)
        joins = isinstance(module, nn.Sequential) and is_layer(child) and plan.head not in groups
        whole = len(groups) < 2 or (_bare_convolutions(child) == 1 and plan.head not in groups)
        if plan.granularity != "stage" and plan.grows(child_path, child):
            pieces += _cut_dense(child_path, cast(nn.ModuleDict, child), plan.granularity)
        elif not whole and not joins:
            pieces += cut(child_path, child, plan)
        elif run and joins and (plan.granularity == "stage" or not _starts_unit(child)):
            run.paths.append(child_path)
            run.parameters += names
        else:
            pieces.append(Piece([child_path], names))
        run = pieces[-1] if joins else None
        if pieces[-1].paths[-1] == child_path:
            role = plan.role(pieces[-1].parameters)
            # VGG's group 0 is its first convolution, in VGG-11 all of its first block: no stem in a
            # flat Sequential
            pieces[-1].role = "body" if flat and role == "stem" else role
    return pieces


def _starts_unit(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d | nn.Linear | Swapped)


def _owns(module: nn.Module) -> bool:
    return any(True for _ in module.parameters())


def _bare_convolutions(module: nn.Module) -> int:
    """How many convolutions there are in a Sequential of bare layers only: several in VGG's
    `features`, one in torchvision's Conv2dNormActivation. 0 for any other module.
    """
    children = list(module.children()) if isinstance(module, nn.Sequential) else []
    return sum(map(_starts_unit, children)) if all(map(is_layer, children)) else 0


def _cut_dense(path: str, module: nn.ModuleDict, granularity: str) -> list[Piece]:
    """Dense layers one by one, or in pairs by their number: where a pair was swapped for one module
    its neighbours stay.
    """
    size = 2 if granularity == "pair" else 1

    def pair(item: tuple[int, str]) -> int:
        position, key = item
        digits = "".join(filter(str.isdigit, key))
        return (int(digits) - 1 if digits else position) // size

    pieces = []
    for _, members in groupby(enumerate(module.keys()), key=pair):
        keys = [key for _, key in members]
        names = [
            f"{path}.{key}.{name}" for key in keys for name, _ in module[key].named_parameters()
        ]
        pieces.append(Piece([f"{path}.{key}" for key in keys], names))
    return pieces


def layers(model: nn.Module, calls: Trace) -> list[Piece]:
    """Every convolution and linear layer on its own, with the role of the stage it is in."""
    stages = cut("", model, group_parameters(model, calls, "stage"))
    roles = {name: piece.role for piece in stages for name in piece.parameters}
    pieces = []
    for path, module in model.named_modules():
        names = [f"{path}.{name}" for name, _ in module.named_parameters(recurse=False)]
        if isinstance(module, nn.Conv2d | nn.Linear) and names:
            pieces.append(Piece([path], names, roles.get(names[0], "body")))
    return pieces


def by_hand(model: nn.Module, names: Sequence[str]) -> list[Piece]:
    """The pieces that `names` mean: modules, or runs of consecutive children."""
    if isinstance(names, str):
        raise PartitionError(
            f"names must be a list of names, not one string; pass names=[{names!r}]"
        )
    modules = dict(model.named_modules())
    pieces, owner = [], {}
    for name in names:
        paths = _spanned(modules, name)
        owned = [f"{path}.{own}" for path in paths for own, _ in modules[path].named_parameters()]
        if not owned:
            raise PartitionError(f"block {name!r} has no parameters; name one that has")
        for parameter in owned:
            if parameter in owner:
                raise PartitionError(
                    f"blocks {owner[parameter]!r} and {name!r} overlap: both own {parameter};"
                    " drop one"
                )
            owner[parameter] = name
        pieces.append(Piece(paths, owned))
    return pieces


def _spanned(modules: dict[str, nn.Module], name: str) -> list[str]:
    """Paths of the modules that `name` means: one module, "parent.a:parent.b", or "parent.a-b" as
    blocks are named.
    """
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
            raise PartitionError(
                f"no block or module {missing!r} in the model{did_you_mean(missing, known)}"
            )
    runs = isinstance(modules.get(parent), nn.Sequential) or is_dense(modules.get(parent))
    if last.rpartition(".")[0] != parent or not runs:
        raise PartitionError(
            f"{name!r} is not a run: it needs children of one nn.Sequential or dense block; name"
            " one module"
        )
    keys = list(modules[parent]._modules)
    begin, end = (keys.index(path.rpartition(".")[2]) for path in (first, last))
    if end < begin:
        raise PartitionError(f"{name!r} runs backwards; write {last}:{first}")
    return [f"{parent}.{key}" if parent else key for key in keys[begin : end + 1]]
