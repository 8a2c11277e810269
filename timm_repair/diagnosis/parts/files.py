"""What storing an image does: fewer pixels, fewer levels, JPEG."""

import math
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from timm_repair.diagnosis.draws import Draws
from timm_repair.diagnosis.parts.part import Kind, Knob, each

# of the standard, Annex K
_LUMA = torch.tensor(
    [[16, 11, 10, 16, 24, 40, 51, 61], [12, 12, 14, 19, 26, 58, 60, 55],
     [14, 13, 16, 24, 40, 57, 69, 56], [14, 17, 22, 29, 51, 87, 80, 62],
     [18, 22, 37, 56, 68, 109, 103, 77], [24, 35, 55, 64, 81, 104, 113, 92],
     [49, 64, 78, 87, 103, 121, 120, 101], [72, 92, 95, 98, 112, 100, 103, 99.0]]
)  # fmt: skip
_CHROMA = torch.full((8, 8), 99.0)
_CHROMA[:4, :4] = torch.tensor(
    [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99.0]]
)
_TO_YCC = torch.tensor(
    [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]]
)


def _by_side(x: Tensor, factor: Tensor, act: Callable[[Tensor, int, int], Tensor]) -> Tensor:
    """`act` on the images that a factor of its own brings to one height and width, and on those of
    the next.
    """
    sides = (factor.view(-1, 1) * factor.new_tensor(x.shape[-2:])).int().clamp(min=2).tolist()
    found = torch.empty_like(x)
    for height, width in sorted({tuple(side) for side in sides}):
        rows = torch.tensor([tuple(side) == (height, width) for side in sides], device=x.device)
        found[rows] = act(x[rows], height, width)
    return found


def _fewer(x: Tensor, factor: Tensor, down: str, mode: str) -> Tensor:
    smooth = {} if mode.startswith("nearest") else {"align_corners": False}

    def there_and_back(some: Tensor, height: int, width: int) -> Tensor:
        small = F.interpolate(some, size=(height, width), mode=down)
        return F.interpolate(small, size=x.shape[-2:], mode=mode, **smooth)

    return _by_side(x, factor, there_and_back)


def _pixelate(x: Tensor, draws: Draws, factor: Tensor) -> Tensor:
    down, across = x.shape[-2:]
    return _by_side(
        x, factor, lambda some, h, w: _cells(down, h, some) @ some @ _cells(across, w, some)
    )


def _cells(old: int, new: int, like: Tensor) -> Tensor:
    """(old, old): the matrix that gives to each pixel of a line the mean of those in the same one
    of `new` equal cells. Those whose middle is in a cell belong to it, as for a box filter.
    """
    cell = ((torch.arange(old) + 0.5) * new / old).long()
    same = (cell[:, None] == cell).to(like)
    return same / same.sum(1, keepdim=True)


def _enlarge(x: Tensor, draws: Draws, factor: Tensor) -> Tensor:
    return _fewer(x, factor, "area", "bilinear")


def _leave_out(x: Tensor, draws: Draws, factor: Tensor) -> Tensor:
    return _fewer(x, factor, "nearest-exact", "nearest-exact")


def _posterize(x: Tensor, draws: Draws, levels: Tensor) -> Tensor:
    steps = each(levels) - 1
    return (x * steps).round() / steps


@lru_cache(maxsize=1)
def _cosines() -> Tensor:
    k = torch.arange(8.0)
    found = torch.cos((2 * k[None] + 1) * k[:, None] * math.pi / 16) / 2
    found[0] /= math.sqrt(2)
    return found


def _quantized(plane: Tensor, table: Tensor) -> Tensor:
    """(N, 1, H, W) with the cosines of its blocks of 8 pixels rounded to multiples of `table`
    (N, 8, 8).
    """
    n, _, h, w = plane.shape
    cosines = _cosines().to(plane.device)
    blocks = plane.view(n, h // 8, 8, w // 8, 8).transpose(2, 3)
    table = table.view(n, 1, 1, 8, 8)
    found = cosines.T @ ((cosines @ blocks @ cosines.T / table).round() * table) @ cosines
    return found.transpose(2, 3).reshape(n, 1, h, w)


def _jpeg(x: Tensor, draws: Draws, quality: Tensor) -> Tensor:
    height, width = x.shape[-2:]
    scale = torch.where(quality < 50, 50 / quality, 2 - quality / 50).view(-1, 1, 1)
    y = 255 * F.pad(x, (0, -width % 16, 0, -height % 16), mode="replicate")
    tables = [(table.to(x.device) * scale).round().clamp(1, 255) for table in (_LUMA, _CHROMA)]
    if x.shape[1] == 1:
        return (_quantized(y - 128, tables[0]) + 128)[..., :height, :width] / 255
    to_ycc = _TO_YCC.to(x.device)
    y = torch.einsum("ij,njhw->nihw", to_ycc, y)
    light = _quantized(y[:, :1] - 128, tables[0]) + 128
    colours = [_quantized(F.avg_pool2d(y[:, i : i + 1], 2), tables[1]) for i in (1, 2)]
    full = [F.interpolate(c, scale_factor=2, mode="bilinear", align_corners=False) for c in colours]
    y = torch.einsum("ij,njhw->nihw", torch.linalg.inv(to_ycc), torch.cat([light, *full], 1))
    return y[..., :height, :width] / 255


# close together: sides are whole pixels, and between two of them nothing tells a fit where to go
_SIDES = tuple((0.94 * 0.88**k,) for k in range(12))

KINDS = (
    Kind("low resolution", _enlarge, (Knob("", "× {:.2f}", 0.05, 0.99),), ((0.75,), (0.45,)),
         family="blur"),
    Kind("pixelation", _pixelate, (Knob("", "to × {:.2f}", 0.05, 0.99, varies=False),),
         _SIDES, family="pixelation"),
    Kind("nearest-neighbour resizing", _leave_out,
         (Knob("", "to × {:.2f}", 0.05, 0.99, varies=False),), _SIDES, family="pixelation"),
    Kind("posterization", _posterize, (Knob("", "to {:.0f} levels", 2, 64),), ((4,), (12,)),
         family="posterization"),
    Kind("JPEG", _jpeg, (Knob("", "quality {:.0f}", 1, 98),), ((60,), (30,), (12,)),
         family="jpeg"),
)  # fmt: skip
