"""Loading the model to repair: from a timm name, a Hub id or a folder, or as it is."""

from pathlib import Path

import timm
from torch import nn

from timm_repair.errors import ModelError, NonFiniteError, RepairError, did_you_mean


def load(model: str | nn.Module, *, pretrained: bool = True) -> tuple[str, nn.Module]:
    """The model and what to call it. A string is created by timm, with its pretrained weights where
    these are wanted.

    Raises:
        ModelError: timm cannot load it.
        NonFiniteError: a weight is NaN or infinite.
    """
    if isinstance(model, str):
        name, model = model, _create(model, pretrained).eval()
    else:
        config = getattr(model, "pretrained_cfg", None) or {}
        # a repaired model is called by what was repaired: "timm_repaired" would say nothing
        name = (
            getattr(model, "_model_args", {}).get("base")
            or config.get("architecture")
            or type(model).__name__
        )
    check_finite(model)
    return name, model


def _create(name: str, pretrained: bool) -> nn.Module:
    scheme, _, place = name.rpartition(":")
    if not scheme and not timm.is_model(name):
        raise ModelError(
            "timm has no model"
            f" {name!r}{did_you_mean(name.split('.')[0], timm.list_models())[:200]}"
        )
    if scheme == "local-dir" and not Path(place, "config.json").is_file():
        raise ModelError(f"{place!r} is not a folder saved by timm: it has no config.json")
    try:
        return timm.create_model(name, pretrained=pretrained)
    except (OSError, RuntimeError, ValueError) as error:  # huggingface_hub's errors are among these
        if scheme and pretrained:
            # which needs blocks, and these load models by name
            from timm_repair.hub import from_pretrained

            try:
                return from_pretrained(name)  # it may be a patch, which timm cannot load
            except RepairError:
                pass
        raise ModelError(f"cannot load {name!r} ({type(error).__name__}: {error})") from error


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
