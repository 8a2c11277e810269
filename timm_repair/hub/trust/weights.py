"""Weights of strangers: a safetensors file is compared with the outline of the model (build.py)
before it is loaded.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from timm_repair.errors import ConfigError, NonFiniteError
from timm_repair.hub.trust.config import shown

MAX_HEADER = 4 * 2**20  # bytes; reading a header takes ten times as much memory
MAX_TENSORS = 50_000
_FLOATS, _INTEGERS = ("F16", "BF16", "F32", "F64"), ("BOOL", "U8", "I8", "I16", "I32", "I64")


def check_weights(path: Path, expected: Mapping[str, torch.Tensor], *, part: bool = False) -> None:
    """Compare a safetensors file with the state dict `expected` (of an outline): names, shapes,
    kinds of numbers, no NaN.

    Args:
        part: the file may lack tensors, as a patch does.

    Raises:
        ConfigError: it is no safetensors file, or does not fit.
        NonFiniteError: it holds NaN or infinity.
    """
    try:
        with safe_open(path, framework="pt") as file:
            names = set(file.keys())
            # old files lack the counters that torch then starts at zero
            needed = (
                set()
                if part
                else {name for name in expected if not name.endswith("num_batches_tracked")}
            )
            if missing := sorted(needed - names)[:5]:
                raise ConfigError(
                    f"{path.name} lacks {', '.join(missing)}: weights and architecture do not"
                    " belong together"
                )
            if unknown := sorted(names - expected.keys())[:5]:
                raise ConfigError(
                    f"{path.name} holds {', '.join(shown(n, 80) for n in unknown)}, which the"
                    " architecture does not have"
                )
            for name in names:
                found, wanted = file.get_slice(name), list(expected[name].shape)
                if found.get_shape() != wanted:
                    raise ConfigError(
                        f"{path.name}: {name} has shape {found.get_shape()}, the architecture needs"
                        f" {wanted}"
                    )
                if found.get_dtype() not in (
                    _FLOATS if expected[name].is_floating_point() else _INTEGERS
                ):
                    raise ConfigError(
                        f"{path.name}: {name} is {found.get_dtype()}, the architecture needs"
                        f" {expected[name].dtype}"
                    )
            for name in names:  # one at a time: no more memory than the largest of them
                # as loading does: a large float64 becomes infinite
                tensor = file.get_tensor(name).to(expected[name].dtype)
                if tensor.is_floating_point() and not tensor.isfinite().all():
                    raise NonFiniteError(f"{path.name}: {name} is NaN or infinite: refused")
    except (OSError, SafetensorError) as error:
        raise ConfigError(
            f"{path.name} is no intact safetensors file ({shown(error)}): download it again"
        ) from error


def tensor_count(path: Path) -> int:
    """How many tensors a safetensors file has.

    Raises:
        ConfigError: it is none, or has absurdly many.
    """
    try:
        with path.open("rb") as raw:
            length = int.from_bytes(raw.read(8), "little")
        # what is longer than its file is refused below
        if MAX_HEADER < length < path.stat().st_size:
            raise ConfigError(
                f"{path.name} has a header of {length:,} bytes; more than {MAX_HEADER:,} is refused"
            )
        with safe_open(path, framework="pt") as file:
            count = len(file.keys())
    except (OSError, SafetensorError) as error:
        raise ConfigError(
            f"{path.name} is no intact safetensors file ({shown(error)}): download it again"
        ) from error
    if count > MAX_TENSORS:
        raise ConfigError(f"{path.name} has {count:,} tensors: refused")
    return count
