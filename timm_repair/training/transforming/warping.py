"""Warping: rotation, shear, zoom and shift in one resampling, each image by its own amounts."""

import torch
from torch import Tensor
from torch.nn import functional as F


def placing(
    *,
    rotation: Tensor | None = None,
    shear_x: Tensor | None = None,
    shear_y: Tensor | None = None,
    zoom: Tensor | None = None,
) -> Tensor:
    """Where a point goes, as an offset from the middle (x to the right, y down): (n, 2, 2). Zoom
    comes first, then shear, then rotation.

    Args:
        rotation: (n,) degrees, counter-clockwise.
        shear_x: (n,) pixels to the right for each pixel down; shear_y the other way round.
        zoom: (n,) factors.
    """
    given = next(each for each in (rotation, shear_x, shear_y, zoom) if each is not None)
    zero, one = torch.zeros_like(given), torch.ones_like(given)
    angle = torch.deg2rad(zero if rotation is None else rotation)
    turned = _matrix(angle.cos(), angle.sin(), -angle.sin(), angle.cos())
    sheared = _matrix(
        one, zero if shear_x is None else shear_x, zero if shear_y is None else shear_y, one
    )
    return turned @ sheared * (one if zoom is None else zoom)[:, None, None]


def warped(pixels: Tensor, placed: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
    """The images (n, C, H, W) with every point moved as `placed` (n, 2, 2) says and then by `shift`
    (n, 2), pixels to the right and down.

    Bilinear; what comes in from beyond the border is its reflection, since a black one would be a
    corruption of its own. Images of integers are rounded, so that what is moved by whole pixels
    stays as it is.
    """
    count, _, height, width = pixels.shape
    if placed is None:
        placed = torch.eye(2, device=pixels.device).expand(count, 2, 2)
    back = torch.linalg.inv(placed.float())
    moved = torch.zeros_like(back[:, 0]) if shift is None else shift.float()
    origin = -(back @ moved[:, :, None])
    # affine_grid counts in half sides from the middle
    sides = back.new_tensor([width / 2, height / 2])
    linear = back * sides / sides[:, None]
    theta = torch.cat([linear, origin / sides[:, None]], 2)
    grid = F.affine_grid(theta, list(pixels.shape), align_corners=False)
    found = F.grid_sample(
        pixels.float(), grid, mode="bilinear", padding_mode="reflection", align_corners=False
    )
    return found if pixels.is_floating_point() else found.round().clamp(0, 255).to(pixels.dtype)


def _matrix(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    return torch.stack([torch.stack([a, b], -1), torch.stack([c, d], -1)], -2)
