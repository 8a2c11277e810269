"""`corrupt`: the common corruptions, to find what a model fails on before its users do.

Takes everything that may be corrupted: arrays, tensors, an image, any source of `as_images`. What
each corruption does to a batch is in kernels.py.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from timm_repair.errors import DataError, OptionError, did_you_mean
from timm_repair.images.corruptions import kernels
from timm_repair.images.corruptions.parameters import CORRUPTIONS, LARGEST_SIDES, PARAMETERS
from timm_repair.images.decoding import open_image, to_mode
from timm_repair.images.images import Images
from timm_repair.images.opening import open_source
from timm_repair.images.readers import Source
from timm_repair.images.reading import Reading
from timm_repair.runtime.boundary import public

_SMALLEST = 8
_CHUNK = 2**20  # values corrupted at once


@public
def corrupt(
    images: Any,
    name: str,
    severity: int = 5,
    *,
    seed: int = 0,
    parameters: str | None = None,
    split: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
) -> Any:
    """`images` as they would be under one corruption, for failures to be found or a repair to be
    measured on.

    What is random follows from `seed`, `name` and the place of the example in `images`, and from
    nothing else: the severities of a corruption share their random numbers. Frost is generated, and
    not the benchmarks' own (docs/corruptions.md).

    Args:
        images: a uint8 tensor (N, 3 | 1, H, W), a uint8 array (N, H, W, 3 | 1), a PIL image, or any
            dataset that `as_images` takes: one of Hugging Face or torch, a folder, a file, a Hub
            id, a list of (PIL image, label).
        name: one of `CORRUPTIONS`.
        severity: 1 to 5.
        seed: of everything random.
        parameters: "cifar", "tiny" or "imagenet", as CIFAR-10-C, Tiny-ImageNet-C and ImageNet-C
            were made with; None chooses for each image by its shorter side: up to 48 pixels, up to
            128, larger.
        split: of a dataset, see `as_images`, as for the two that follow.
        image_column: see above.
        label_column: see above.

    Returns:
        The same kind of thing, or for a dataset a lazy torch dataset of (PIL image, label) with the
        class names of the original, to be given as failures=, retain= or holdout=. Images become
        RGB, or stay grey.

    Raises:
        OptionError: there is no such corruption, severity or set of parameters.
        DataError: the images are not uint8, of another shape, or cannot be read.

    Example:
        >>> failures = collect_failures(model, corrupt("production/", "fog", 3))
    """
    corruption = Corruption(name, severity, seed, parameters)
    choosing = any(option is not None for option in (split, image_column, label_column))
    if choosing and isinstance(images, torch.Tensor | np.ndarray | Image.Image | Images):
        raise OptionError(
            "split=, image_column= and label_column= choose from a dataset; these are images"
            " already"
        )
    if isinstance(images, torch.Tensor):
        pixels = images.detach().cpu().numpy()
        _check(pixels, images.dtype, 1, "a tensor", "(N, 3 or 1, H, W)")
        return torch.from_numpy(corruption(pixels, range(len(pixels)))).to(images.device)
    if isinstance(images, np.ndarray):
        _check(images, images.dtype, 3, "an array", "(N, H, W, 3 or 1)")
        pixels = corruption(images.transpose(0, 3, 1, 2), range(len(images)))
        return np.ascontiguousarray(pixels.transpose(0, 2, 3, 1))
    if isinstance(images, Image.Image):
        return corruption.of_image(images, 0)
    if isinstance(images, Images):  # as they were before the model's own transform
        source = Source(images.pool.reader, images.labels.tolist(), origin=images.origin)
        return Corrupted(source, images.rows.tolist(), corruption)
    reading = Reading(split=split, image_column=image_column, label_column=label_column)
    source = open_source(images, reading, "images", {"revision": None, "token": None})
    rows = range(len(source.labels)) if source.rows is None else source.rows
    return Corrupted(source, rows, corruption)


def _check(pixels: np.ndarray, dtype: Any, axis: int, what: str, shape: str) -> None:
    if pixels.dtype != np.uint8:
        raise DataError(
            f"{what} of images must be uint8 from 0 to 255, not {dtype}; scale, round and"
            " convert it"
        )
    if pixels.ndim != 4 or pixels.shape[axis] not in (1, 3):
        hint = (
            "; for one image, give images[None]"
            if pixels.ndim == 3
            else "; move the axis of the channels"
        )
        raise DataError(
            f"{what} of images must have the shape {shape}, not {tuple(pixels.shape)}{hint}"
        )


@dataclass(frozen=True)
class Corruption:
    """One corruption, as in `corrupt`."""

    name: str
    severity: int
    seed: int
    parameters: str | None

    def __post_init__(self):
        if self.name not in CORRUPTIONS:
            raise OptionError(
                f"there is no corruption {self.name!r}{did_you_mean(str(self.name), CORRUPTIONS)}"
            )
        if self.parameters is not None and self.parameters not in PARAMETERS:
            raise OptionError(
                f"parameters={self.parameters!r}{did_you_mean(str(self.parameters), PARAMETERS)}"
            )
        if isinstance(self.severity, bool) or self.severity not in range(1, 6):
            raise OptionError(f"severity={self.severity!r}; must be 1, 2, 3, 4 or 5")
        if not isinstance(self.seed, int | np.integer):
            raise OptionError(f"seed={self.seed!r}; must be an integer")

    def __call__(self, pixels: np.ndarray, indices: Sequence[int]) -> np.ndarray:
        """Uint8 (N, C, H, W) of uint8 (N, C, H, W), whose `indices` (N,) the randomness follows
        from.
        """
        height, width = pixels.shape[2:]
        if min(height, width) < _SMALLEST:
            raise DataError(
                f"images of {width} x {height} pixels are too small; at least {_SMALLEST} x"
                f" {_SMALLEST} are needed"
            )
        fitting = (kind for kind, side in LARGEST_SIDES.items() if min(height, width) <= side)
        chosen = PARAMETERS[self.parameters or next(fitting, "imagenet")][self.name][
            int(self.severity) - 1
        ]
        chosen = chosen if isinstance(chosen, tuple) else (chosen,)
        result = np.empty(pixels.shape, dtype=np.uint8)
        size = max(1, _CHUNK // (pixels.shape[1] * height * width))
        for start in range(0, len(pixels), size):
            part = slice(start, start + size)
            x = np.ascontiguousarray(pixels[part]) / 255
            x = getattr(kernels, self.name)(x, self._draw(indices[part]), *chosen)
            result[part] = 255 * x.clip(0, 1)  # truncated, as in the reference
        return result

    def of_image(self, image: Image.Image, index: int) -> Image.Image:
        """Example `index` as an image: grey where it is, else RGB."""
        bands = [band for band in image.getbands() if band not in "Aa"]
        image = to_mode(image, 1 if len(bands) == 1 and bands != ["P"] else 3)
        pixels = np.asarray(image)
        corrupted = self(pixels.reshape(1, *pixels.shape[:2], -1).transpose(0, 3, 1, 2), [index])[0]
        return Image.fromarray(
            np.ascontiguousarray(
                corrupted[0] if len(corrupted) == 1 else corrupted.transpose(1, 2, 0)
            )
        )

    def _draw(self, indices: Sequence[int]) -> Callable:
        key = int.from_bytes(
            hashlib.sha256(f"{self.seed} {self.name}".encode()).digest()[:8], "little"
        )
        generators = [
            np.random.Generator(np.random.Philox(key=(key << 64) + index)) for index in indices
        ]
        return lambda one: np.stack([one(generator) for generator in generators])


class Corrupted(torch.utils.data.Dataset):
    """Examples of a source, corrupted when they are asked for; names and labels are where
    torchvision's datasets have them.
    """

    def __init__(self, source: Source, rows: Sequence[int], corruption: Corruption):
        self.classes, places = source.names, range(len(source.names or ()))
        if isinstance(source.names, Mapping) and {*source.names} == {*places}:
            self.classes = [source.names[i] for i in places]
        self.targets = list(source.labels)
        self.origin = source.origin | {
            "corruption": corruption.name,
            "severity": int(corruption.severity),
            "seed": int(corruption.seed),
        }
        self._reader, self._rows, self._corruption = source.reader, rows, corruption

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Image.Image, Any]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"example {index} of {len(self)}")
        index = index % len(self)
        image = open_image(self._reader.read([self._rows[index]])[0])
        return self._corruption.of_image(image, index), self.targets[index]

    def __repr__(self) -> str:
        return (
            f"<{len(self)} examples under {self._corruption.name} of severity"
            f" {self._corruption.severity}>"
        )
