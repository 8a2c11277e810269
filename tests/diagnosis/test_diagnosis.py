"""What a user does with a diagnosis: ask, print, keep, apply, draw; and what is refused."""

import json
from dataclasses import replace

import numpy as np
import planted
import pytest
import torch
from diagnosis import scenes

from timm_repair import Diagnosis, corrupt, diagnose
from timm_repair.cli import main
from timm_repair.diagnosis.findings import Part, Pattern, Strength
from timm_repair.diagnosis.telling import Told
from timm_repair.errors import ConfigError, DataError, NoFailuresError, OptionError
from timm_repair.images.images import Images

SOME = Part("contrast", (Strength("", 0.5, 0.4, 0.6, "× 0.50"),), 0.0, 0.9)
OTHER = Part("Gaussian noise", (Strength("", 0.1, 0.09, 0.11, "σ 0.100"),), 0.2, 0.8)


def pattern(part: Part, share: float = 1.0) -> Pattern:
    told = Told(0.9, 0.85, 0.95), Told(0.55, 0.48, 0.62)
    return Pattern((part,), share, 60, *told, 0.1, 0.5, (2.0, 0.1))


def diagnosis(*parts: Part) -> Diagnosis:
    return Diagnosis(
        n=60,
        retained=200,
        passing=0,
        seed=0,
        input_size=(3, 32, 32),
        told=Told(0.9, 0.85, 0.95),
        patterns=tuple(pattern(part, 1 / len(parts)) for part in parts),
    )


@pytest.fixture(scope="module")
def images() -> Images:
    model = planted.classifier(in_chans=3)
    return scenes.images(model, scenes.labelled(model, scenes.scenes(40, 1), wrong=False))


def test_applied_it_gives_failures_with_their_labels(images):
    made = diagnosis(SOME).apply(images, seed=1)
    assert isinstance(made, Images) and torch.equal(made.labels, images.labels)
    x, y = (each.pixels(range(40)).float() / 255 for each in (images, made))
    mean = x.mean((2, 3), keepdim=True)
    assert (y - (mean + 0.5 * (x - mean))).abs().max() < 0.5 / 255 + 1e-5
    # other examples than those they were made of, which a split must not take for the same
    assert not set(made.keys) & set(images.keys)


def test_what_is_applied_follows_from_seed_and_example(images):
    both = diagnosis(SOME, OTHER)
    made = both.apply(images, seed=1)
    whole = made.pixels(range(40))
    assert torch.equal(both.apply(images, seed=1).subset([7, 3]).pixels([0, 1]), whole[[7, 3]])
    assert not torch.equal(both.apply(images, seed=2).pixels(range(40)), whole)
    noisy = (whole.float().diff(n=2, dim=3).abs().mean((1, 2, 3)) > 25).float().mean()
    assert 0.25 < noisy < 0.75  # each takes one of the two


def test_nothing_found_is_nothing_to_apply_or_draw(images):
    for act in (lambda d: d.apply(images), lambda d: d.figure(images, images)):
        with pytest.raises(DataError, match="no corruption was found"):
            act(diagnosis())
    with pytest.raises(DataError, match="of images of .3, 64, 64."):
        replace(diagnosis(SOME), input_size=(3, 64, 64)).apply(images)


def test_json_and_back():
    found = diagnosis(SOME, OTHER)
    assert Diagnosis.from_json(found.to_json()) == found
    values = json.loads(found.to_json())
    for text, words in (
        ("no json", "no diagnosis"),
        ("[1]", "no diagnosis"),
        (json.dumps(values | {"version": 9}), "version 9"),
        (json.dumps({k: v for k, v in values.items() if k != "told"}), "damaged"),
    ):
        with pytest.raises(ConfigError, match=words):
            Diagnosis.from_json(text)


def test_the_words_say_how_sure_it_is():
    said = " ".join(str(diagnosis(SOME, OTHER)).split())
    assert "Population 1: 50% of the failures" in said and "contrast × 0.50 [0.4, 0.6]" in said
    assert "varying by ± 20%" in said and "55% [48%, 62%] (50% is chance)" in said
    badly = replace(pattern(SOME), made=Told(0.85, 0.8, 0.9))
    assert "BADLY EXPLAINED" in str(replace(diagnosis(), patterns=(badly,)))


def test_a_picture_shows_retained_images_what_is_made_and_failures(images):
    pytest.importorskip("matplotlib", reason="for want of matplotlib")
    drawn = diagnosis(SOME, OTHER).figure(images, images, count=5)
    drawn.draw_without_rendering()
    assert len(drawn.axes) == 2 * 3 * 5 and all(len(ax.images) == 1 for ax in drawn.axes)
    assert [part._suptitle.get_text() for part in drawn.subfigs] == [
        "contrast × 0.50",
        "Gaussian noise σ 0.100",
    ]


def test_from_python_with_passing_examples():
    model = planted.classifier(in_chans=3)
    failing = scenes.mislabelled(model, lambda x: corrupt(x, "contrast", 5), 60)
    passing = scenes.labelled(model, corrupt(scenes.scenes(40, 9), "contrast", 5), wrong=False)
    retained = scenes.labelled(model, scenes.scenes(200, 2), wrong=False)
    found = diagnose(
        model, failing, retained, passing + failing[:5], progress=False, **scenes.QUICK
    )
    assert (found.n, found.passing) == (60, 40)
    assert found.patterns[0].parts[0].kind == "contrast" and found.patterns[0].n == 100


def test_what_cannot_be_asked(classifier, pictures, failures):
    with pytest.raises(NoFailuresError):
        diagnose(classifier, [], pictures["train"], progress=False)
    with pytest.raises(NoFailuresError, match="nothing to repair"):
        diagnose(classifier, pictures["train"][2:9], pictures["train"], progress=False)
    with pytest.raises(DataError, match="give retain="):
        diagnose(classifier, failures, None)
    with pytest.raises(OptionError, match="did you mean 'parts'"):
        diagnose(classifier, failures, pictures["train"], part=2)
    with pytest.raises(OptionError, match="compared=3; must be at least 20"):
        diagnose(classifier, failures, pictures["train"], compared=3)


def test_from_the_command_line(deployed, pictures, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("logging.basicConfig", lambda **_: None)
    from timm.models import save_for_hf

    save_for_hf(deployed, tmp_path / "model", safe_serialization=True)
    wrong, right = planted.wrong_by(deployed, pictures["pool"])
    for folder, pairs in (("failures", wrong[:60]), ("retain", pictures["train"][:150])):
        for i, (image, label) in enumerate(pairs):
            path = tmp_path / folder / str(label) / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            image.save(path)
    output = tmp_path / "diagnosis.json"
    status = main(
        [
            "diagnose",
            f"--model=local-dir:{tmp_path / 'model'}",
            f"--failures={tmp_path / 'failures'}",
            f"--retain={tmp_path / 'retain'}",
            f"--output={output}",
            "--set=compared=24",
            "--set=parts=1",
        ]
    )
    assert status == 0
    found = Diagnosis.from_json(output.read_text())
    assert str(found) in capsys.readouterr().out
    assert {(c.true, c.predicted) for c in found.confusions if c.predicted is not None} == {
        (0, 1),
        (1, 0),
    }
    assert np.isfinite(found.told.right)
