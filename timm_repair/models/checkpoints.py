"""Checkpoints: earlier states of a model's weights, as its user has them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from timm.models import load_state_dict
from torch import Tensor, nn

from timm_repair.errors import OptionError, did_you_mean
from timm_repair.models.weights import State, fingerprint


@dataclass(frozen=True)
class Held:
    """A state dict that was handed in, by what tells it from others: a report names it so.

    Attributes:
        state: the state dict; no field, since no report holds weights.
    """

    sha256: str

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> "Held":
        """The state dict is not copied."""
        held = cls(fingerprint(state))
        object.__setattr__(held, "state", state)
        return held


def checkpoint(given: Any) -> "str | Held":
    """The path of a file, or a state dict, as an option keeps it.

    Raises:
        OptionError: it is neither, or there is no such file.
    """
    if isinstance(given, Held):
        return given
    if isinstance(given, Mapping):
        strangers = [name for name in given if not isinstance(name, str)]
        if strangers or not any(isinstance(value, Tensor) for value in given.values()):
            raise OptionError("a checkpoint must be a state dict, names to tensors, or a file")
        return Held.of(given)
    if not isinstance(given, str | Path):
        raise OptionError(
            f"a checkpoint must be a state dict or the path of a file, not {type(given).__name__}"
        )
    if not Path(given).is_file():
        raise OptionError(f"there is no checkpoint {str(given)!r:.200}")
    return str(given)


def read(given: "str | Held", model: nn.Module) -> State:
    """Its state dict, which `model` can load. Files are those of safetensors, or of torch.save with
    tensors alone; in what a training script saved the weights are looked for, without averages.

    Raises:
        OptionError: it cannot be read, or is of another model.
    """
    if isinstance(given, Held):
        state, name = getattr(given, "state", {}), "a checkpoint"
    else:
        name = f"checkpoint {given!r}"
        try:
            state = load_state_dict(given, use_ema=False, weights_only=True)
        except Exception as error:  # the file is somebody's: its reader may raise anything
            raise OptionError(
                f"{name} cannot be read as tensors alone ({type(error).__name__}:"
                f" {error!s:.200}): save the state dict with safetensors or torch.save"
            ) from error
    own = model.state_dict()
    for key, value in own.items():
        if key not in state:
            raise OptionError(f"{name} is of another model: it has no {key!r}")
        if isinstance(value, Tensor) and getattr(state[key], "shape", None) != value.shape:
            raise OptionError(f"{name} is of another model: {key!r} has another shape")
    for key in state:
        if key not in own:
            known = did_you_mean(key, own) if len(own) < 20 else ""
            raise OptionError(f"{name} is of another model: this one has no {key!r}{known}")
    return dict(state)
