"""Filters and resampling that the corruptions are made of, each as the reference's libraries define
it.

`x` is float64 (N, C, H, W) from 0 to 1. Filters are matrices or loops over few taps: the same
arithmetic for every example, whatever else is in the batch.
"""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import cast

import numpy as np
from PIL import Image

# of one example -> stacked over the batch
Draw = Callable[[Callable[[np.random.Generator], np.ndarray | float]], np.ndarray]


def grey(x: np.ndarray) -> np.ndarray:
    """(N, 1, H, W): the brightness."""
    return x if x.shape[1] == 1 else (0.299 * x[:, 0] + 0.587 * x[:, 1] + 0.114 * x[:, 2])[:, None]


def to_hsv(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Saturation and value (N, 1, H, W), and the hue as (N, C, H, W) from 0, the strongest channel,
    to 1, the weakest: x = value * (1 - saturation * hue). Grey images have the hue 0; grey pixels
    of a colour image that of red.
    """
    value, least = x.max(1, keepdims=True), x.min(1, keepdims=True)
    spread = value - least
    red = np.minimum(np.arange(x.shape[1]), 1).reshape(1, -1, 1, 1)
    hue = np.where(spread > 0, (value - x) / np.where(spread > 0, spread, 1), red)
    return spread / np.where(value > 0, value, 1), value, hue


def with_pil(x: np.ndarray, change: Callable[[Image.Image], Image.Image]) -> np.ndarray:
    """`change` applied to each example as an 8-bit image."""
    pixels = (255 * x).astype(np.uint8).transpose(0, 2, 3, 1)
    images = (
        Image.fromarray(np.ascontiguousarray(each[..., 0] if each.shape[2] == 1 else each))
        for each in pixels
    )
    changed = np.stack([np.asarray(change(image)) for image in images])
    return changed.reshape(pixels.shape).transpose(0, 3, 1, 2) / 255


def _fold(positions: np.ndarray, n: int, border: str) -> np.ndarray:
    """Indices within 0 … n - 1 for those outside: "edge" aaa|abc, "mirror" cb|abc, "symmetric"
    ba|abc.
    """
    if border == "edge":
        return positions.clip(0, n - 1)
    period = 2 * n if border == "symmetric" else max(2 * n - 2, 1)
    positions = positions % period
    return np.where(
        positions < n, positions, (2 * n - 1 if border == "symmetric" else period) - positions
    )


@lru_cache(maxsize=64)
def _smoother(n: int, sigma: float, radius: int, border: str) -> np.ndarray:
    """(n, n) matrix that convolves with a Gaussian cut off at `radius`."""
    offsets = np.arange(-radius, radius + 1)
    weights = np.exp(-0.5 * (offsets / sigma) ** 2) if sigma > 0 else (offsets == 0).astype(float)
    matrix = np.zeros((n, n))
    for offset, weight in zip(offsets, weights / weights.sum(), strict=True):
        np.add.at(matrix, (np.arange(n), _fold(np.arange(n) + offset, n, border)), weight)
    return matrix


def blur(x: np.ndarray, sigma: float, *, truncate: float = 4, border: str = "edge") -> np.ndarray:
    """Convolved with a Gaussian that is cut off at `truncate` standard deviations, as in
    scikit-image.
    """
    radius = int(truncate * sigma + 0.5)
    rows, columns = (_smoother(side, sigma, radius, border) for side in x.shape[-2:])
    return rows @ x @ columns.T if radius else x


@lru_cache(maxsize=32)
def disk(radius: float, alias_sigma: float) -> np.ndarray:
    """Kernel of a lens out of focus."""
    reach, soft = (8, 1) if radius <= 8 else (int(radius), 2)
    line = np.arange(-reach, reach + 1)
    inside = (line[:, None] ** 2 + line**2 <= radius**2).astype(float)
    smoother = _smoother(len(line), alias_sigma, soft, "mirror")
    return smoother @ (inside / inside.sum()) @ smoother.T


def correlate(x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Of each channel with an odd square kernel, mirrored at the borders."""
    height, width = x.shape[-2:]
    reach = len(kernel) // 2
    taps = np.argwhere(kernel)
    padded = x[..., _fold(np.arange(-reach, height + reach), height, "mirror"), :]
    padded = padded[..., _fold(np.arange(-reach, width + reach), width, "mirror")]
    parts = (
        kernel[top, left] * padded[..., top : top + height, left : left + width]
        for top, left in taps
    )
    return cast(np.ndarray, sum(parts))  # a kernel has a tap


def copied_from(steps: np.ndarray, reach: int, height: int, width: int) -> np.ndarray:
    """(N, H W) flat index of the pixel whose value each pixel has in the end.

    Pixels are visited from the bottom right to the top left; each takes the present value of the
    one `steps` (N, 2, …; x and y) away. A value that was itself replaced before is therefore
    followed to where it came from.
    """
    ys, xs = (np.arange(side - reach, reach, -1) for side in (height, width))
    here = np.broadcast_to(ys[:, None] * width + xs, (len(steps), len(ys), len(xs)))
    there_y, there_x = ys[:, None] + steps[:, 1], xs + steps[:, 0]
    there = there_y * width + there_x
    visited = (
        (there > here)
        & (there_y <= height - reach)
        & (there_x > reach)
        & (there_x <= width - reach)
    )
    source, follow = np.tile(np.arange(height * width), (2, len(steps), 1))
    here = here.reshape(len(steps), -1)
    np.put_along_axis(source, here, there.reshape(here.shape), 1)
    np.put_along_axis(
        follow, here, np.where(visited, there, here.reshape(there.shape)).reshape(here.shape), 1
    )
    while not np.array_equal(further := np.take_along_axis(follow, follow, 1), follow):
        follow = further
    return np.take_along_axis(source, follow, 1)


def line(radius: float, sigma: float, angle: float) -> tuple[np.ndarray, np.ndarray]:
    """Weights (n,) and offsets (n, 2; y and x) of a one-sided Gaussian line, as ImageMagick's."""
    steps = np.arange(2 * math.ceil(radius) + 1)
    weights = np.exp(-0.5 * (steps / sigma) ** 2)
    direction = np.array([math.sin(math.radians(angle)), math.cos(math.radians(angle))])
    return weights / weights.sum(), np.ceil(steps[:, None] * direction - 0.5).astype(int)


def along_line(x: np.ndarray, angles: np.ndarray, radius: float, sigma: float) -> np.ndarray:
    """Blurred along a line, and rounded to 8 bits, as ImageMagick does."""
    height, width = x.shape[2:]
    reach = 2 * math.ceil(radius)
    blurred = np.zeros_like(x)
    for image, result, angle in zip(x, blurred, angles, strict=True):
        rows, columns = (
            _fold(np.arange(-reach, side + reach), side, "edge") for side in (height, width)
        )
        padded = image[:, rows[:, None], columns]
        for weight, (dy, dx) in zip(*line(radius, sigma, angle), strict=True):
            if weight > 1e-9:
                result += (
                    weight
                    * padded[:, reach + dy : reach + dy + height, reach + dx : reach + dx + width]
                )
    return np.rint(255 * blurred) / 255


@lru_cache(maxsize=256)
def zoom_matrix(n: int, factor: float) -> np.ndarray:
    """(n, n) matrix that magnifies the middle of n pixels, linearly interpolated."""
    kept = math.ceil(n / factor)
    size = round(kept * factor)
    positions = np.arange(size) * ((kept - 1) / max(size - 1, 1))
    low = np.minimum(positions.astype(int), max(kept - 2, 0))
    matrix = np.zeros((size, n))
    first = (n - kept) // 2 + low
    np.add.at(matrix, (np.arange(size), first), 1 - (positions - low))
    np.add.at(matrix, (np.arange(size), np.minimum(first + 1, n - 1)), positions - low)
    trim = (size - n) // 2
    return matrix[trim : trim + n]


def sample(x: np.ndarray, ys: np.ndarray, xs: np.ndarray, border: str) -> np.ndarray:
    """`x` (N, C, H, W) at the places `ys`, `xs` (N, H, W), bilinear."""
    height, width = x.shape[2:]
    flat = x.reshape(*x.shape[:2], -1)
    top, left = np.floor(ys).astype(int), np.floor(xs).astype(int)
    down, right = ys - top, xs - left
    result = 0.0
    for dy, vertical in ((0, 1 - down), (1, down)):
        for dx, horizontal in ((0, 1 - right), (1, right)):
            index = _fold(top + dy, height, border) * width + _fold(left + dx, width, border)
            corner = np.take_along_axis(flat, index.reshape(len(x), 1, -1), 2).reshape(x.shape)
            result = result + corner * (vertical * horizontal)[:, None]
    return result


def canny(levels: np.ndarray, low: float, high: float) -> np.ndarray:
    """(N, H, W) bool: the edges in `levels` (N, H, W; 0 to 255), by Sobel gradients, thinning and
    hysteresis, as OpenCV finds them.
    """
    height, width = levels.shape[1:]
    rows, columns = (_fold(np.arange(-1, side + 1), side, "edge") for side in (height, width))
    near = {
        (i, j): levels[:, rows[:, None], columns][:, i : i + height, j : j + width]
        for i in range(3)
        for j in range(3)
    }
    dx = near[0, 2] + 2 * near[1, 2] + near[2, 2] - near[0, 0] - 2 * near[1, 0] - near[2, 0]
    dy = near[2, 0] + 2 * near[2, 1] + near[2, 2] - near[0, 0] - 2 * near[0, 1] - near[0, 2]
    strength = np.abs(dx) + np.abs(dy)

    def at(y: int, x: int) -> np.ndarray:
        return np.pad(strength, ((0, 0), (1, 1), (1, 1)))[
            :, 1 + y : 1 + y + height, 1 + x : 1 + x + width
        ]

    flat = np.abs(dy) < np.abs(dx) * math.tan(math.pi / 8)
    steep = np.abs(dy) > np.abs(dx) / math.tan(math.pi / 8)
    falling = (strength > at(-1, -1)) & (strength > at(1, 1))
    rising = (strength > at(-1, 1)) & (strength > at(1, -1))
    sideways = (strength > at(0, -1)) & (strength >= at(0, 1))
    upright = (strength > at(-1, 0)) & (strength >= at(1, 0))
    ridge = np.select([flat, steep, (dx < 0) == (dy < 0)], [sideways, upright, falling], rising) & (
        strength > low
    )
    edges = ridge & (strength > high)
    while True:  # an edge goes on where the ridge does
        padded = np.pad(edges, ((0, 0), (1, 1), (1, 1)))
        grown = ridge & np.any(
            [padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3)], 0
        )
        if np.array_equal(grown, edges):
            return edges
        edges = grown


