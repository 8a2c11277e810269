"""Description: what a model says of itself: timm's `pretrained_cfg`, or nothing."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from torch import nn

from timm_repair.errors import ModelError

ATTRIBUTE = "pretrained_cfg"


def description(model: nn.Module) -> dict[str, Any]:
    """The model's own `pretrained_cfg`, empty where it has none.

    Raises:
        ModelError: it has one that is no mapping, or whose input size is none.
    """
    config = getattr(model, ATTRIBUTE) if describes_itself(model) else {}
    if hasattr(config, "to_dict"):  # timm's own dataclass
        config = cast(Any, config).to_dict()
    if not isinstance(config, Mapping):
        raise ModelError(
            f"model.{ATTRIBUTE} is a {type(config).__name__}, not a dict: set it to one with"
            " 'input_size', 'mean' and 'std', as timm's models have it"
        )
    size = config.get("input_size")
    whole = isinstance(size, Sequence) and all(isinstance(side, int) and side > 0 for side in size)
    if size is not None and not (whole and len(size) == 3):
        raise ModelError(
            f"model.{ATTRIBUTE}['input_size'] is {size!r}: set it to (channels, height, width)"
        )
    if size is not None and size[0] > 4 and size[2] <= 4:
        raise ModelError(
            f"model.{ATTRIBUTE}['input_size'] is {size!r}, which would be images of"
            f" {size[1]} x {size[2]} pixels: set it to (channels, height, width),"
            f" {(size[2], size[0], size[1])}"
        )
    return dict(config)


def describes_itself(model: nn.Module) -> bool:
    """Whether `model` itself has a `pretrained_cfg`: not one inside it, to which a wrapper may hand
    on what it is asked for.
    """
    return bool(vars(model).get(ATTRIBUTE) or getattr(type(model), ATTRIBUTE, None))


def described_inside(model: nn.Module) -> dict[str, nn.Module]:
    """The outermost modules inside `model` that describe themselves, by path; `model` itself is
    none of them.
    """
    found: dict[str, nn.Module] = {}
    for path, module in model.named_modules():
        inside = any(path.startswith(f"{outer}.") for outer in found)
        if path and not inside and describes_itself(module):
            found[path] = module
    return found
