"""Surgery: take a block out of a model, put another in.

`extract` and `swap` are inverses: `swap(model, block, extract(model, block))` leaves every logit as
it was; `restore` undoes a swap to the last parameter name.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from timm_repair.errors import PartitionError
from timm_repair.models.block import Block


class Swapped(nn.Sequential):
    """What `swap` leaves in a block's place: a Sequential of one module.

    A Sequential, because timm iterates over stages (gradient checkpointing does); a class of its
    own, because a second repair has to tell a block that was put in from the stages and units that
    timm built.
    """

    # True in a VGG: it stands among bare layers and counts as one when runs are cut
    replaces_layers = False
    replaces_swapped = False  # True after a second repair of the same block

    def forward(self, *args, **kwargs):
        # a block of tokens may be given sizes, masks or positions besides
        return self[0](*args, **kwargs)


class DenseRun(nn.Module):
    """Consecutive layers of a dense block as one module, with the call signature of one dense
    layer.
    """

    def __init__(self, layers: Iterable[nn.Module]):
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, features: list[Tensor]) -> Tensor:
        """Map the features so far, a list of (N, C_i, H, W) or one such tensor, to the layers' new
        ones, (N, sum k_i, H, W).
        """
        known = [features] if isinstance(features, Tensor) else list(features)
        new = []
        for layer in self.layers:
            new.append(layer(known + new))
        return torch.cat(new, 1)


def extract(model: nn.Module, block: Block) -> nn.Module:
    """The block's current module, callable the way its place in the model calls it; the inverse of
    `swap`.

    Returns:
        nn.Module: the module itself where the block is one; an `nn.Sequential` of the members of a
        run; a `DenseRun` for layers of a dense block, which are called with the list of all
        features so far. Weights are shared with the model.

    Raises:
        PartitionError: the model has no module at one of the block's paths.
    """
    parent, keys = _place(model, block)
    _require(block, parent, keys)
    first = parent._modules[keys[0]]
    if isinstance(first, Swapped) and not any(
        _owns_parameters(parent._modules.get(key)) for key in keys[1:]
    ):
        return first[0]
    members = [member for key in keys if (member := parent._modules[key]) is not None]
    if len(members) == 1:
        return members[0]
    return DenseRun(members) if is_dense(parent) else nn.Sequential(*members)


def swap(model: nn.Module, block: Block, new: nn.Module) -> None:
    """Put `new` in the place of `block`, in place; the inverse of `extract`.

    `new` stands at the block's first path, inside a `Swapped`; its parameters are named `<first
    path>.0.…`. The rest of a run becomes Identity, so that the positions of all other children stay
    valid (VGG refers to them by number), and is deleted from a dense block, which would append the
    result of an Identity to its features.

    Raises:
        PartitionError: the model has no module at one of the block's paths.
    """
    parent, keys = _place(model, block)
    _require(block, parent, keys)
    swapped = Swapped(new)
    replaced = parent._modules[keys[0]]
    swapped.replaces_layers = replaced is not None and is_layer(replaced)
    swapped.replaces_swapped = isinstance(replaced, Swapped)
    parent._modules[keys[0]] = swapped
    for key in keys[1:]:
        if is_dense(parent):
            parent._modules.pop(key, None)  # gone already, if this block was swapped before
        else:
            parent._modules[key] = nn.Identity()


def restore(model: nn.Module, block: Block, old: nn.Module) -> None:
    """Undo one `swap`: put `old`, which `extract` gave before it, back under the parameter names it
    had then.

    Where `swap` had replaced a block that was itself put in by an earlier repair, `old` stays in
    its wrapper, as it was.

    Raises:
        PartitionError: the model has no module at the block's first path, or `old` does not have
            the block's members.
    """
    parent, keys = _place(model, block)
    _require(block, parent, keys[:1])
    current = parent._modules[keys[0]]
    if isinstance(current, Swapped) and current.replaces_swapped:
        current[0] = old
        return
    members = (
        [old]
        if len(keys) == 1
        else list(old.layers if isinstance(old, DenseRun) else old.children())
    )
    if len(members) != len(keys):
        raise PartitionError(
            f"{len(members)} modules for the {len(keys)} members of block {block.name!r}; pass what"
            " extract gave"
        )
    before = list(parent._modules.items())
    parent._modules.clear()  # and refilled: a dense block calls its children in this order
    for key, module in before:
        if key == keys[0]:
            parent._modules.update(zip(keys, members, strict=True))
        elif key not in keys:
            parent._modules[key] = module


def is_layer(module: nn.Module) -> bool:
    """Whether it is one bare layer, no submodule of which owns parameters, or has replaced some."""
    if isinstance(module, Swapped):
        return module.replaces_layers
    return not any(_owns_parameters(child) for child in module.children())


def is_dense(module: nn.Module | None) -> bool:
    """Whether it is a dense block: each child is called with the list of all features so far, its
    result appended.

    timm's and torchvision's are ModuleDicts with a forward pass, which a ModuleDict has not.
    """
    return isinstance(module, nn.ModuleDict) and type(module).forward is not nn.ModuleDict.forward


def _place(model: nn.Module, block: Block) -> tuple[nn.Module, list[str]]:
    path = block.paths[0].rpartition(".")[0]
    keys = [member.rpartition(".")[2] for member in block.paths]
    try:
        parent = model.get_submodule(path)
    except AttributeError as error:
        raise PartitionError(
            f"no module {path!r} for block {block.name!r}; call blocks() on this model again"
        ) from error
    return parent, keys


def _require(block: Block, parent: nn.Module, keys: list[str]) -> None:
    if isinstance(parent._modules.get(keys[0]), Swapped):
        return  # the rest of a run is no longer there
    missing = [key for key in keys if key not in parent._modules]
    if missing:
        raise PartitionError(
            f"block {block.name!r} has no member {', '.join(missing)} in this model; call blocks()"
            " on it again"
        )


def _owns_parameters(module: nn.Module | None) -> bool:
    return module is not None and any(True for _ in module.parameters())
