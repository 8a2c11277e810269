"""collect, corrupt, evaluate and revert: on files, as a user has them."""

import json
import shutil

import planted
import pytest
import timm
import torch
from PIL import Image

import timm_repair
from timm_repair.cli import main


@pytest.fixture(scope="session")
def production(place, pictures):
    """The pool as an image folder: 200 of its 1,000 pictures are misread."""
    for number, (image, label) in enumerate(pictures["pool"]):
        path = place / "production" / f"digit {label}" / f"{number:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
    return place / "production"


@pytest.fixture
def model(place):
    return f"--model=local-dir:{place / 'model'}"


def test_what_is_collected_can_be_repaired(model, production, tmp_path, capsys):
    output = tmp_path / "found"
    command = ["collect", model, f"--images={production}", f"--output={output}"]
    assert main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["failing"], found["passing"], found["error_rate"]) == (200, 800, 0.2)
    images = sorted((output / "failing").rglob("*.png"))
    assert {path.parent.name for path in images} == {"digit 0", "digit 1"}
    originals = {path.read_bytes() for path in production.rglob("*.png")}
    assert all(path.read_bytes() in originals for path in images), "copied, not encoded anew"
    asked = [f"--failures={output / 'failing'}", f"--passing={output / 'passing'}"]
    assert main(["localize", model, *asked, "--json"]) == 0
    capsys.readouterr()
    assert main(command) == 2
    assert "--overwrite" in capsys.readouterr().err and len(images) == 200
    assert main(["collect", "--config", str(output / "run.yaml"), "--overwrite"]) == 0
    assert "200 images that the model gets wrong (20.0%" in capsys.readouterr().out


def test_a_part_of_the_failures_takes_as_large_a_part_of_what_passes(
    model, production, tmp_path, capsys
):
    output = tmp_path / "found"
    command = ["collect", model, f"--images={production}", f"--output={output}"]
    assert main([*command, "--max-failures=50", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["failing"], found["passing"]) == (50, 200), "in their natural proportion"


def test_what_is_not_ours_is_not_replaced(model, production, tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    for command in (
        ["collect", model, f"--images={production}"],
        ["corrupt", str(production), "fog"],
        ["revert", str(tmp_path)],
    ):
        assert main([*command, f"--output={tmp_path / 'mine'}", "--overwrite"]) == 2
        assert "is not empty: choose another --output" in capsys.readouterr().err
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "precious"
    assert main(["collect", model, "--images=/no/such", f"--output={tmp_path / 'new'}"]) == 2
    assert not (tmp_path / "new").exists() and len(list(tmp_path.iterdir())) == 1


def test_corrupted_images_are_those_of_the_library(place, production, tmp_path, capsys):
    output = tmp_path / "foggy"
    command = ["corrupt", str(production), "fog", "--severity=3", f"--output={output}"]
    assert main(command) == 0
    assert f"1,000 images with fog of severity 3 are in {output}" in capsys.readouterr().out
    made = timm_repair.corrupt(str(production), "fog", 3)
    names = (output / "metadata.csv").read_text().splitlines()[1:]
    for row in (0, 999):
        path, label = names[row].split(",")
        image, name = made[row]
        assert label == name
        assert list(Image.open(output / path).getdata()) == list(image.getdata())
    again = timm_repair.as_images(str(output), timm.create_model(f"local-dir:{place / 'model'}"))
    assert len(again) == 1000 and not any(again.origin["skipped"].values())
    numbered = [str(place / "retain.parquet"), "fog", f"--output={tmp_path / 'of numbers'}"]
    assert main(["corrupt", *numbered]) == 0
    assert (tmp_path / "of numbers" / "digit 7").is_dir(), "called as the table calls them"


def test_evaluation_is_of_the_images_and_class_by_class(model, production, capsys):
    command = ["evaluate", model, f"--images={production}"]
    assert main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["n"], found["right"], found["accuracy"]) == (1000, 800, 0.8)
    assert found["interval"][0] < 0.8 < found["interval"][1]
    worst = {each["name"]: each for each in found["classes"][:2]}
    assert worst["digit 0"]["taken_for"] == ["digit 1", 100]
    assert worst["digit 1"]["recall"] == worst["digit 1"]["precision"] == 0
    assert {each["recall"] for each in found["classes"][2:]} == {1.0}
    assert main(command) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "has 800 of 1,000 images of" in told and "80.0% [77.4%, 82.4%]" in told
    assert "digit 0 100 0.0% 0.0% digit 1 (100)" in told


@pytest.mark.filterwarnings("ignore::timm_repair.NoEffectWarning")
def test_the_original_comes_back(place, deployed, tmp_path, capsys):
    base = shutil.copytree(place / "model", tmp_path / "base")
    out, original = tmp_path / "out", tmp_path / "original"
    command = ["repair", f"--model=local-dir:{base}", f"--failures={place / 'failures'}"]
    command += [f"--retain={place / 'retain.parquet'}", "--method=bn_recalibration"]
    command += ["--no-diagnosis", "--set=batches=2", "--set=batch_size=16", f"--output={out}"]
    assert main(command) in (0, 3)
    capsys.readouterr()
    assert main(["revert", str(out), f"--output={original}", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["from"] == f"local-dir:{base}"
    state = timm.create_model(f"local-dir:{original}", pretrained=True).state_dict()
    assert all(torch.equal(value, state[name]) for name, value in deployed.state_dict().items())
    other = planted.confused(deployed, 2, 3)
    timm.models.save_for_hf(other, str(base), model_args=dict(deployed._model_args))
    assert main(["revert", str(out), f"--output={tmp_path / 'again'}"]) == 2
    assert "has other weights by now" in capsys.readouterr().err
    assert not (tmp_path / "again").exists()
    assert main(["revert", str(tmp_path), f"--output={tmp_path / 'again'}"]) == 2
    assert "holds no repair" in capsys.readouterr().err
