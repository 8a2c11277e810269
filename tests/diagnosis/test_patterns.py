"""Corruptions planted in pictures whose answers are known by construction: named, with their
strength, or said not to be found.
"""

import base64
import zlib

import numpy as np
import planted
import pytest
import torch
from diagnosis import scenes
from torch import nn

from timm_repair import as_images, corrupt
from timm_repair.diagnosis.applying import transformed
from timm_repair.diagnosis.diagnosis import Diagnosis
from timm_repair.diagnosis.draws import Draws
from timm_repair.diagnosis.fitting import Fit, Setting, applied
from timm_repair.diagnosis.parts import KINDS
from timm_repair.diagnosis.parts.overlay import laid, read_off
from timm_repair.diagnosis.statistics import Statistics
from timm_repair.errors import ConfigError
from timm_repair.images.corruptions.parameters import PARAMETERS


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return planted.classifier(in_chans=3)


def tensor(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255


# name, severity, what the first part may be called, the largest relative error of its strength
PLANTED = [
    ("contrast", 5, "contrast", 0.15),
    ("gaussian_noise", 5, "Gaussian noise", 0.15),
    ("brightness", 5, "brightness", 0.2),
    ("jpeg_compression", 4, "JPEG", 0.25),
]


@pytest.mark.parametrize("name, severity, kind, error", PLANTED, ids=[row[0] for row in PLANTED])
def test_a_corruption_is_named_with_its_strength(model, name, severity, kind, error):
    failing = scenes.mislabelled(model, lambda x: corrupt(x, name, severity))
    found = scenes.diagnosed(model, failing)
    (pattern,) = found.patterns
    true = PARAMETERS["cifar"][name][severity - 1]
    assert pattern.parts[0].kind == kind
    strength = pattern.parts[0].strengths[0]
    assert strength.value == pytest.approx(true, rel=error)
    assert strength.low <= strength.value <= strength.high
    assert pattern.well and pattern.made.right < 0.7 < 0.9 < pattern.plain.right
    assert kind in str(found) and "explains them well" in str(found)


def salted(x: np.ndarray) -> np.ndarray:
    drawn = np.random.default_rng(5).random((*x.shape[:3], 1))
    return np.where(drawn < 0.03, 0, np.where(drawn > 0.97, 255, x)).astype(np.uint8)


def left_out(x: np.ndarray) -> np.ndarray:
    kept = ((np.arange(scenes.SIDE) * 20 // scenes.SIDE + 0.5) * scenes.SIDE / 20).astype(int)
    return x[:, kept][:, :, kept]


# what is done, the kind, its strength
DONE = {
    "salt": (salted, "salt and pepper", 0.06),
    "pixelated": (lambda x: corrupt(x, "pixelate", 5), "pixelation", 20 / 32),
    "nearest": (left_out, "nearest-neighbour resizing", 20 / 32),
    "grey": (lambda x: (x @ [0.299, 0.587, 0.114] + 0.5).astype(np.uint8)[..., None].repeat(3, 3),
             "no colour", None),
    "solarized": (lambda x: np.where(x > 140, 255 - x, x), "solarization", 140 / 255),
}  # fmt: skip


@pytest.mark.parametrize("name", DONE)
def test_what_programs_and_sensors_do_is_named_with_its_strength(model, name):
    change, kind, true = DONE[name]
    found = scenes.diagnosed(model, scenes.mislabelled(model, change))
    (pattern,) = found.patterns
    (part,) = pattern.parts
    assert part.kind == kind and pattern.well
    assert [s.value for s in part.strengths] == (
        [] if true is None else [pytest.approx(true, rel=0.1)]
    )
    assert kind in str(found)


def stamped(x: np.ndarray) -> np.ndarray:
    x = x.copy()
    x[:, 22:30, 20:31] = np.random.default_rng(0).integers(0, 256, (8, 11, 3))
    return x


def framed(x: np.ndarray) -> np.ndarray:
    return np.pad(x[:, 3:-3, 3:-3], ((0, 0), (3, 3), (3, 3), (0, 0)))


@pytest.mark.parametrize("change, covered", [(stamped, 88 / 1024), (framed, 1 - 26**2 / 1024)])
def test_what_is_the_same_in_all_failures_is_read_off_and_laid_over_others(model, change, covered):
    found = scenes.diagnosed(model, scenes.mislabelled(model, change))
    (pattern,) = found.patterns
    (part,) = pattern.parts
    assert part.kind == "fixed overlay" and pattern.well and part.spread == 0
    assert part.strengths[0].value == pytest.approx(covered, abs=0.005)
    assert f"fixed overlay on {covered:.0%} of the image;" in " ".join(str(found).split())
    assert Diagnosis.from_json(found.to_json()) == found
    x = scenes.scenes(5, 77)
    pairs = scenes.labelled(model, x, wrong=False)
    made = found.apply(scenes.images(model, pairs), seed=1).pixels(range(5))
    off = made.float() / 255 - tensor(change(x))
    assert off.abs().mean() < 0.01


def test_an_overlay_on_images_of_another_size_and_a_damaged_one():
    text = read_off(tensor(framed(scenes.scenes(40, 3))), tensor(scenes.scenes(40, 4)))
    for channels in (1, 3):
        large = laid(torch.full((2, channels, 64, 48), 0.5), text)
        assert not large[:, :, :5].any() and (large[:, :, 8:-8, 6:-6] == 0.5).all()
    bomb = base64.b64encode(b"1,1,9;" + zlib.compress(bytes(10**6))).decode()
    endless = base64.b64encode(b"4,99999,99999;" + zlib.compress(b"")).decode()
    for damaged in (text[:40], text[5:], "no picture", bomb, endless):
        with pytest.raises(ConfigError, match="overlay of the diagnosis is damaged"):
            laid(torch.zeros(1, 3, 32, 32), damaged)


@pytest.mark.parametrize("name", ["vignette", "contrast", "zoom blur", "veil", "stretching"])
def test_what_moves_or_is_everywhere_is_no_overlay(name):
    x = tensor(scenes.scenes(80, 3))
    for start in KINDS[name].starts:
        made = applied([Setting(name, tuple(map(float, start)))], x, Draws(1, range(80)))
        assert read_off(made, tensor(scenes.scenes(40, 4))) == ""


# name, severity, the kind of the part, whether it explains them well: ice has many shapes
SEEN_THROUGH = [
    ("fog", 3, "veil", True),
    ("fog", 5, "veil", True),
    ("frost", 4, "frost", False),
    ("snow", 4, "falling flakes", False),
    ("motion_blur", 4, "motion blur", True),
]


@pytest.mark.parametrize("name, severity, kind, well", SEEN_THROUGH)
def test_weather_and_a_moving_camera_are_named_and_explained(model, name, severity, kind, well):
    failing = scenes.mislabelled(model, lambda x: corrupt(x, name, severity))
    found = scenes.diagnosed(model, failing, compared=60)
    (pattern,) = found.patterns
    assert pattern.parts[0].kind == kind and (pattern.well or not well)
    assert found.wrong_preprocessing is None


def test_failures_as_the_retained_are_have_nothing_in_common(model):
    found = scenes.diagnosed(model, scenes.mislabelled(model, lambda x: x))
    assert found.same_population and found.nothing
    assert "already are of this population" in str(found)


def test_what_no_part_expresses_is_said_to_be_badly_explained(model):
    # every other column from another place: neither noise nor blur, nor any geometry
    def combed(x: np.ndarray) -> np.ndarray:
        x = x.copy()
        x[:, :, ::2] = 255 - np.roll(x, 11, 1)[:, :, ::2]
        return x

    found = scenes.diagnosed(model, scenes.mislabelled(model, combed))
    assert not any(pattern.well for pattern in found.patterns)
    said = str(found)
    assert "BADLY EXPLAINED" in said or "None of the corruptions" in said
    assert found.wrong_preprocessing is None


def test_two_populations_are_found_as_two(model):
    failing = scenes.mislabelled(model, lambda x: corrupt(x, "contrast", 5), 90)
    failing += scenes.mislabelled(model, lambda x: corrupt(x, "gaussian_noise", 5), 90, seed=7)
    found = scenes.diagnosed(model, failing, populations=2)
    assert sorted(p.parts[0].kind for p in found.patterns) == ["Gaussian noise", "contrast"]
    assert all(pattern.share == pytest.approx(0.5, abs=0.05) for pattern in found.patterns)
    assert "Population 2: " in str(found)


def test_the_same_seed_gives_the_same_and_nothing_is_changed(model):
    failing = scenes.mislabelled(model, lambda x: corrupt(x, "brightness", 5), 60)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    pixels = [np.array(image) for image, _ in failing]
    once, again = (scenes.diagnosed(model, failing, compared=20) for _ in range(2))
    assert once == again
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(np.array_equal(image, was) for (image, _), was in zip(failing, pixels, strict=True))
    assert Diagnosis.from_json(once.to_json()) == once


def test_few_failures_get_one_part_and_a_word(model):
    failing = scenes.mislabelled(model, lambda x: corrupt(x, "contrast", 5), 30)
    found = scenes.diagnosed(model, failing)
    assert [len(pattern.parts) for pattern in found.patterns] == [1]
    assert any("are few" in note for note in found.notes)
    fewest = scenes.diagnosed(model, failing[:8])
    assert not fewest.patterns and any("too few" in note for note in fewest.notes)


@pytest.mark.parametrize("name", KINDS)
def test_every_part_keeps_the_range_and_follows_from_the_place_alone(name):
    kind = KINDS[name]
    x = tensor(scenes.scenes(6, 0))
    for start in kind.starts:
        setting = Setting(name, tuple(map(float, start)), 0.1)
        made = applied([setting], x, Draws(3, range(6)))
        assert made.shape == x.shape and 0 <= made.min() and made.max() <= 1
        alone = applied([setting], x[4:5], Draws(3, [4]))
        torch.testing.assert_close(made[4:5], alone, atol=1e-5, rtol=0)
        assert not torch.equal(made, x)


@pytest.mark.parametrize("name", ["Gaussian noise", "shot noise", "contrast", "saturation", "veil"])
def test_a_fit_finds_its_own_strength(name):
    x, kind = tensor(scenes.scenes(60, 1)), KINDS[name]
    statistics = Statistics((3, scenes.SIDE, scenes.SIDE))
    true = Setting(name, tuple(map(float, kind.starts[0])))
    seen = applied([true], tensor(scenes.scenes(100, 2)), Draws(9, range(100)))
    fit = Fit(statistics, x, statistics(seen), Draws(0, range(60)))
    start = tuple(k.outer(k.inner(v) + 0.4) for k, v in zip(kind.knobs, true.values, strict=True))
    ((found,), cost) = fit.refined((Setting(name, start),), 8)
    assert found.values == pytest.approx(true.values, rel=0.2)
    assert cost < 2 * fit.noise < fit.cost(())
    assert fit.cost((found,)) == pytest.approx(cost)


def test_grey_images_at_another_size():
    statistics = Statistics((1, 48, 40))
    x = torch.rand(30, 1, 48, 40, generator=torch.Generator().manual_seed(0))
    fit = Fit(statistics, x, statistics((x * 0.5).flip(0)), Draws(0, range(30)))
    ((found,), cost) = fit.refined((Setting("exposure", (0.7,)),), 8)
    assert found.values[0] == pytest.approx(0.5, rel=0.05) and cost < 0.1


def test_an_image_seen_through_something_was_prepared_as_it_is(model):
    """By the user's own transform, where there is one."""
    pairs = planted.pictures(8, mode="RGB")
    images = as_images(pairs, model, transform=lambda image: image.rotate(180))
    seen, rows = transformed(images, [((), 1.0)], seed=0), torch.arange(len(pairs))
    assert torch.equal(seen.pixels(rows), images.pixels(rows))
    assert not torch.equal(seen.pixels(rows), as_images(pairs, model).pixels(rows))
