"""`corrupt`: the common corruptions of Hendrycks & Dietterich (ICLR 2019), to find what a model
fails on before its users do.

Here are the parameters of CIFAR-10-C, Tiny-ImageNet-C and ImageNet-C, and everything that may be
corrupted: arrays, tensors, an image, any source of `as_images`. What each corruption does to a
batch is in corruption_kernels.py.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from timm_repair import corruption_kernels
from timm_repair.errors import DataError, OptionError, did_you_mean
from timm_repair.images import Images
from timm_repair.preprocessing import open_image, to_mode
from timm_repair.readers import Source
from timm_repair.sources import open_source

# name -> family; the four "extra" ones are for validation and in no benchmark's mean
CORRUPTIONS = {
    "gaussian_noise": "noise", "shot_noise": "noise", "impulse_noise": "noise",
    "defocus_blur": "blur", "glass_blur": "blur", "motion_blur": "blur", "zoom_blur": "blur",
    "snow": "weather", "frost": "weather", "fog": "weather", "brightness": "weather",
    "contrast": "digital", "elastic_transform": "digital", "pixelate": "digital",
    "jpeg_compression": "digital",
    "speckle_noise": "extra", "gaussian_blur": "extra", "spatter": "extra", "saturate": "extra",
}  # fmt: skip


def _times(side: int, *severities: tuple) -> tuple:
    return tuple(tuple(side * share for share in shares) for shares in severities)


# set of parameters -> name -> those of the severities 1 to 5, in the order of the arguments in
# corruption_kernels.py
PARAMETERS = {
    "cifar": {
        "gaussian_noise": (0.04, 0.06, 0.08, 0.09, 0.1),
        "shot_noise": (500, 250, 100, 75, 50),
        "impulse_noise": (0.01, 0.02, 0.03, 0.05, 0.07),
        "defocus_blur": ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
        "glass_blur": ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
        "motion_blur": ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
        "zoom_blur": ((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)),
        "snow": ((0.1, 0.2, 1, 0.6, 8, 3, 0.95), (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
                 (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9), (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
                 (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8)),
        "frost": ((1, 0.2, 0.2), (1, 0.3, 0.2), (0.9, 0.4, 0.2), (0.85, 0.4, 0.2),
                  (0.75, 0.45, 0.2)),
        "fog": ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
        "brightness": (0.05, 0.1, 0.15, 0.2, 0.3),
        "contrast": (0.75, 0.5, 0.4, 0.3, 0.15),
        "elastic_transform": _times(32, (0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06),
                                    (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)),
        "pixelate": (0.95, 0.9, 0.85, 0.75, 0.65),
        "jpeg_compression": (80, 65, 58, 50, 40),
        "speckle_noise": (0.06, 0.1, 0.12, 0.16, 0.2),
        "gaussian_blur": (0.4, 0.6, 0.7, 0.8, 1),
        "spatter": ((0.62, 0.1, 0.7, 0.7, 0.5, False), (0.65, 0.1, 0.8, 0.7, 0.5, False),
                    (0.65, 0.3, 1, 0.69, 0.5, False), (0.65, 0.1, 0.7, 0.69, 0.6, True),
                    (0.65, 0.1, 0.5, 0.68, 0.6, True)),
        "saturate": ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)),
    },
    "tiny": {
        "gaussian_noise": (0.04, 0.08, 0.12, 0.15, 0.18),
        "shot_noise": (250, 100, 50, 30, 15),
        "impulse_noise": (0.01, 0.02, 0.05, 0.08, 0.14),
        "defocus_blur": ((0.5, 0.6), (1, 0.1), (1.5, 0.1), (2.5, 0.01), (3, 0.1)),
        "glass_blur": ((0.1, 1, 1), (0.5, 1, 1), (0.6, 1, 2), (0.7, 2, 1), (0.9, 2, 2)),
        "motion_blur": ((10, 1), (10, 1.5), (10, 2), (10, 2.5), (12, 3)),
        "zoom_blur": ((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)),
        "snow": ((0.1, 0.2, 1, 0.6, 8, 3, 0.8), (0.1, 0.2, 1, 0.5, 10, 4, 0.8),
                 (0.15, 0.3, 1.75, 0.55, 10, 4, 0.7), (0.25, 0.3, 2.25, 0.6, 12, 6, 0.65),
                 (0.3, 0.3, 1.25, 0.65, 14, 12, 0.6)),
        "frost": ((1, 0.3, 0.3), (0.9, 0.4, 0.3), (0.8, 0.45, 0.3), (0.75, 0.5, 0.3),
                  (0.7, 0.55, 0.3)),
        "fog": ((0.4, 3), (0.7, 3), (1, 2.5), (1.5, 2), (2, 1.75)),
        "brightness": (0.1, 0.2, 0.3, 0.4, 0.5),
        "contrast": (0.4, 0.3, 0.2, 0.1, 0.05),
        "elastic_transform": _times(64, (0, 0, 0.08), (0.05, 0.3, 0.06), (0.1, 0.08, 0.06),
                                    (0.1, 0.03, 0.03), (0.16, 0.03, 0.02)),
        "pixelate": (0.9, 0.8, 0.7, 0.6, 0.5),
        "jpeg_compression": (65, 58, 50, 40, 25),
        "speckle_noise": (0.15, 0.2, 0.25, 0.3, 0.35),
        "gaussian_blur": (0.5, 0.75, 1, 1.25, 1.5),
        "spatter": ((0.62, 0.1, 0.7, 0.7, 0.6, False), (0.65, 0.1, 0.8, 0.7, 0.6, False),
                    (0.65, 0.3, 1, 0.69, 0.6, False), (0.65, 0.1, 0.7, 0.68, 0.6, True),
                    (0.65, 0.1, 0.5, 0.67, 0.6, True)),
        "saturate": ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (30, 0.2)),
    },
    "imagenet": {
        "gaussian_noise": (0.08, 0.12, 0.18, 0.26, 0.38),
        "shot_noise": (60, 25, 12, 5, 3),
        "impulse_noise": (0.03, 0.06, 0.09, 0.17, 0.27),
        "defocus_blur": ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
        "glass_blur": ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
        "motion_blur": ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
        "zoom_blur": ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)),
        "snow": ((0.1, 0.3, 3, 0.5, 10, 4, 0.8), (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
                 (0.55, 0.3, 4, 0.9, 12, 8, 0.7), (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
                 (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55)),
        "frost": ((1, 0.4, 1), (0.8, 0.6, 1), (0.7, 0.7, 1), (0.65, 0.7, 1), (0.6, 0.75, 1)),
        "fog": ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
        "brightness": (0.1, 0.2, 0.3, 0.4, 0.5),
        "contrast": (0.4, 0.3, 0.2, 0.1, 0.05),
        # not 224: so it is in the reference, and so the published set was made
        "elastic_transform": _times(244, (2, 0.7, 0.1), (2, 0.08, 0.2), (0.05, 0.01, 0.02),
                                    (0.07, 0.01, 0.02), (0.12, 0.01, 0.02)),
        "pixelate": (0.6, 0.5, 0.4, 0.3, 0.25),
        "jpeg_compression": (25, 18, 15, 10, 7),
        "speckle_noise": (0.15, 0.2, 0.35, 0.45, 0.6),
        "gaussian_blur": (1, 2, 3, 4, 6),
        "spatter": ((0.65, 0.3, 4, 0.69, 0.6, False), (0.65, 0.3, 3, 0.68, 0.6, False),
                    (0.65, 0.3, 2, 0.68, 0.5, False), (0.65, 0.3, 1, 0.65, 1.5, True),
                    (0.67, 0.4, 1, 0.65, 1.5, True)),
        "saturate": ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2)),
    },
}  # fmt: skip
# shorter side of the images that a set of parameters is chosen for
_LARGEST = {"cifar": 48, "tiny": 128}
_SMALLEST = 8
_CHUNK = 2**20  # values corrupted at once


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
    corruption = _Corruption(name, severity, seed, parameters)
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
        source = Source(images._pool.reader, images.labels.tolist(), origin=images.origin)
        return Corrupted(source, images._rows.tolist(), corruption)
    source = open_source(
        images, split, (image_column, label_column), "images", {"revision": None, "token": None}
    )
    return Corrupted(source, range(len(source.labels)), corruption)


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
class _Corruption:
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
        fitting = (kind for kind, side in _LARGEST.items() if min(height, width) <= side)
        chosen = PARAMETERS[self.parameters or next(fitting, "imagenet")][self.name][
            int(self.severity) - 1
        ]
        chosen = chosen if isinstance(chosen, tuple) else (chosen,)
        result = np.empty(pixels.shape, dtype=np.uint8)
        size = max(1, _CHUNK // (pixels.shape[1] * height * width))
        for start in range(0, len(pixels), size):
            part = slice(start, start + size)
            x = np.ascontiguousarray(pixels[part]) / 255
            x = getattr(corruption_kernels, self.name)(x, self._draw(indices[part]), *chosen)
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

    def __init__(self, source: Source, rows: Sequence[int], corruption: _Corruption):
        self.classes = None if source.names is None else list(source.names)
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
