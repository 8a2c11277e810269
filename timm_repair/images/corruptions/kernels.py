"""What each corruption does to a batch; which parameters it has at which severity is in
parameters.py.

A corruption is a function of `x`, float64 (N, C, H, W) from 0 to 1; of `draw`, which asks every
example's own random generator; and of its parameters. It returns the same shape, before clipping.
Every step treats each example by itself, in the same arithmetic whatever the batch, so that a
result never depends on what else is in it.
"""

import io
import math

import numpy as np
from PIL import Image

from timm_repair.images.corruptions import filters, textures
from timm_repair.images.corruptions.filters import Draw


def gaussian_noise(x: np.ndarray, draw: Draw, std: float) -> np.ndarray:
    """Sensor noise in bad light."""
    return x + draw(lambda rng: rng.normal(0, std, x.shape[1:]))


def shot_noise(x: np.ndarray, draw: Draw, photons: float) -> np.ndarray:
    """Noise of counting few photons."""
    rows = iter(x)
    return draw(lambda rng: rng.poisson(next(rows) * photons)) / photons


def impulse_noise(x: np.ndarray, draw: Draw, share: float) -> np.ndarray:
    """Salt and pepper: dead and saturated pixels, in each channel by itself."""
    hit, salt = np.moveaxis(draw(lambda rng: rng.random((2, *x.shape[1:]))), 1, 0)
    return np.where(hit <= share, salt <= 0.5, x)


def defocus_blur(x: np.ndarray, draw: Draw, radius: float, alias_sigma: float) -> np.ndarray:
    """A lens out of focus: the mean over a disk with softened rim."""
    return filters.correlate(x, filters.disk(radius, alias_sigma))


def glass_blur(x: np.ndarray, draw: Draw, sigma: float, reach: int, rounds: int) -> np.ndarray:
    """Frosted glass: pixels take the place of near ones, between two blurs.

    The reference means to swap two pixels, but assigns one view of an array to the other, so that
    one is copied over the other; the published sets are made that way, and so are these.
    """
    x = np.floor(255 * filters.blur(x, sigma)) / 255
    height, width = x.shape[2:]
    inner = (max(height - 2 * reach, 0), max(width - 2 * reach, 0))
    steps = draw(lambda rng: rng.integers(-reach, reach, (rounds, 2, *inner)))
    for r in range(rounds):
        flat = x.reshape(*x.shape[:2], -1)
        x = np.take_along_axis(
            flat, filters.copied_from(steps[:, r], reach, height, width)[:, None], 2
        ).reshape(x.shape)
    return filters.blur(x, sigma)


def motion_blur(x: np.ndarray, draw: Draw, radius: float, sigma: float) -> np.ndarray:
    """A moving camera; the direction is random, within 45 degrees of the horizontal."""
    return filters.along_line(x, draw(lambda rng: rng.uniform(-45, 45)), radius, sigma)


def zoom_blur(x: np.ndarray, draw: Draw, most: float, step: float) -> np.ndarray:
    """A camera that moves towards what it sees: the mean over magnifications."""
    # rounding takes `most` in as often as not, here as in the reference
    factors = np.arange(1, most, step)
    x = x.astype(np.float32)
    rows, columns = (
        [filters.zoom_matrix(side, factor).astype(np.float32) for factor in factors]
        for side in x.shape[2:]
    )
    return (x + sum(r @ x @ c.T for r, c in zip(rows, columns, strict=True))) / np.float32(
        len(factors) + 1
    )


def snow(
    x: np.ndarray,
    draw: Draw,
    mean: float,
    std: float,
    zoom: float,
    threshold: float,
    radius: float,
    sigma: float,
    mix: float,
) -> np.ndarray:
    """Falling flakes, twice with opposite directions, over an image that is whitened a little."""
    shape = x.shape[2:]
    layer = draw(lambda rng: rng.normal(mean, std, shape))[:, None]
    layer = filters.zoom_matrix(shape[0], zoom) @ layer @ filters.zoom_matrix(shape[1], zoom).T
    layer = np.floor(255 * np.where(layer < threshold, 0, layer).clip(0, 1)) / 255
    layer = filters.along_line(layer, draw(lambda rng: rng.uniform(-135, -45)), radius, sigma)
    whitened = np.maximum(x, 1.5 * filters.grey(x) + 0.5)
    return mix * x + (1 - mix) * whitened + layer + np.rot90(layer, 2, (2, 3))


def frost(
    x: np.ndarray, draw: Draw, weight: float, frost_weight: float, scale: float
) -> np.ndarray:
    """Ice crystals on the lens.

    The crystals are generated, because the photographs of the reference have no stated licence:
    their mean colours and contrasts are those of the photographs, their shapes are not, so this is
    not bit-compatible with the reference.
    """
    height, width = x.shape[2:]

    def crop(rng: np.random.Generator) -> np.ndarray:
        texture = textures.frost_texture(int(rng.integers(len(textures.FROSTS))), scale)
        top, left = rng.integers(0, texture.shape[1:])
        rows, columns = (
            (start + np.arange(n)) % texture.shape[1] for start, n in ((top, height), (left, width))
        )
        return texture[:, rows[:, None], columns]

    ice = draw(crop)
    return weight * x + frost_weight * (ice if x.shape[1] == 3 else filters.grey(ice))


