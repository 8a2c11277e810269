"""What happens to one image before the model sees it: any file or array to RGB or grey, then timm's
own transform.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import timm.data
import torch
from PIL import Image
from torch import Tensor, nn

from timm_repair.errors import DataError
from timm_repair.models.tracing import input_size


@dataclass(frozen=True)
class Preprocessing:
    """What timm does to an image before this model sees it; made by `Preprocessing.of(model)`.

    Args:
        input_size: (channels, height, width).
        mean: per channel, on the scale 0 to 1.
        std: per channel, on the scale 0 to 1.
        config: timm's resolved data config (crop, interpolation, ...).
    """

    input_size: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    config: dict

    @classmethod
    def of(cls, model: nn.Module) -> "Preprocessing":
        """The preprocessing in `model.pretrained_cfg`, or timm's default (ImageNet's, 224 pixels)
        where there is none.

        Raises:
            DataError: the model takes neither 1 nor 3 channels.
        """
        config = timm.data.resolve_model_data_config(model)
        channels, *_ = input_size(model)
        if channels not in (1, 3):
            raise DataError(
                f"the model takes {channels} channels; only grey (1) and RGB (3) images are"
                " supported. If that is not so, correct model.pretrained_cfg['input_size']"
            )
        config["input_size"] = (channels, *config["input_size"][1:])
        for key in ("mean", "std"):
            values = tuple(config[key])
            # timm.create_model(in_chans=1) keeps the RGB statistics in pretrained_cfg
            config[key] = (
                values if len(values) == channels else (sum(values) / len(values),) * channels
            )
        return cls(config["input_size"], config["mean"], config["std"], config)

    @cached_property
    def transform(self) -> Callable[[Image.Image], Tensor]:
        """timm's evaluation transform without the normalisation: PIL image to uint8 (C, H, W)."""
        made = timm.data.create_transform(**self.config, is_training=False, use_prefetcher=True)
        return cast(Callable[[Image.Image], Tensor], made)  # only if asked to, it makes three

    def decode(self, raw: Any) -> Tensor:
        """Uint8 (C, H, W) from whatever `open_image` takes. Raises DataError, or what PIL raises on
        a damaged file.
        """
        return self.transform(to_mode(open_image(raw), self.input_size[0]))

    def normalize(self, pixels: Tensor, device: torch.device | str | None = None) -> Tensor:
        """Float32 (N, C, H, W) on `device` from uint8 (N, C, H, W): (x / 255 - mean) / std."""
        pixels = pixels.to(device, non_blocking=True)
        mean, std = (
            pixels.new_tensor(v, dtype=torch.float32).view(1, -1, 1, 1)
            for v in (self.mean, self.std)
        )
        return pixels.float().sub_(255 * mean).div_(255 * std)


def open_image(raw: Any) -> Image.Image:
    """A PIL image from a PIL image, path, file bytes, `{"bytes", "path"}` or uint8 array (H, W[, 1
    | 3 | 4]).
    """
    if isinstance(raw, Exception):
        raise raw
    if isinstance(raw, Image.Image):
        return raw
    if isinstance(raw, dict):
        raw = raw.get("bytes") or raw.get("path")
    if isinstance(raw, bytes):
        raw = io.BytesIO(raw)
    if isinstance(raw, str | Path | io.BytesIO):
        return Image.open(raw)
    if isinstance(raw, np.ndarray):
        if (
            raw.dtype != np.uint8
            or raw.ndim not in (2, 3)
            or (raw.ndim == 3 and raw.shape[2] not in (1, 3, 4))
        ):
            raise DataError(
                "an array image must be uint8 of shape (height, width[, 1, 3 or 4]), not"
                f" {raw.dtype} {raw.shape}; timm_repair applies timm's transform itself, so give"
                " images as they were before any transform"
            )
        return Image.fromarray(raw[..., 0] if raw.ndim == 3 and raw.shape[2] == 1 else raw)
    if isinstance(raw, Tensor):
        raise DataError(
            f"the images are tensors of shape {tuple(raw.shape)}, so a transform was already"
            " applied. timm_repair applies timm's transform for the model itself: give"
            " un-transformed images (PIL), e.g. transform=None"
        )
    raise DataError(
        f"cannot read an image from {type(raw).__name__}; give a PIL image, a path or a uint8 array"
    )


def to_mode(image: Image.Image, channels: int) -> Image.Image:
    """`image` in RGB (3 channels) or L (1). Alpha is dropped; 16 bits become 8 by / 256, where PIL
    would clip at 255.

    The EXIF orientation is not applied, as in timm's own datasets.
    """
    if image.mode == "I" or image.mode.startswith("I;"):
        values = np.asarray(image)
        if values.size and not (values.min() >= 0 and values.max() < 2**16):
            raise DataError(
                f"an integer image with values {values.min()} to {values.max()}; 0 to 65535 is"
                " supported"
            )
        image = Image.fromarray((values // 256).astype(np.uint8))
    if image.mode == "F":
        raise DataError(
            "a floating point image (mode F) has no agreed range; convert it to 8 or 16 bits first"
        )
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # the direct way to RGB gives the same pixels and a warning
    return image.convert("L" if channels == 1 else "RGB")
