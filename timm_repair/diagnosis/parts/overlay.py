"""What is at the same place in all failures: a frame, a logo, dust on a sensor. It is not fitted
but read off: where something covers the scene, a pixel is nearly the same in all images.
"""

import base64
import math
import zlib
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from timm_repair.diagnosis.draws import Draws
from timm_repair.diagnosis.parts.part import Kind
from timm_repair.errors import ConfigError

NAME = "fixed overlay"
FEWEST = 20  # images of each population, for the spread of a pixel over them
LEFT = 0.5  # of the usual spread over images: a pixel with less is covered
OPAQUE = 0.05  # less of it is nothing: rounding
LARGEST = 2**28  # numbers of an overlay that are unpacked
MOST = 0.6  # of the image; more is no overlay, but another image


def read_off(failing: Tensor, retained: Tensor) -> str:
    """The overlay of failures (M, C, H, W), against retained images (N, C, H, W), as text; empty
    where there is none.
    """
    if min(len(failing), len(retained)) < FEWEST:
        return ""
    here, there = (x.var(0).mean(0).clamp(min=1e-5).sqrt() for x in (failing, retained))
    through = here / there
    through = through / through.median().clamp(min=1e-3)  # less contrast everywhere is no overlay
    covered = through < LEFT
    if not covered.any() or covered.float().mean() > MOST:
        return ""
    through = torch.where(covered, through, torch.ones_like(through))
    through = torch.where(through < OPAQUE, torch.zeros_like(through), through)
    added = (failing.mean(0) - through * retained.mean(0)) * covered
    values = torch.cat([through[None], added]).clamp(0, 1).mul(255).round().byte().cpu().numpy()
    shape = ",".join(map(str, values.shape)).encode()
    return base64.b64encode(shape + b";" + zlib.compress(values.tobytes(), 9)).decode()


@lru_cache(maxsize=8)
def _picture(text: str) -> Tensor:
    """(1 + C, H, W): how much of the image is seen, and what is added.

    Raises:
        ConfigError: the text, which may come with somebody's diagnosis, is none of `read_off`.
    """
    try:
        shape, values = base64.b64decode(text, validate=True).split(b";", 1)
        sides = tuple(map(int, shape.split(b",")))
        if len(sides) != 3 or min(sides) < 1 or math.prod(sides) > LARGEST:
            raise ValueError(f"its shape is {sides}")
        # no more than its shape tells of: few bytes may be packed to make very many
        unpacked = zlib.decompressobj().decompress(values, math.prod(sides) + 1)
        found = np.frombuffer(unpacked, np.uint8).reshape(sides)
    except (ValueError, zlib.error) as error:
        raise ConfigError(
            f"the overlay of the diagnosis is damaged ({error}): make the diagnosis anew"
        ) from error
    return torch.from_numpy(found.astype(np.float32) / 255)


def laid(x: Tensor, text: str) -> Tensor:
    """Images (N, C, H, W) under the overlay of `read_off`; of another size under it scaled."""
    picture = _picture(text).to(x.device)
    if picture.shape[1:] != x.shape[2:]:
        size = (x.shape[2], x.shape[3])
        picture = F.interpolate(picture[None], size=size, mode="bilinear", align_corners=False)[0]
    if len(picture) != 1 + x.shape[1]:  # found in grey images, or in coloured ones
        picture = torch.cat([picture[:1], picture[1:].mean(0, keepdim=True)])
    return (x * picture[:1] + picture[1:]).clamp(0, 1)


def share(text: str) -> float:
    """Of the image that is covered, from 0 to 1."""
    return float((_picture(text)[0] < LEFT).float().mean())


def _not_without_picture(x: Tensor, draws: Draws) -> Tensor:
    raise AssertionError("an overlay is laid with its picture")


KINDS = (Kind(NAME, _not_without_picture, (), (), family="overlay"),)
