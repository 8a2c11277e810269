"""What happens to one image before the model sees it: timm's own transform."""

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import isfinite
from typing import Any, cast
from weakref import WeakSet

import timm.data
import torch
from PIL import Image
from timm.data import resolve_data_config
from torch import Tensor, nn

from timm_repair.errors import AssumptionWarning, DataError, ModelError
from timm_repair.images.decoding import open_image, to_mode
from timm_repair.images.scales import Scales
from timm_repair.models.description import described_inside, description
from timm_repair.models.tracing import input_size
from timm_repair.models.wrapping import unwrapped
from timm_repair.options import plain

INTERPOLATIONS = "nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"
CROPS = "center", "squash", "border"
# models whose users were told what was assumed of them
_TOLD: WeakSet[nn.Module] = WeakSet()


@dataclass(frozen=True)
class Preprocessing:
    """What timm does to an image before this model sees it; made by `Preprocessing.of(model)`.

    Args:
        input_size: (channels, height, width).
        mean: per channel, on the scale 0 to 1.
        std: per channel, on the scale 0 to 1.
        config: timm's resolved data config (crop, interpolation, ...).
        source: where this came from, in words; not compared.
    """

    input_size: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    config: dict
    source: str = field(default="given", compare=False)

    @classmethod
    def of(cls, model: nn.Module) -> "Preprocessing":
        """The preprocessing in `model.pretrained_cfg`; that of the model inside, where the rest
        only wraps it. What nobody says is timm's default (ImageNet's, 224 pixels), with an
        AssumptionWarning, once for a model.

        Raises:
            ModelError: it is not known: there is a model with a preprocessing inside, but the whole
                computes more than it; or what is said is malformed.
            DataError: the model takes neither 1 nor 3 channels.
        """
        inner = unwrapped(model)
        said = description(inner)
        if not said and (inside := described_inside(inner)):
            raise ModelError(_unknown(inner, inside))
        config = resolve_data_config(pretrained_cfg={"input_size": None} | said)
        size = input_size(inner)
        if size[0] not in (1, 3):
            raise DataError(
                f"the model takes {size[0]} channels; only grey (1) and RGB (3) images are"
                " supported. If that is not so, correct model.pretrained_cfg['input_size']"
            )
        _require_known(config)
        config["input_size"] = size
        for key in ("mean", "std"):
            config[key] = _per_channel(key, config[key], size[0])
        source = _source(said, size, "" if inner is model else f" of the {type(inner).__name__}")
        assumed = [key for key in ("input_size", "mean", "std") if not said.get(key)]
        if assumed and inner not in _TOLD:
            _TOLD.add(inner)
            _warn(assumed, config)
        return cls(size, config["mean"], config["std"], config, source)

    def describe(self) -> dict[str, Any]:
        """What it does and where that came from, as plain JSON."""
        return plain({key: self.config[key] for key in sorted(self.config)}) | {
            "source": self.source
        }

    @cached_property
    def transform(self) -> Callable[[Image.Image], Tensor]:
        """timm's evaluation transform without the normalisation: PIL image to uint8 (C, H, W)."""
        made = timm.data.create_transform(**self.config, is_training=False, use_prefetcher=True)
        return cast(Callable[[Image.Image], Tensor], made)  # only if asked to, it makes three

    def decode(self, raw: Any, scales: Scales | None = None) -> Tensor:
        """Uint8 (C, H, W) from whatever `open_image` takes. Raises DataError, or what PIL raises on
        a damaged file.

        Args:
            scales: of the source that it is from; None where it is alone.
        """
        return self.transform(to_mode(open_image(raw, scales), self.input_size[0], scales))

    def normalize(self, pixels: Tensor, device: torch.device | str | None = None) -> Tensor:
        """Float32 (N, C, H, W) on `device` from uint8 (N, C, H, W): (x / 255 - mean) / std."""
        pixels = pixels.to(device, non_blocking=True)
        mean, std = (
            pixels.new_tensor(v, dtype=torch.float32).view(1, -1, 1, 1)
            for v in (self.mean, self.std)
        )
        return pixels.float().sub_(255 * mean).div_(255 * std)


def told(model: nn.Module, copy: nn.Module) -> None:
    """What was assumed of `model` is said: `copy`, which is one of it, warns no more."""
    if model in _TOLD:
        _TOLD.add(copy)


def _require_known(config: Mapping[str, Any]) -> None:
    """Raise ModelError for an interpolation, a crop or its share that timm does not have."""
    share, said = config["crop_pct"], "model.pretrained_cfg"
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share < 10:
        raise ModelError(f"{said}['crop_pct'] is {share!r}: give a share, as 0.9 or 1.0")
    for key, known in (("interpolation", INTERPOLATIONS), ("crop_mode", CROPS)):
        if config[key] not in known:
            raise ModelError(f"{said}[{key!r}] is {config[key]!r}: give one of {', '.join(known)}")


def _unknown(model: nn.Module, inside: Mapping[str, nn.Module]) -> str:
    """Why the preprocessing of `model`, which says none, is not that of the models inside."""
    first = next(iter(inside))
    what = (
        f"holds {len(inside)} models with a preprocessing of their own ({', '.join(inside)})"
        if len(inside) > 1
        else f"computes something else than the model in it ({first})"
    )
    return (
        f"the model ({type(model).__name__}) {what}, so how its images are prepared is not known:"
        f" set model.pretrained_cfg = model.{first}.pretrained_cfg if that is right for the whole,"
        " or a dict with 'input_size', 'mean' and 'std'"
    )


def _per_channel(key: str, values: Any, channels: int) -> tuple[float, ...]:
    try:
        numbers = tuple(map(float, values)) if isinstance(values, Iterable) else (float(values),)
    except (TypeError, ValueError):
        numbers = ()
    fine = all(
        isfinite(number) and (number <= 1 if key == "mean" else number > 0) for number in numbers
    )
    if not numbers or not fine:
        raise ModelError(
            f"model.pretrained_cfg[{key!r}] is {values!r}: give one"
            f" {'positive ' if key == 'std' else ''}number a channel, on the scale 0 to 1 (those of"
            " pixels from 0 to 255 divided by 255)"
        )
    # timm.create_model(in_chans=1) keeps the RGB statistics in pretrained_cfg
    return numbers if len(numbers) == channels else (sum(numbers) / len(numbers),) * channels


def _source(said: Mapping[str, Any], size: tuple[int, ...], whose: str) -> str:
    """Where the preprocessing came from, in words."""
    if not said:
        return "timm's default (ImageNet's mean and std, 224 pixels): the model says nothing"
    words = f"pretrained_cfg{whose or ' of the model'}"
    if said.get("input_size") and tuple(said["input_size"])[1:] != size[1:]:
        words += f"; size {size[1]} x {size[2]} by img_size: it does not run on that of the former"
    missing = [key for key in ("input_size", "mean", "std") if not said.get(key)]
    return words + (f"; {', '.join(missing)}: timm's default (ImageNet's)" if missing else "")


def _warn(assumed: Sequence[str], config: Mapping[str, Any]) -> None:
    channels, height, width = config["input_size"]
    rounded = {key: tuple(round(value, 3) for value in config[key]) for key in ("mean", "std")}
    warnings.warn(
        f"the model does not say {', '.join(assumed)} of its images; assumed, as timm does:"
        f" {height} x {width} pixels, mean {rounded['mean']}, std {rounded['std']} (ImageNet's). If"
        " it was trained otherwise, set model.pretrained_cfg = {'input_size':"
        f" ({channels}, height, width), 'mean': (...), 'std': (...)}}",
        AssumptionWarning,
        stacklevel=3,
    )
