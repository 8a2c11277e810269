"""Weights: state dicts and the names in them. Copies, mixtures, fingerprints, checks."""

import hashlib
import pickle
from collections.abc import Iterable, Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from timm_repair.errors import ModelError, NonFiniteError, RepairError
from timm_repair.models.answering import logits, made_up
from timm_repair.models.block import Block
from timm_repair.models.tracing import input_size

# of a module; a tensor, or what its `get_extra_state` gives
State = dict[str, Any]


def snapshot(part: nn.Module) -> State:
    """A copy of the state dict of `part`, for `load_state_dict` later."""
    return {name: own_copy(value) for name, value in part.state_dict().items()}


def own_copy(value: Any) -> Any:
    """A copy of one value of a state dict, which may be no tensor."""
    return value.detach().clone() if isinstance(value, Tensor) else deepcopy(value)


def same_value(one: Any, other: Any) -> bool:
    """Whether two values of state dicts are equal, to the bit and in kind; wherever they are."""
    if not isinstance(one, Tensor) or not isinstance(other, Tensor):
        return _bytes(one) == _bytes(other)
    alike = one.shape == other.shape and one.dtype == other.dtype
    return alike and torch.equal(one, other.to(one.device))


def _bytes(value: Any) -> bytes:
    try:
        return pickle.dumps(value, protocol=4)
    except Exception:  # noqa: BLE001  what somebody's object raises when it is pickled
        return repr(value).encode()


def between(original: State, repaired: State, share: float) -> State:
    """The state that lies `share` of the way from `original` to `repaired`."""
    if share in (0.0, 1.0):  # exactly, not up to rounding
        return repaired if share else original
    return {
        k: (
            torch.lerp(original[k], v, share)
            if isinstance(v, Tensor) and v.is_floating_point()
            else v
        )
        for k, v in repaired.items()
    }


def fingerprint(state: Mapping[str, Any]) -> str:
    """SHA-256 over the names, types, shapes and bytes of a state dict, in the order of the
    names.
    """
    digest = hashlib.sha256()
    for name in sorted(state):
        if not isinstance(state[name], Tensor):
            digest.update(f"{name}\0".encode() + _bytes(state[name]))
            continue
        tensor = state[name].detach().cpu().contiguous().resolve_conj()
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def names_in(model: nn.Module, part: nn.Module) -> list[str]:
    """Full names in `model` of the parameters of `part`."""
    inside = {id(parameter) for parameter in part.parameters()}
    return [name for name, parameter in model.named_parameters() if id(parameter) in inside]


def part_of(model: nn.Module, *blocks: Block) -> nn.Module:
    """The modules that `blocks` span, as one module for their parameters, state and mode (not to be
    called).
    """
    return nn.ModuleList(model.get_submodule(path) for block in blocks for path in block.paths)


def owners(model: nn.Module, names: Iterable[str]) -> nn.Module:
    """The modules that hold the parameters called `names`, as one module for their state (not to
    be called).
    """
    paths = dict.fromkeys(name.rpartition(".")[0] for name in names)
    return nn.ModuleList(model.get_submodule(path) for path in paths)


@torch.no_grad()
def check_finite(model: nn.Module) -> None:
    """Raise NonFiniteError, with its name, for the first parameter or buffer of `model` that is NaN
    or infinite, if the logits are not finite either: a mask of -inf is meant.
    """
    tensors = [("parameter", *named) for named in model.named_parameters()]
    tensors += [("buffer", *named) for named in model.named_buffers()]
    if empty := [f"{kind} {name!r}" for kind, name, tensor in tensors if tensor.is_meta]:
        raise ModelError(
            f"{empty[0]} of the model is on the meta device, which holds no numbers:"
            " model.to_empty(device='cpu'), then load its weights"
        )
    broken = [
        (bool(tensor.isnan().any()), kind, name)
        for kind, name, tensor in tensors
        if tensor.is_floating_point() and not tensor.float().isfinite().all()
    ]
    if not broken:
        return
    try:
        if logits(model, made_up(input_size(model), model)[:1]).isfinite().all():
            return
    except RepairError:
        pass  # it does not run: what is wrong with it may be just that
    # the likelier cause first: NaN is never meant
    _, kind, name = max(broken, key=lambda each: each[0])
    raise NonFiniteError(
        f"{kind} {name!r} of the model is NaN or infinite; load an intact checkpoint"
    )
