"""Textures that weather is made of: ice crystals and plasma."""

from functools import lru_cache

import numpy as np

from timm_repair.images.corruptions.filters import Draw

# of five photographs of frost: mean colour, standard deviation of the brightness
FROSTS = (
    ((78, 149, 166), 18),
    ((201, 205, 215), 22),
    ((201, 205, 215), 22),
    ((138, 153, 165), 29),
    ((112, 123, 135), 43),
)
_FROST_SIDE = 480


@lru_cache(maxsize=16)
def frost_texture(which: int, scale: float) -> np.ndarray:
    """Texture `which`, (3, S, S) from 0 to 1, that continues itself at its borders."""
    colour, contrast = FROSTS[which]
    texture = np.array(colour)[:, None, None] + contrast * needles(which)
    # sampled, not averaged, where it is made smaller: the reference does the same
    places = ((np.arange(round(_FROST_SIDE * scale)) + 0.5) / scale - 0.5).astype(int)
    return texture[:, places[:, None], places].clip(0, 255) / 255


@lru_cache(maxsize=len(FROSTS))
def needles(seed: int) -> np.ndarray:
    """(S, S) of mean 0 and variance 1: needles that point differently in different places, unevenly
    bright.
    """
    rng = np.random.default_rng(seed)
    side = _FROST_SIDE
    fy, fx = np.meshgrid(np.fft.fftfreq(side), np.fft.rfftfreq(side), indexing="ij")

    def filtered(gain: np.ndarray) -> np.ndarray:
        field = np.fft.irfft2(np.fft.rfft2(rng.normal(size=(side, side))) * gain, (side, side))
        return (field - field.mean()) / field.std()

    angles = rng.uniform(0, np.pi) + np.pi * np.arange(6) / 6
    along = [(np.cos(a) * fx + np.sin(a) * fy, np.cos(a) * fy - np.sin(a) * fx) for a in angles]
    needles = np.stack([filtered(np.exp(-((60 * u) ** 2) - (4 * v) ** 2)) for u, v in along])
    presence = np.stack([filtered(np.exp(-((90 * fx) ** 2) - (90 * fy) ** 2)) for _ in along])
    presence = np.exp(3 * presence) / np.exp(3 * presence).sum(0)
    ridges = (presence * np.abs(needles)).sum(0)
    uneven = filtered(1 / (1 + (400 * np.hypot(fx, fy)) ** 2))
    field = (
        ridges / ridges.std()
        + 0.7 * uneven
        + 0.25 * filtered(np.exp(-((3 * fx) ** 2) - (3 * fy) ** 2))
    )
    return (field - field.mean()) / field.std()


def plasma(draw: Draw, side: int, decay: float) -> np.ndarray:
    """(N, S, S) from 0 to 1; `side` is a power of two."""
    noise = (
        draw(lambda rng: rng.uniform(-1, 1, side * side - 1))
        if side > 1
        else draw(lambda rng: np.zeros(0))
    )
    field = np.zeros((len(noise), side, side))
    step, size, used = side, 100.0, 0

    def wobble(cells: int) -> np.ndarray:
        nonlocal used
        used += cells**2
        return size**2 * noise[:, used - cells**2 : used].reshape(-1, cells, cells)

    while step >= 2:
        half, cells = step // 2, side // step
        corner = field[:, ::step, ::step]
        square = corner + np.roll(corner, -1, 1)
        middle = (square + np.roll(square, -1, 2)) / 4 + wobble(cells)
        field[:, half::step, half::step] = middle
        above = middle + np.roll(middle, 1, 1) + corner + np.roll(corner, -1, 2)
        beside = middle + np.roll(middle, 1, 2) + corner + np.roll(corner, -1, 1)
        field[:, ::step, half::step] = above / 4 + wobble(cells)
        field[:, half::step, ::step] = beside / 4 + wobble(cells)
        step, size = half, size / decay
    field -= field.min((1, 2), keepdims=True)
    return field / field.max((1, 2), keepdims=True)
