"""Inputs and options that would be read as something else than what was meant: refused in words
before any work, or read as meant.
"""

import gzip
import json

import numpy as np
import planted
import pytest
import safetensors.torch
import torch
from cases import GENTLE
from torch import nn

from timm_repair import Property, as_images, blocks, compare, from_pretrained, repair
from timm_repair.cli import main
from timm_repair.errors import (
    AssumptionWarning,
    ConfigError,
    DataError,
    ModelError,
    OptionError,
    OutputError,
    PropertyError,
)
from timm_repair.hub import saving
from timm_repair.images.preprocessing import Preprocessing
from timm_repair.models.copying import copied
from timm_repair.models.weights import check_finite
from timm_repair.properties import vnnlib
from timm_repair.properties.sampling import Sampling
from timm_repair.report.report import Report
from timm_repair.training.options import Training

SHORT = GENTLE | {"steps": 2, "batch_size": 8, "progress": False, "diagnose": False}


@pytest.fixture
def few(failures):
    return failures.subset(range(24))


@pytest.mark.parametrize(
    "box",
    [
        (["0", "0"], [1, 1], [1], 3),
        ("00", "11", [1], 3),
        ([0, 0], [1, 1], 1, 3),
        ([0, 0], [1, 1], [True], 3),
        ([0, 0], [1, 1], [0.5], 3),
        ([0, 0], [1, 1], [1], "3"),
        ([0, 0], [1, 1, 1], [1], 3),
    ],
)
def test_a_box_that_is_none(box):
    lower, upper, allowed, outputs = box
    with pytest.raises(PropertyError):
        Property.allowing("box", lower, upper, allowed, outputs=outputs)


@pytest.mark.parametrize("allowed", [[1], (1,), {1}, [1.0], np.array([1]), torch.tensor([1])])
def test_outputs_that_are_allowed_however_they_are_held(allowed):
    prop = Property.allowing("box", [0], [1], allowed, outputs=2)
    assert prop.regions[0].clauses[0].coefficients.tolist() == [[-1, 1]]


def test_a_property_without_a_name_or_regions():
    with pytest.raises(PropertyError, match="name="):
        Property.allowing("", [0], [1], [1], outputs=2)
    with pytest.raises(PropertyError, match="regions="):
        Property("box", 5)  # type: ignore[arg-type]


def test_a_property_packed_or_with_a_byte_order_mark(tmp_path):
    text = "(declare-const X_0 Real)\n(declare-const Y_0 Real)\n(declare-const Y_1 Real)\n" + (
        "(assert (>= X_0 0))\n(assert (<= X_0 1))\n(assert (<= Y_1 Y_0))\n"
    )
    packed, marked = tmp_path / "p.vnnlib.gz", tmp_path / "p.vnnlib"
    packed.write_bytes(gzip.compress(text.encode()))
    marked.write_text(text, encoding="utf-8-sig")
    assert vnnlib.read(packed).outputs == vnnlib.read(marked).outputs == 2
    (tmp_path / "torn.vnnlib.gz").write_bytes(gzip.compress(text.encode())[:-9])
    with pytest.raises(PropertyError, match="cannot be read|cannot read"):
        vnnlib.read(tmp_path / "torn.vnnlib.gz")


@pytest.mark.parametrize(
    ("holdout", "message"),
    [({1: "pool"}, "must be a text"), ({"": "pool"}, "text"), ({"a": None}, "'a' is None")],
)
def test_a_population_without_a_name_or_images(holdout, message, deployed, few, pictures):
    given = {name: None if pool is None else pictures[pool] for name, pool in holdout.items()}
    with pytest.raises(DataError, match=message):
        repair(deployed, few, retain=pictures["train"], holdout=given, **SHORT)


def test_images_of_a_model_that_calls_its_classes_otherwise(classifier, pictures):
    classifier.pretrained_cfg |= {"label_names": [f"shape {k}" for k in range(planted.CLASSES)]}
    images = as_images(pictures["pool"][:20], classifier)
    others = [f"shape {planted.CLASSES - 1 - k}" for k in range(planted.CLASSES)]
    classifier.pretrained_cfg |= {"label_names": others}
    with pytest.raises(DataError, match="another model"):
        repair(classifier, images, **SHORT)