def distance_to(places: np.ndarray, most: float) -> np.ndarray:
    """(N, H, W): how far the nearest of `places` (N, H, W; bool) is, at most `most`, in steps of
    one, diagonally and of a chess knight, with OpenCV's lengths.
    """
    height, width = places.shape[1:]
    lengths = {(0, 1): 1.0, (1, 1): 1.4, (1, 2): 2.1969}
    steps = [
        (i, j)
        for i in range(-2, 3)
        for j in range(-2, 3)
        if tuple(sorted((abs(i), abs(j)))) in lengths
    ]
    distance = np.where(places, 0.0, most)
    while True:
        padded = np.pad(distance, ((0, 0), (2, 2), (2, 2)), constant_values=most)
        nearer = distance
        for i, j in steps:
            there = padded[:, 2 + i : 2 + i + height, 2 + j : 2 + j + width]
            nearer = np.minimum(nearer, there + lengths[min(abs(i), abs(j)), max(abs(i), abs(j))])
        if np.array_equal(nearer, distance):
            return distance
        distance = nearer


def equalized(levels: np.ndarray) -> np.ndarray:
    """`levels` (N, H, W; whole numbers 0 to 255) with the histogram of each image spread over the
    range; one of a single level stays.
    """
    counts = np.stack([np.bincount(image.ravel().astype(int), minlength=256) for image in levels])
    below = counts.cumsum(1)
    lowest = np.take_along_axis(counts, (counts > 0).argmax(1)[:, None], 1)
    rest = below[:, -1:] - lowest
    spread = np.rint((below - lowest) * (255 / np.maximum(rest, 1)))
    table = np.where(rest > 0, spread.clip(0, 255), np.arange(256))
    return np.take_along_axis(table, levels.reshape(len(levels), -1).astype(int), 1).reshape(
        levels.shape
    )
