"""Wrong preprocessing, and how to undo it: the mistakes that are made between a camera and a model,
each as a function of pixels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from timm.data import constants
from torch import Tensor

from timm_repair.diagnosis.parts.geometry import affine

# means and standard deviations in use, by the name of what was trained with them
CONSTANTS = {
    "ImageNet's": (constants.IMAGENET_DEFAULT_MEAN, constants.IMAGENET_DEFAULT_STD),
    "Inception's (0.5, 0.5)": (constants.IMAGENET_INCEPTION_MEAN, constants.IMAGENET_INCEPTION_STD),
    "CLIP's": (constants.OPENAI_CLIP_MEAN, constants.OPENAI_CLIP_STD),
    "none (values from 0 to 1)": ((0.0,) * 3, (1.0,) * 3),
    "none (values from 0 to 255)": ((0.0,) * 3, (1 / 255,) * 3),
}


@dataclass(frozen=True)
class Mistake:
    """What may have been done to images, and how to take it back.

    Args:
        name: what went wrong.
        fix: what to do about it, for the data.
        undo: images (N, C, H, W) from 0 to 1 to what they were.
        colour: it needs three channels.
        square: it needs images as high as wide.
    """

    name: str
    fix: str
    undo: Callable[[Tensor], Tensor]
    colour: bool = False
    square: bool = False


def _as_mode(mode: str) -> Callable[[Tensor], Tensor]:
    def convert(x: Tensor) -> Tensor:
        pixels = (x * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        height, width = pixels.shape[1:3]
        converted = [
            np.asarray(Image.frombytes(mode, (width, height), image.tobytes()).convert("RGB"))
            for image in pixels
        ]
        found = torch.from_numpy(np.stack(converted)).permute(0, 3, 1, 2)
        return found.to(x.device).float() / 255

    return convert


def _scaled(across: float, down: float) -> Callable[[Tensor], Tensor]:
    """The content magnified about its centre."""

    def scale(x: Tensor) -> Tensor:
        matrix = x.new_tensor([[1 / across, 0, 0], [0, 1 / down, 0]])
        return affine(x, matrix.expand(len(x), 2, 3))

    return scale


def _denormalized(mean: Sequence[float], std: Sequence[float]) -> Callable[[Tensor], Tensor]:
    def undo(x: Tensor) -> Tensor:
        # of a grey model timm takes the mean of the three
        centre, scale = (
            x.new_tensor(v if len(v) == x.shape[1] else [sum(v) / len(v)]).view(1, -1, 1, 1)
            for v in (mean, std)
        )
        return x * scale + centre

    return undo


def _scrambled(x: Tensor) -> Tensor:
    """Channels-last pixels that were taken for channels-first ones."""
    n, c, h, w = x.shape
    return x.permute(0, 2, 3, 1).reshape(n, c, h, w)


def mistakes(mean: Sequence[float], std: Sequence[float]) -> list[Mistake]:
    """All of them, for a model with these normalization constants."""
    found = [
        Mistake("channels swapped (BGR for RGB)",
                "reverse the order of the channels where images are read: image[..., ::-1]",
                lambda x: x.flip(1), colour=True),
        Mistake("inverted (negative, or CMYK read as RGB)",
                "invert the values: 255 - image; convert CMYK with its profile",
                lambda x: 1 - x),
        Mistake("turned by 90° to the left (EXIF orientation not applied?)",
                "apply the EXIF orientation when reading: PIL.ImageOps.exif_transpose",
                lambda x: x.rot90(-1, (2, 3)), square=True),
        Mistake("turned by 90° to the right (EXIF orientation not applied?)",
                "apply the EXIF orientation when reading: PIL.ImageOps.exif_transpose",
                lambda x: x.rot90(1, (2, 3)), square=True),
        Mistake("turned by 180° (EXIF orientation not applied?)",
                "apply the EXIF orientation when reading: PIL.ImageOps.exif_transpose",
                lambda x: x.flip(2, 3)),
        Mistake("upside down", "flip the rows where images are read", lambda x: x.flip(2)),
        Mistake("rows and columns exchanged", "transpose the images: image.swapaxes(0, 1)",
                lambda x: x.transpose(2, 3), square=True),
        Mistake("channels-last values read as channels-first",
                "transpose instead of reshape: image.transpose(2, 0, 1)", _unscrambled,
                colour=True),
        Mistake("channels-first values read as channels-last",
                "transpose instead of reshape: image.transpose(1, 2, 0)", _scrambled,
                colour=True),
        Mistake("YCbCr read as RGB", "convert the images to RGB", _as_mode("YCbCr"), colour=True),
        Mistake("HSV read as RGB", "convert the images to RGB", _as_mode("HSV"), colour=True),
        Mistake("linear light instead of sRGB", "apply the sRGB curve: about value ** (1 / 2.2)",
                lambda x: x ** (1 / 2.2)),
        Mistake("the sRGB curve applied twice", "leave it out once: about value ** 2.2",
                lambda x: x**2.2),
        Mistake("video levels (16 to 235) read as 0 to 255",
                "expand the levels: (value - 16) / 219 * 255",
                lambda x: (x * 255 - 16).clamp(0, 219) / 219),
        Mistake("values from 0 to 1 stored as 0 to 255", "multiply by 255 before rounding",
                lambda x: (x * 255).clamp(0, 1)),
        Mistake("stretched: taller than it was (wide images made square)",
                "crop to the model's aspect ratio instead of stretching", _scaled(4 / 3, 1)),
        Mistake("stretched: wider than it was (tall images made square)",
                "crop to the model's aspect ratio instead of stretching", _scaled(1, 4 / 3)),
        Mistake("content too small (not cropped, or padded)",
                "crop the centre as the model's crop_pct says", _scaled(1.25, 1.25)),
        Mistake("content half as large (padded)", "resize to the model's input size without a"
                " border", _scaled(2, 2)),
        Mistake("content too large (cropped twice)", "leave out one of the crops",
                _scaled(0.8, 0.8)),
    ]  # fmt: skip
    known = {"the model's own": (mean, std)} | CONSTANTS
    own = (tuple(mean), tuple(std))
    for name, (m, s) in known.items():
        if not name.startswith("none") and (name == "the model's own" or (m, s) != own):
            fix = "give images as they were before normalization, with values from 0 to 255"
            found.append(
                Mistake(f"already normalized, with {name} constants", fix, _denormalized(m, s))
            )
    return found


def _unscrambled(x: Tensor) -> Tensor:
    """The way back from `_scrambled`: (C, H, W) values that lie as (H, W, C) did."""
    n, c, h, w = x.shape
    return x.reshape(n, h, w, c).permute(0, 3, 1, 2)


def rescaled(x: Tensor, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`x` with the mean and standard deviation of each channel of `like`, and the gain and offset
    (C,) that it was seen with: other constants of normalization.
    """
    dims = (0, 2, 3)
    gain = x.std(dims) / like.std(dims).clamp(min=1e-3)
    offset = x.mean(dims) - gain * like.mean(dims)
    wide = (x - offset.view(1, -1, 1, 1)) / gain.clamp(min=1e-3).view(1, -1, 1, 1)
    return wide.clamp(0, 1), gain, offset
