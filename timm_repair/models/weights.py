"""Weights: state dicts and the names in them. Copies, mixtures, fingerprints, checks."""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from timm_repair.errors import NonFiniteError
from timm_repair.models.block import Block


def snapshot(part: nn.Module) -> dict[str, Tensor]:
    """A copy of the state dict of `part`, for `load_state_dict` later."""
    return {name: tensor.detach().clone() for name, tensor in part.state_dict().items()}


def between(
    original: dict[str, Tensor], repaired: dict[str, Tensor], share: float
) -> dict[str, Tensor]:
    """The state that lies `share` of the way from `original` to `repaired`."""
    if share in (0.0, 1.0):  # exactly, not up to rounding
        return repaired if share else original
    return {
        k: torch.lerp(original[k], v, share) if v.is_floating_point() else v
        for k, v in repaired.items()
    }


def fingerprint(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over the names, types, shapes and bytes of a state dict, in the order of the
    names.
    """
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
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


def check_finite(model: nn.Module) -> None:
    """Raise NonFiniteError, with its name, for the first parameter or buffer of `model` that is NaN
    or infinite.
    """
    for kind, tensors in (
        ("parameter", model.named_parameters()),
        ("buffer", model.named_buffers()),
    ):
        for name, tensor in tensors:
            if tensor.is_floating_point() and not tensor.isfinite().all():
                raise NonFiniteError(
                    f"{kind} {name!r} of the model is NaN or infinite; load an intact checkpoint"
                )