class Own(nn.Module):
    """What is copied is the model itself."""

    def __init__(self, inside: nn.Module):
        super().__init__()
        self.inside = inside

    def forward(self, x):
        return self.inside(x)

    def __deepcopy__(self, memo):
        return self


def test_a_copy_that_is_none_is_not_worked_on(classifier):
    with pytest.raises(ModelError, match="__deepcopy__"):
        copied(Own(classifier))
    plain = type(classifier).forward
    classifier.forward = lambda x: plain(classifier, x)
    with pytest.raises(ModelError, match="forward of the model was replaced"):
        copied(classifier)


def test_a_bound_forward_goes_with_the_copy(classifier):
    plain = type(classifier).forward
    classifier.forward = plain.__get__(classifier)
    assert copied(classifier).forward.__self__ is not classifier


def test_a_model_on_the_meta_device(classifier):
    with pytest.raises(ModelError, match="meta device"):
        check_finite(classifier.to("meta"))


@pytest.mark.parametrize(
    "config",
    [
        {"input_size": (32, 32, 1)},
        {"mean": (127.0,)},
        {"crop_mode": "middle"},
        {"interpolation": "bicubics"},
        {"crop_pct": "0.9"},
        {"crop_pct": -1.0},
    ],
)
def test_a_preprocessing_that_timm_does_not_have(config, classifier):
    classifier.pretrained_cfg |= config
    with pytest.raises(ModelError, match=f"pretrained_cfg.*{next(iter(config))}"):
        Preprocessing.of(classifier)


class Detached(nn.Module):
    """Answers without a gradient."""

    def __init__(self, inside: nn.Module):
        super().__init__()
        self.inside, self.pretrained_cfg = inside, inside.pretrained_cfg

    def forward(self, x):
        with torch.no_grad():
            return 1 * self.inside(x)


def test_answers_that_carry_no_gradient(deployed, few):
    with pytest.raises(ModelError, match="no gradient"):
        repair(Detached(deployed), few, method="finetune", **SHORT)


class Prepared(nn.Module):
    """Does something to images, and has no parameters."""

    def forward(self, x):
        return 1.0 * x


def test_a_model_behind_its_own_normalization_has_the_blocks_of_the_model(classifier):
    wrapped = nn.Sequential(Prepared(), classifier)
    wrapped.pretrained_cfg = dict(classifier.pretrained_cfg)
    for granularity in ("stage", "unit"):
        inside = blocks(classifier, granularity=granularity)
        found = blocks(wrapped, granularity=granularity)
        assert [b.name for b in found] == [f"1.{b.name}" for b in inside]
        assert [b.repairable for b in found] == [b.repairable for b in inside]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"score": "rng"}, "did you mean 'rgn'"),
        ({"level": "network", "score": "rgn"}, "level='block'"),
        ({"level": "network", "names": ["layer1"]}, "level='block'"),
        ({"batch_size": 10**9}, "at most 65,536"),
        ({"augmentation": None}, "varies"),
    ],
)
def test_options_that_would_be_ignored_or_never_end(options, message, deployed, few):
    with pytest.raises(OptionError, match=message):
        repair(deployed, few, method="finetune", **SHORT | options)


def test_a_score_alone_asks_for_a_block(deployed, few):
    report = repair(deployed, few, method="finetune", score="rgn", **SHORT).report
    assert report.options["level"] == "block" and len(report.repaired_blocks) == 1


def test_numbers_of_numpy_are_numbers():
    training = Training(steps=np.int64(2), learning_rate=np.float32(0.5), cache="never")
    assert training == Training(steps=2, learning_rate=0.5, cache="never")
    assert type(training.steps) is int


def test_how_inputs_are_drawn_is_not_how_images_are_read(deployed, few):
    with pytest.raises(OptionError, match="DataOptions"):
        repair(deployed, few, data=Sampling(), **SHORT)  # type: ignore[arg-type]


def test_nothing_is_written_where_images_are_read_from(deployed, tmp_path, few, pictures):
    for i, (image, label) in enumerate(pictures["pool"][:8]):
        place = tmp_path / "seen" / str(label) / f"{i}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        image.save(place)
    seen = tmp_path / "seen"
    with pytest.raises(OutputError, match="retain is read from"):
        repair(deployed, few, retain=str(seen), output_dir=seen / "out", **SHORT)
    assert main(["corrupt", str(seen), "fog", f"--output={seen / 'fog'}"]) == 2
    assert sorted(p.name for p in seen.iterdir()) == sorted(
        {str(k) for _, k in pictures["pool"][:8]}
    )


