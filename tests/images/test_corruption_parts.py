"""What each corruption does by itself: noise, blurs, digital ones, frost and spatter."""

import colorsys
import io
import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest
from images.photographs import SETS, apply, change, photographs, severities
from PIL import Image

from timm_repair import corrupt
from timm_repair.images.corruptions import filters, textures
from timm_repair.images.corruptions import kernels as kernels
from timm_repair.images.corruptions.parameters import PARAMETERS


@pytest.fixture(scope="module")
def photos() -> dict[str, np.ndarray]:
    return {kind: photographs(side, count) for kind, (side, count) in SETS.items()}


@pytest.mark.parametrize("kind", SETS)
@pytest.mark.parametrize("severity", range(1, 6))
def test_noise_has_the_size_it_is_named_after(kind, severity):
    flat = np.full((40, 32, 32, 3), 100, np.uint8)
    std, photons, share, speckle = (
        PARAMETERS[kind][name][severity - 1]
        for name in ("gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise")
    )

    def found(name: str) -> np.ndarray:
        return corrupt(flat, name, severity, parameters=kind).astype(float)

    rng = np.random.default_rng(0)
    for name, size in (("gaussian_noise", std), ("speckle_noise", speckle * 100 / 255)):
        expected = (255 * (100 / 255 + rng.normal(0, size, 10**6)).clip(0, 1)).astype(int)
        assert found(name).mean() == pytest.approx(expected.mean(), abs=0.5)
        assert found(name).std() == pytest.approx(expected.std(), rel=0.01)
    expected = (255 * (rng.poisson(photons * 100 / 255, 10**6) / photons).clip(0, 1)).astype(int)
    assert set(np.unique(found("shot_noise"))) <= {
        int(255 * (count / photons)) for count in range(photons + 1)
    }
    assert found("shot_noise").mean() == pytest.approx(expected.mean(), abs=0.5)
    assert found("shot_noise").std() == pytest.approx(expected.std(), rel=0.01)
    impulses = corrupt(flat, "impulse_noise", severity, parameters=kind)
    assert (impulses != 100).mean() == pytest.approx(share, rel=0.06)
    assert (impulses == 255).sum() == pytest.approx((impulses == 0).sum(), rel=0.1)
    # channels by themselves
    assert (
        set(np.unique(impulses)) == {0, 100, 255} and (impulses != 100).any(3).mean() > 1.5 * share
    )


@pytest.mark.parametrize("kind", SETS)
def test_digital_corruptions_are_exact(photos, kind):
    images = photos[kind]
    x, side = images / 255, images.shape[1]
    for severity in range(1, 6):
        factor, quality, small, _ = (
            PARAMETERS[kind][name][severity - 1]
            for name in ("contrast", "jpeg_compression", "pixelate", "brightness")
        )
        mean = np.mean(x, axis=(1, 2), keepdims=True)
        expected = (255 * ((x - mean) * factor + mean).clip(0, 1)).astype(int)
        # rounding of the mean
        assert np.abs(corrupt(images, "contrast", severity, parameters=kind) - expected).max() <= 1
        for i, image in enumerate(images):
            file = io.BytesIO()
            Image.fromarray(image).save(file, "JPEG", quality=quality)
            assert np.array_equal(
                corrupt(images, "jpeg_compression", severity, parameters=kind)[i],
                np.asarray(Image.open(file)),
            )
            boxes = Image.fromarray(image).resize((int(side * small),) * 2, Image.Resampling.BOX)
            boxes = np.asarray(boxes.resize((side, side), Image.Resampling.BOX))
            assert np.array_equal(corrupt(images, "pixelate", severity, parameters=kind)[i], boxes)


