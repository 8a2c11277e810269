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


Change = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Mistake:
    """What may have been done to images, and how to take it back.

    Args:
        name: what went wrong.
        fix: what to do about it, for the data.
        undo: images (N, C, H, W) from 0 to 1 to what they were, as far as that is possible.
        do: the mistake itself.
        colour: it needs three channels.
        square: it needs images as high as wide.
    """

    name: str
    fix: str
    undo: Change
    do: Change
    colour: bool = False
    square: bool = False


def _converted(mode: str, to: str) -> Change:
    """Pixels that are read as of one mode of PIL, as another."""

    def convert(x: Tensor) -> Tensor:
        pixels = (x.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        height, width = pixels.shape[1:3]
        found = [
            np.asarray(Image.frombytes(mode, (width, height), image.tobytes()).convert(to))
            for image in pixels
        ]
        return torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2).to(x.device).float() / 255

    return convert


def _scaled(across: float, down: float) -> Change:
    """The content magnified about its centre."""

    def scale(x: Tensor) -> Tensor:
        matrix = x.new_tensor([[1 / across, 0, 0], [0, 1 / down, 0]])
        return affine(x, matrix.expand(len(x), 2, 3))

    return scale


def affine_pair(gain: Tensor, offset: Tensor) -> tuple[Change, Change]:
    """x to gain x + offset, of each channel, and the way back."""
    gain, offset = gain.view(1, -1, 1, 1), offset.view(1, -1, 1, 1)
    return (
        lambda x: x * gain.to(x) + offset.to(x),
        lambda x: (x - offset.to(x)) / gain.to(x).clamp(min=1e-3),
    )


def _interleaved(x: Tensor) -> Tensor:
    """Channels-first values, taken for channels-last ones."""
    n, c, h, w = x.shape
    return x.reshape(n, h, w, c).permute(0, 3, 1, 2)


def _planar(x: Tensor) -> Tensor:
    """Channels-last values, taken for channels-first ones."""
    n, c, h, w = x.shape
    return x.permute(0, 2, 3, 1).reshape(n, c, h, w)


_EXIF = "apply the EXIF orientation when reading: PIL.ImageOps.exif_transpose"
_RGB = "convert the images to RGB"
_SHAPE = "transpose instead of reshape: image.transpose"


def _of_order() -> list[Mistake]:
    """Values in another order."""
    left, right = (lambda x, k=k: x.rot90(k, (2, 3)) for k in (1, -1))
    exchanged = "turned by 90° to the {} (EXIF orientation not applied?)"
    return [
        Mistake("channels swapped (BGR for RGB)",
                "reverse the order of the channels where images are read: image[..., ::-1]",
                lambda x: x.flip(1), lambda x: x.flip(1), colour=True),
        Mistake(exchanged.format("left"), _EXIF, right, left, square=True),
        Mistake(exchanged.format("right"), _EXIF, left, right, square=True),
        Mistake("turned by 180° (EXIF orientation not applied?)", _EXIF,
                lambda x: x.flip(2, 3), lambda x: x.flip(2, 3)),
        Mistake("upside down", "flip the rows where images are read",
                lambda x: x.flip(2), lambda x: x.flip(2)),
        Mistake("rows and columns exchanged", "transpose the images: image.swapaxes(0, 1)",
                lambda x: x.transpose(2, 3), lambda x: x.transpose(2, 3), square=True),
        Mistake("channels-last values read as channels-first", f"{_SHAPE}(2, 0, 1)",
                _interleaved, _planar, colour=True),
        Mistake("channels-first values read as channels-last", f"{_SHAPE}(1, 2, 0)",
                _planar, _interleaved, colour=True),
        Mistake("content too small (not cropped, or padded)",
                "crop the centre as the model's crop_pct says", _scaled(1.25, 1.25),
                _scaled(0.8, 0.8)),
        Mistake("content half as large (padded)", "resize to the model's input size without a"
                " border", _scaled(2, 2), _scaled(0.5, 0.5)),
        Mistake("content too large (cropped twice)", "leave out one of the crops",
                _scaled(0.8, 0.8), _scaled(1.25, 1.25)),
        Mistake("stretched: taller than it was (wide images made square)",
                "crop to the model's aspect ratio instead of stretching", _scaled(4 / 3, 1),
                _scaled(3 / 4, 1)),
        Mistake("stretched: wider than it was (tall images made square)",
                "crop to the model's aspect ratio instead of stretching", _scaled(1, 4 / 3),
                _scaled(1, 3 / 4)),
    ]  # fmt: skip


def _of_values() -> list[Mistake]:
    """Other values at the same places."""
    return [
        Mistake("inverted (negative, or CMYK read as RGB)",
                "invert the values: 255 - image; convert CMYK with its profile",
                lambda x: 1 - x, lambda x: 1 - x),
        Mistake("YCbCr read as RGB", _RGB, _converted("YCbCr", "RGB"), _converted("RGB", "YCbCr"),
                colour=True),
        Mistake("HSV read as RGB", _RGB, _converted("HSV", "RGB"), _converted("RGB", "HSV"),
                colour=True),
        Mistake("linear light instead of sRGB", "apply the sRGB curve: about value ** (1 / 2.2)",
                lambda x: x ** (1 / 2.2), lambda x: x**2.2),
        Mistake("the sRGB curve applied twice", "leave it out once: about value ** 2.2",
                lambda x: x**2.2, lambda x: x ** (1 / 2.2)),
        Mistake("video levels (16 to 235) read as 0 to 255",
                "expand the levels: (value - 16) / 219 * 255",
                lambda x: (x * 255 - 16) / 219, lambda x: (x * 219 + 16) / 255),
        Mistake("values from 0 to 1 stored as 0 to 255", "multiply by 255 before rounding",
                lambda x: x * 255, lambda x: x / 255),
        Mistake("values stored with half of their range (divided by 510)",
                "divide by 255 only", lambda x: x * 2, lambda x: x / 2),
    ]  # fmt: skip


def mistakes(mean: Sequence[float], std: Sequence[float]) -> list[Mistake]:
    """All of them, for a model with these normalization constants."""
    found = _of_order() + _of_values()
    known = {"the model's own": (tuple(mean), tuple(std))} | CONSTANTS
    for name, (m, s) in known.items():
        if name.startswith("none") or (name in CONSTANTS and (m, s) == (tuple(mean), tuple(std))):
            continue
        # of a grey model timm takes the mean of the three
        centre, scale = (
            torch.tensor(v if len(v) == len(mean) else [sum(v) / len(v)]) for v in (m, s)
        )
        undo, do = affine_pair(scale, centre)
        fix = "give images as they were before normalization, with values from 0 to 255"
        found.append(Mistake(f"already normalized, with {name} constants", fix, undo, do))
    return found


def scale_of(x: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """Gain and offset (C,) with which images like these have the mean and standard deviation of
    each channel of `x`.
    """
    dims = (0, 2, 3)
    gain = x.std(dims) / like.std(dims).clamp(min=1e-3)
    return gain, x.mean(dims) - gain * like.mean(dims)
