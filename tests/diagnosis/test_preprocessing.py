"""Mistakes of preprocessing, each planted and named."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import planted
import pytest
import torch
from diagnosis import scenes
from torch import nn

from timm_repair import corrupt
from timm_repair.diagnosis.diagnosis import Diagnosis
from timm_repair.diagnosis.draws import Draws
from timm_repair.diagnosis.findings import Part, Pattern, Undone
from timm_repair.diagnosis.fitting import Fit
from timm_repair.diagnosis.looking import Done, Looks, degraded
from timm_repair.diagnosis.parts import KINDS
from timm_repair.diagnosis.statistics import Statistics
from timm_repair.diagnosis.telling import Told
from timm_repair.diagnosis.trying import ANY_SCALE, _ranked
from timm_repair.diagnosis.undoing import mistakes

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return planted.classifier(in_chans=3)


def bytes_of(x: np.ndarray) -> np.ndarray:
    return (255 * x.clip(0, 1)).round().astype(np.uint8)


def normalized(x: np.ndarray) -> np.ndarray:
    return bytes_of((x / 255 - MEAN) / STD)


PLANTED: dict[str, tuple[Callable[[np.ndarray], np.ndarray], str]] = {
    "bgr": (lambda x: x[..., ::-1], "channels swapped"),
    "inverted": (lambda x: 255 - x, "inverted"),
    "exif": (lambda x: np.rot90(x, 1, (1, 2)), "turned by 90° to the left"),
    "video levels": (lambda x: bytes_of((16 + x * (219 / 255)) / 255), "video levels"),
    "linear": (lambda x: bytes_of((x / 255) ** 2.2), "linear light"),
    "0 to 1": (lambda x: (x / 255).round().astype(np.uint8), "values from 0 to 1 stored"),
    "normalized": (normalized, "already normalized, with ImageNet's"),
    "planar": (
        lambda x: np.ascontiguousarray(x.transpose(0, 3, 1, 2)).reshape(x.shape),
        "channels-first values read as channels-last",
    ),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_mistake_is_named_and_undone(model, name):
    change, words = PLANTED[name]
    failing = scenes.failing_by(model, lambda x: np.ascontiguousarray(change(x)), 60, 300)
    found = scenes.diagnosed(model, failing, compared=24, parts=1)
    wrong = found.wrong_preprocessing
    assert wrong is not None and wrong.name.startswith(words) and wrong.share == 1
    lossless = name in ("bgr", "inverted", "exif", "planar")
    assert wrong.right == 1 if lossless else wrong.low <= wrong.right <= wrong.high
    said = " ".join(str(found).split())
    assert "mend the data, not the model" in said and wrong.name in said and wrong.fix in said


@pytest.mark.parametrize("name", ["bgr", "inverted"])
def test_a_mistake_in_half_of_the_failures_is_named_with_its_share(model, name):
    change, words = PLANTED[name]
    failing = scenes.failing_by(model, lambda x: np.ascontiguousarray(change(x)), 60, 300)
    failing += scenes.mislabelled(model, lambda x: x, 60)
    found = scenes.diagnosed(model, failing, compared=60, parts=1)
    wrong = found.wrong_preprocessing
    assert wrong is not None and wrong.name.startswith(words)
    assert wrong.share == pytest.approx(0.5, abs=0.15)
    said = " ".join(str(found).split())
    assert f"in about {wrong.share:.0%} of the failures" in said and "where these come from" in said
    assert Diagnosis.from_json(found.to_json()) == found


@pytest.mark.parametrize("name", ["odd levels", "fog"])
def test_a_scale_of_values_is_named_where_it_explains_them(model, name):
    def changed(x: np.ndarray) -> np.ndarray:
        return corrupt(x, "fog", 5) if name == "fog" else bytes_of(0.25 + 0.35 * x / 255)

    failing = scenes.failing_by(model, changed, 60, 300)
    wrong = scenes.diagnosed(model, failing, compared=40, parts=1).wrong_preprocessing
    assert wrong is None if name == "fog" else wrong.name == ANY_SCALE


@pytest.mark.parametrize("severity", [3, 5])
def test_what_degrades_images_is_no_mistake(model, severity):
    failing = scenes.mislabelled(model, lambda x: corrupt(x, "defocus_blur", severity))
    found = scenes.diagnosed(model, failing, compared=40)
    assert found.patterns and found.wrong_preprocessing is None
    assert KINDS[found.patterns[0].parts[0].kind].family == "blur"


def test_a_blur_that_explains_all_is_no_mistake_that_mends_by_sharpening():
    told = Told(0.9, 0.8, 1.0)
    blur = Part("Gaussian blur", (), 0.0, 0.9)
    pattern = Pattern((blur,), 1.0, 60, told, told, 0.1, 0.5, path=(0.4, 0.01))
    assert degraded([pattern]) == 0.01
    also = replace(pattern, parts=(blur, replace(blur, kind="contrast")))
    assert degraded([also]) is None and degraded([pattern] * 2) is None and degraded([]) is None
    x = torch.rand(40, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    statistics = Statistics((3, 8, 8))
    fit = Fit(statistics, x, statistics(x), Draws(0, range(40)))
    magnified = Done(mistakes(MEAN, STD)[0], torch.zeros(0), after=0.05, nearest=0.05)
    for left, better in [(0.01, True), (0.02, False), (None, False)]:
        assert Looks(fit, 0, left).better_explained(magnified) == better


def test_wrong_constants_of_the_model_are_named():
    model = planted.classifier(in_chans=3, config={"mean": (0.0,) * 3, "std": (1.0,) * 3})
    pixels = scenes.scenes(260, 300)
    labels = [label for _, label in scenes.labelled(model, pixels, wrong=False)]
    pairs = [
        (scenes.Image.fromarray(image), label) for image, label in zip(pixels, labels, strict=True)
    ]
    model.pretrained_cfg["mean"], model.pretrained_cfg["std"] = (0.5,) * 3, (0.5,) * 3
    wrong, right = planted.wrong_by(model, pairs, at_least=20)
    failing, retained = scenes.images(model, wrong[:60]), scenes.images(model, pairs)
    found = scenes.diagnose(
        model,
        failing,
        retained,
        None,
        scenes.Runtime(progress=False),
        scenes.Looking(**scenes.QUICK),
    )
    named = found.wrong_preprocessing
    assert named is not None and "none (values from 0 to 1)" in named.name
    assert named.right == 1 and named.retained == 1


@pytest.mark.parametrize("mean", [(0.5, 0.4, 0.3), (0.5,)], ids=["colour", "grey"])
def test_each_mistake_is_taken_back(mean):
    pixels = torch.from_numpy(scenes.scenes(4, 0)).permute(0, 3, 1, 2) / 255
    x = 0.3 + 0.4 * pixels[:, : len(mean)]  # within what a wrong scale of values keeps
    for mistake in mistakes(mean, (0.6,) * len(mean)):
        if mistake.colour and len(mean) == 1:
            continue
        back = mistake.undo(mistake.do(x))
        assert back.shape == x.shape
        content = "content" in mistake.name or "stretched" in mistake.name
        middle = (slice(None), slice(None), slice(12, 20), slice(12, 20))
        off = (back - x)[middle if content else ...].abs().mean()
        assert off < (0.06 if content else 0.02), mistake.name


def undone(name: str, right: float, found: bool = True) -> Undone:
    return Undone(name, "", right, right - 0.05, right + 0.05, 100, None, found)


def test_what_cannot_be_told_apart_begins_with_the_more_usual_and_worse_ones_are_none():
    usual = ["turned", "transposed", "mirrored"]
    given = [undone("transposed", 0.78), undone("turned", 0.75), undone("mirrored", 0.3)]
    ranked = _ranked([*given, undone("nothing", 0.1, found=False)], usual)
    assert [each.name for each in ranked if each.found] == ["turned", "transposed"]
    assert [each.name for each in ranked if not each.found] == ["mirrored", "nothing"]
