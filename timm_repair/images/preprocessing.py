"""What happens to one image before the model sees it: timm's own transform."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import timm.data
import torch
from PIL import Image
from torch import Tensor, nn

from timm_repair.errors import DataError
from timm_repair.images.decoding import open_image, to_mode
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

    input_size: tuple[int, int, int]
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