@pytest.mark.parametrize("directory", ["", " ", "a\0b"])
def test_a_directory_that_has_no_name(directory, deployed, few):
    with pytest.raises(OutputError):
        repair(deployed, few, output_dir=directory, **SHORT)


def test_the_same_place_twice_is_not_passed_over(capsys):
    with pytest.raises(SystemExit):
        main(["evaluate", "--model=test_resnet", "--images=a", "--images=b"])
    assert "--images is given twice" in capsys.readouterr().err


@pytest.fixture(scope="module")
def saved(request, tmp_path_factory):
    """A saved repair, by the fastest method."""
    classifier = planted.classifier()
    pairs = planted.pictures(120, 3)
    failures, _ = planted.wrong_by(classifier, pairs, 0.0, at_least=0, right_at_least=0)
    wrong = [(image, (label + 1) % planted.CLASSES) for image, label in pairs[:24]]
    folder = tmp_path_factory.mktemp("saved")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(saving, "find_spec", lambda name: None)
        patch.setattr("warnings.filters", [("ignore", None, Warning, None, 0)])
        repair(classifier, failures or wrong, method="noop", output_dir=folder, **SHORT)
    return folder


def test_weights_changed_by_hand_are_told(saved, tmp_path):
    state = safetensors.torch.load_file(saved / "model.safetensors")
    name = max(state, key=lambda name: float(state[name].float().norm()))
    changed = tmp_path / "changed"
    changed.mkdir()
    for file in saved.iterdir():
        if file.is_file():
            (changed / file.name).write_bytes(file.read_bytes())
    safetensors.torch.save_file(
        state | {name: state[name] * 0.5}, changed / "model.safetensors", {"format": "pt"}
    )
    with pytest.warns(AssumptionWarning, match="since the repair"):
        from_pretrained(changed)
    from_pretrained(saved)  # of what is as it was nothing is said


@pytest.mark.parametrize(
    "field", ["method", "model", "options", "localization", "genotypes", "cost", "stages", "notes"]
)
def test_a_report_with_a_field_of_another_kind(saved, field):
    told = json.loads((saved / "repair.json").read_text())
    with pytest.raises(ConfigError, match=field):
        Report.from_dict(told | {field: 5})
    assert Report.from_dict(told).method == "noop"


def test_the_command_that_collect_prints_can_be_typed(deployed, pictures, tmp_path, capsys):
    from timm.models import save_for_hf

    save_for_hf(deployed, tmp_path / "model", safe_serialization=True)
    for i, (image, label) in enumerate(pictures["pool"][:60]):
        place = tmp_path / "seen" / str(label) / f"{i}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        image.save(place)
    output = tmp_path / "a place"
    words = ["collect", f"--model=local-dir:{tmp_path / 'model'}", f"--images={tmp_path / 'seen'}"]
    assert main([*words, f"--output={output}", "--quiet"]) == 0
    assert f"--failures '{output / 'failing'}'" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "the name of the model is empty"),
        (" ", "the name of the model is empty"),
        ("model.pth", "file of weights, which does not exist.*checkpoint_path='model.pth'"),
        ("a/model.safetensors", "file of weights"),
    ],
)
def test_a_name_that_is_of_no_model(name, message, few):
    with pytest.raises(ModelError, match=message):
        repair(name, few, **SHORT)


@pytest.mark.parametrize("methods", [[], {}, ()])
def test_a_comparison_of_nothing(methods, deployed, few):
    with pytest.raises(OptionError, match="methods is empty: give at least one of archrepair"):
        compare(deployed, few, methods=methods)


def test_a_comparison_is_not_written_where_images_are_read_from(deployed, tmp_path, few):
    (tmp_path / "0").mkdir()
    with pytest.raises(OutputError, match="which failures is read from"):
        compare(deployed, str(tmp_path), methods=["noop"], output_dir=tmp_path / "0")


def test_a_holdout_without_the_name_that_its_mark_asks_for(capsys):
    words = ["repair", "--model=m", "--failures=f", "--output=o", "--holdout==x/"]
    assert main(words) == 2
    assert "=x/ has no name before the =" in capsys.readouterr().err