@pytest.mark.parametrize("kind", SETS)
@pytest.mark.parametrize("severity", [1, 3, 5])
def test_brightness_and_saturation_are_those_of_hsv(photos, kind, severity):
    images = photos[kind][:1, :24, :24].copy()
    images[0, 0, :2] = [[0, 0, 0], [90, 90, 90]]  # no saturation, no hue
    shift, (factor, offset) = (
        PARAMETERS[kind][name][severity - 1] for name in ("brightness", "saturate")
    )
    for name in ("brightness", "saturate"):
        expected = []
        for pixel in images.reshape(-1, 3):
            h, s, v = colorsys.rgb_to_hsv(*pixel / 255)
            changed = (
                (h, s, min(v + shift, 1))
                if name == "brightness"
                else (h, min(s * factor + offset, 1), v)
            )
            expected.append(colorsys.hsv_to_rgb(*changed))
        expected = (255 * np.array(expected).reshape(images.shape)).astype(int)
        assert np.abs(corrupt(images, name, severity, parameters=kind) - expected).max() <= 1


def impulse(side: int = 61) -> np.ndarray:
    x = np.zeros((1, 1, side, side))
    x[0, 0, side // 2, side // 2] = 1
    return x


@pytest.mark.parametrize("kind", SETS)
def test_blur_kernels_sum_to_one(kind):
    for name in ("defocus_blur", "gaussian_blur", "zoom_blur"):
        for parameters in severities(kind, name):
            x = apply(
                name,
                np.full((1, 1, 61, 61), 0.5) if name == "zoom_blur" else impulse(),
                None,
                *parameters,
            )
            total = x.mean() / 0.5 if name == "zoom_blur" else x.sum()
            # these disks touch the rim of the array that the reference smooths them in, and gain a
            # little
            assert total == pytest.approx(
                1, abs=0.02 if parameters in ((8, 0.5), (10, 0.5)) else 1e-6
            )
    for radius, sigma in severities(kind, "motion_blur"):
        for angle in (-45.0, -10.0, 0.0, 30.0):
            weights, _ = filters.line(radius, sigma, angle)
            flat = apply(
                "motion_blur",
                np.full((1, 1, 20, 20), 0.4),
                SimpleNamespace(uniform=lambda *_, a=angle: a),
                radius,
                sigma,
            )
            assert weights.sum() == pytest.approx(1) and np.allclose(flat, 0.4)


@pytest.mark.parametrize(
    ("radius", "alias", "half"), [(0.5, 0.6, 8), (1.5, 0.1, 8), (3, 0.1, 8), (10, 0.5, 10)]
)
def test_defocus_is_a_mean_over_a_disk(radius, alias, half):
    """By hand: a disk on a grid, smoothed with 3 or 5 taps."""
    disk = {
        (i, j): float(i * i + j * j <= radius**2)
        for i in range(-half, half + 1)
        for j in range(-half, half + 1)
    }
    taps = range(-1, 2) if half == 8 else range(-2, 3)
    line = {i: math.exp(-(i**2) / (2 * alias**2)) for i in taps}
    mirrored = {
        i: i if abs(i) <= half else math.copysign(2 * half - abs(i), i)
        for i in range(-half - 2, half + 3)
    }
    kernel = {
        (i, j): (
            sum(
                line[a] * line[b] * disk[mirrored[i + a], mirrored[j + b]]
                for a in taps
                for b in taps
            )
            / sum(line.values()) ** 2
            / sum(disk.values())
        )
        for i, j in disk
    }
    found = apply("defocus_blur", impulse(), None, radius, alias)[0, 0]
    expected = np.zeros_like(found)
    for (i, j), weight in kernel.items():
        expected[30 + i, 30 + j] = weight
    assert np.allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize(
    ("radius", "sigma", "angle"), [(6, 1, -45), (9, 2.5, 20), (4, 3, -100), (15, 8, 7)]
)
def test_motion_follows_a_line_that_grows_fainter(radius, sigma, angle):
    """By hand, pixel by pixel, as ImageMagick documents it; what lies outside is as the nearest
    pixel inside.
    """
    x = np.random.default_rng(0).random((1, 1, 14, 17))
    found = apply("motion_blur", x, SimpleNamespace(uniform=lambda *_: angle), radius, sigma)
    weights = [math.exp(-(i**2) / (2 * sigma**2)) for i in range(2 * radius + 1)]
    steps = [
        [math.ceil(i * f(math.radians(angle)) - 0.5) for f in (math.sin, math.cos)]
        for i in range(2 * radius + 1)
    ]
    for row, column in itertools.product(range(14), range(17)):
        places = [(min(max(row + dy, 0), 13), min(max(column + dx, 0), 16)) for dy, dx in steps]
        mean = sum(w * x[0, 0, i, j] for w, (i, j) in zip(weights, places, strict=True)) / sum(
            weights
        )
        assert abs(255 * found[0, 0, row, column] - 255 * mean) <= 0.5 + 1e-6


@pytest.mark.parametrize(
    ("reach", "height", "width"), [(1, 32, 32), (2, 20, 31), (3, 8, 9), (4, 8, 30)]
)
def test_glass_copies_pixels_one_after_the_other(reach, height, width):
    steps = np.random.default_rng(reach).integers(
        -reach, reach, (2, 2, max(height - 2 * reach, 0), max(width - 2 * reach, 0))
    )
    found = filters.copied_from(steps, reach, height, width)
    for example, (right, down) in enumerate(steps):
        pixels = np.arange(height * width).reshape(height, width)
        for i, row in enumerate(range(height - reach, reach, -1)):
            for j, column in enumerate(range(width - reach, reach, -1)):
                pixels[row, column] = pixels[row + down[i, j], column + right[i, j]]
        assert np.array_equal(found[example], pixels.ravel())


@pytest.mark.parametrize(("n", "factor"), [(32, 1.07), (31, 1.25), (64, 1.0), (40, 2.25), (9, 4.5)])
def test_zoom_interpolates_the_middle(n, factor):
    line = np.random.default_rng(0).random(n)
    kept = math.ceil(n / factor)
    size = round(kept * factor)
    start, trim = (n - kept) // 2, (size - n) // 2
    expected = np.interp(
        np.linspace(0, kept - 1, size), np.arange(kept), line[start : start + kept]
    )[trim : trim + n]
    assert np.allclose(filters.zoom_matrix(n, factor) @ line, expected)


def test_plasma_is_the_diamond_square_algorithm():
    side, decay = 8, 1.7
    noise = np.random.default_rng(0).uniform(-1, 1, side**2 - 1)
    numbers, field, step, size = iter(noise), {(0, 0): 0.0}, side, 100.0
    while step > 1:
        half = step // 2
        for first, second in ((half, half), (0, half), (half, 0)):
            for i, j in itertools.product(range(first, side, step), range(second, side, step)):
                corners = [(half, half), (half, -half), (-half, half), (-half, -half)]
                around = (
                    corners if first == second else [(half, 0), (-half, 0), (0, half), (0, -half)]
                )
                mean = sum(field[(i + a) % side, (j + b) % side] for a, b in around) / 4
                field[i, j] = mean + size**2 * next(numbers)
        step, size = half, size / decay
    expected = np.array([[field[i, j] for j in range(side)] for i in range(side)])
    expected = (expected - expected.min()) / (expected.max() - expected.min())
    assert np.allclose(textures.plasma(lambda one: noise[None], side, decay)[0], expected)


def test_elastic_moves_three_points_and_then_everything():
    # x in one channel, y in the other
    ramps = np.stack(np.meshgrid(np.arange(60) / 60, np.arange(60) / 60))[None]
    jitter = np.array([[3.0, -2.0], [1.5, 4.0], [-2.0, 1.0]])
    zero, both = np.zeros((2, 60, 60)), np.stack([np.full((60, 60), 0.5), np.full((60, 60), -0.25)])
    for moves, alpha in ((zero, 0), (both, 8)):
        draws = iter([jitter, moves])
        found = (
            60
            * apply(
                "elastic_transform",
                ramps,
                SimpleNamespace(uniform=lambda *_, d=draws: next(d)),
                alpha,
                2,
                5,
            )[0]
        )
        for (x, y), (dx, dy) in zip([(50, 50), (50, 10), (10, 10)], jitter, strict=True):
            # where the point was moved to, less the displacement, there is now what was at the
            # point
            at = np.array([y + dy, x + dx]) - alpha * np.array([moves[1, 0, 0], moves[0, 0, 0]])
            (i, j), (v, h) = at.astype(int), at % 1
            corners = found[:, i : i + 2, j : j + 2]
            value = (corners * np.outer([1 - v, v], [1 - h, h])).sum((1, 2))
            assert np.allclose(value, [x, y], atol=1e-6)


def test_distance_is_that_of_a_chess_knight():
    places = np.random.default_rng(0).random((2, 30, 40)) < 0.004
    assert places.any((1, 2)).all()
    found = filters.distance_to(places, most=20)
    for example, row, column in itertools.product(range(2), range(0, 30, 3), range(0, 40, 3)):
        away = np.sort(np.abs(np.argwhere(places[example]) - [row, column]), 1)
        short, long = away[:, 0], away[:, 1]
        lengths = np.where(
            long >= 2 * short,
            2.1969 * short + long - 2 * short,
            2.1969 * (long - short) + 1.4 * (2 * short - long),
        )
        assert found[example, row, column] == pytest.approx(min(lengths.min(), 20))


def test_edges_and_histograms():
    levels = np.zeros((1, 12, 12))
    levels[0, :, 6:] = 200
    edges = filters.canny(levels, 50, 150)[0]
    # one pixel wide, where the step is
    assert edges.sum(1).tolist() == [1] * 12 and edges[:, 5:7].any(1).all()
    assert np.array_equal(filters.canny(levels.swapaxes(1, 2), 50, 150)[0], edges.T)
    # 4 * 20 lies between the thresholds: an edge only where a strong one leads to it
    faint = np.where(levels > 0, 20, 0)
    assert not filters.canny(faint, 50, 150).any()
    faint[0, :3] = levels[0, :3]
    assert filters.canny(faint, 50, 150)[0, 9, 5:7].any()
    flat = np.full((1, 4, 4), 20.0)
    assert np.array_equal(filters.equalized(flat), flat)
    assert filters.equalized(np.array([[[7, 9], [9, 30]]]))[0].tolist() == [[0, 170], [170, 255]]


@pytest.mark.parametrize(("kind", "scale"), [("cifar", 0.2), ("tiny", 0.3), ("imagenet", 1)])
def test_frost_has_the_colours_of_the_photographs(kind, scale):
    for which, (colour, std) in enumerate(textures.FROSTS):
        texture = 255 * textures.frost_texture(which, scale)
        brightness = filters.grey(texture[None])
        assert np.abs(
            texture.mean((1, 2)) - colour
        ).max() < 1 and brightness.std() == pytest.approx(std, rel=0.06)
        assert (textures.needles(which) ** 3).mean() > 0.15  # bright needles on darker ice


def test_spatter_overflows_as_that_of_the_reference():
    drops = np.full((24, 24), 0.8)
    drops[8:16, 8:16] = 1.01  # 257 of 255
    x = apply(
        "spatter",
        np.zeros((1, 3, 24, 24)),
        SimpleNamespace(normal=lambda *_: drops),
        0.6,
        0.1,
        0,
        0.7,
        0.5,
        False,
    )[0, 1]
    assert x.max() == pytest.approx(0.5 * 238 / 255) and x[8:16, 8:16].max() < 0.02 * x.max()


# mean |corrupted - 100| of flat grey images under the five photographs (those of
# imagecorruptions-imaug 1.1.5), every crop alike
FROST = {
    "cifar": (32.4, 48.8, 55.2, 50.2, 48.6),
    "tiny": (48.7, 55.2, 53.3, 56.8, 59.9),
    "imagenet": (65.2, 78.0, 84.4, 79.5, 82.9),
}


@pytest.mark.parametrize("kind", SETS)
def test_frost_changes_as_much_as_the_photographs_do(kind):
    flat = np.full((150, 32, 32, 3), 100, np.uint8)
    for severity, expected in enumerate(FROST[kind], start=1):
        assert change(flat, corrupt(flat, "frost", severity, parameters=kind)) == pytest.approx(
            expected, rel=0.08
        )
    found, grey = (corrupt(images, "frost", 3, parameters=kind) for images in (flat, flat[..., :1]))
    assert np.abs(grey[..., 0] - found @ [0.299, 0.587, 0.114]).max() <= 1