def fog(x: np.ndarray, draw: Draw, amount: float, decay: float) -> np.ndarray:
    """Fog of uneven density: a plasma fractal, made with the diamond-square algorithm."""
    height, width = x.shape[2:]
    side = 2 ** math.ceil(math.log2(max(height, width)))
    most = x.max((1, 2, 3), keepdims=True)
    return (
        (x + amount * textures.plasma(draw, side, decay)[:, None, :height, :width])
        * most
        / (most + amount)
    )


def brightness(x: np.ndarray, draw: Draw, shift: float) -> np.ndarray:
    """Overexposure: V of HSV is raised, hue and saturation stay."""
    saturation, value, hue = filters.to_hsv(x)
    return (value + shift).clip(0, 1) * (1 - saturation * hue)


def contrast(x: np.ndarray, draw: Draw, factor: float) -> np.ndarray:
    """Differences from the mean of each channel shrink."""
    mean = x.reshape(*x.shape[:2], -1).mean(2)[..., None, None]
    return (x - mean) * factor + mean


def elastic_transform(
    x: np.ndarray, draw: Draw, alpha: float, sigma: float, jitter: float
) -> np.ndarray:
    """A random affine map, then a smooth random displacement of each pixel."""
    height, width = x.shape[2:]
    centre, reach = np.array([width // 2, height // 2]), min(height, width) // 3
    corners = centre + reach * np.array([[1, 1], [1, -1], [-1, -1]])
    moved = corners + draw(lambda rng: rng.uniform(-jitter, jitter, corners.shape))
    inverse = np.linalg.solve(
        np.concatenate([moved, np.ones((len(x), 3, 1))], 2), np.broadcast_to(corners, moved.shape)
    )
    ys, xs = np.indices((height, width), dtype=float)
    source = (
        xs[..., None] * inverse[:, None, None, 0]
        + ys[..., None] * inverse[:, None, None, 1]
        + inverse[:, None, None, 2]
    )
    x = filters.sample(x, source[..., 1], source[..., 0], "mirror")
    shifts = (
        filters.blur(
            draw(lambda rng: rng.uniform(-1, 1, (2, height, width))),
            sigma,
            truncate=3,
            border="symmetric",
        )
        * alpha
    )
    return filters.sample(x, ys + shifts[:, 1], xs + shifts[:, 0], "symmetric")


def pixelate(x: np.ndarray, draw: Draw, factor: float) -> np.ndarray:
    """Too few pixels."""
    height, width = x.shape[2:]
    small = (max(int(width * factor), 1), max(int(height * factor), 1))
    return filters.with_pil(
        x,
        lambda image: image.resize(small, Image.Resampling.BOX).resize(
            (width, height), Image.Resampling.BOX
        ),
    )


def jpeg_compression(x: np.ndarray, draw: Draw, quality: int) -> np.ndarray:
    """JPEG of low quality."""

    def compress(image: Image.Image) -> Image.Image:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality)
        return Image.open(file)

    return filters.with_pil(x, compress)


def speckle_noise(x: np.ndarray, draw: Draw, std: float) -> np.ndarray:
    """Noise in proportion to the brightness."""
    return x + x * draw(lambda rng: rng.normal(0, std, x.shape[1:]))


def gaussian_blur(x: np.ndarray, draw: Draw, sigma: float) -> np.ndarray:
    """A soft lens."""
    return filters.blur(x, sigma)


def spatter(
    x: np.ndarray,
    draw: Draw,
    mean: float,
    std: float,
    sigma: float,
    threshold: float,
    strength: float,
    mud: bool,
) -> np.ndarray:
    """Drops of water that shine at their rims, or splashes of mud."""
    liquid = filters.blur(draw(lambda rng: rng.normal(mean, std, x.shape[2:])), sigma)
    liquid = np.where(liquid < threshold, 0, liquid)
    if mud:
        cover = filters.blur((liquid > threshold).astype(float), strength)
        cover = np.where(cover < 0.8, 0, cover)[:, None]
        return x * (1 - cover) + cover * _colour(x, 63, 42, 20)
    # it may exceed 1, and then overflows, as in the reference
    liquid = np.floor(255 * liquid) % 256
    distance = np.floor(
        filters.correlate(
            filters.distance_to(filters.canny(liquid, 50, 150), most=20), np.ones((3, 3))
        )
        / 9
    )
    relief = filters.correlate(
        filters.equalized(distance), np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]])
    ).clip(0, 255)
    shine = liquid * np.rint(filters.correlate(relief, np.ones((3, 3))) / 9)
    most = shine.max((1, 2), keepdims=True)
    return x + strength * (shine / np.where(most > 0, most, 1))[:, None] * _colour(x, 175, 238, 238)


def saturate(x: np.ndarray, draw: Draw, factor: float, shift: float) -> np.ndarray:
    """S of HSV changes; hue and V stay. Grey pixels of a colour image have the hue of red, as in
    the reference.
    """
    saturation, value, hue = filters.to_hsv(x)
    return value * (1 - (saturation * factor + shift).clip(0, 1) * hue)


def _colour(x: np.ndarray, *rgb: int) -> np.ndarray:
    colour = np.array(rgb, dtype=float).reshape(1, 3, 1, 1) / 255
    return colour if x.shape[1] == 3 else filters.grey(colour)
