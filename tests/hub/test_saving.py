"""Saved and loaded: timm gives back the same model, every feature of timm goes on working, and
strangers' folders are not trusted.
"""

import json
import shutil
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import planted
import pytest
import safetensors.torch
import timm
import torch
from cases import BUDGET
from hub.edited_models import edited, image
from report.report_examples import report as example_report
from torch import nn

from timm_repair import collect_failures, repair
from timm_repair.errors import ConfigError, ModelError, OutputError
from timm_repair.hub import saving
from timm_repair.hub.loading import from_pretrained
from timm_repair.report.report import Report


def load(folder: Path, **options) -> nn.Module:
    return timm.create_model(f"local-dir:{folder}", pretrained=True, **options).eval()


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> dict[str, tuple[Path, nn.Module]]:
    torch.manual_seed(0)
    found = {}
    for name in ("test_resnet", "vgg11_bn"):
        folder, model = tmp_path_factory.mktemp("saved") / name, edited(name)
        found[name] = saving.save(model, example_report(), folder), model
    return found


@pytest.mark.parametrize(
    ("name", "times"),
    [
        ("test_resnet", 1),
        ("test_resnet", 2),
        ("vgg11_bn", 2),
        ("densenet121", 2),
        ("efficientnet_b0", 1),
    ],
)
@torch.no_grad()
def test_timm_loads_what_was_saved(name, times, tmp_path, offline):
    model = edited(name, times)
    saving.save(model, example_report(), tmp_path)
    loaded = load(tmp_path)
    assert type(loaded) is type(model) and len(loaded._model_args["edits"]) == times
    assert torch.equal(loaded(image()), model(image()))
    for gain in (p for n, p in loaded.named_parameters() if ".gains." in n):
        gain.zero_()
    assert not torch.equal(loaded(image()), model(image())), (
        "the added paths count, so the equality above says something"
    )
    assert (
        not list(tmp_path.rglob("*.bin"))
        + list(tmp_path.rglob("*.pt*"))
        + list(tmp_path.rglob("*.pkl"))
    )


@pytest.mark.parametrize("name", ["test_resnet", "vgg11_bn"])
def test_timm_goes_on_working(name, saved):
    folder, model = saved[name]
    assert load(folder, num_classes=3)(image()).shape == (2, 3)
    grey = load(folder, in_chans=1)
    assert grey(image(1)).shape == (2, 5)
    features = load(folder, features_only=True)
    with torch.no_grad():
        maps, expected = (
            features(image()),
            model.forward_intermediates(image(), intermediates_only=True),
        )
    assert [m.shape[1] for m in maps] == features.feature_info.channels()
    shapes = [tuple(m.shape) for m in expected]
    for m in maps:
        assert tuple(m.shape) in shapes and any(
            torch.equal(m, e) for e in expected if e.shape == m.shape
        )
    again = load(folder)
    if name != "vgg11_bn":  # timm's VGG refuses gradient checkpointing
        again.set_grad_checkpointing(True)
    again.train()
    again(image()).sum().backward()
    missing = [
        n for n, p in again.named_parameters() if p.grad is None or not p.grad.isfinite().all()
    ]
    assert not missing
    assert from_pretrained(str(folder), num_classes=2).num_classes == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop(next(k for k in state if ".gains." in k)), "Missing key"),
        (lambda state: state.update(extra=torch.zeros(3)), "Unexpected key"),
        (
            lambda state: state.update({next(k for k in state if ".gains." in k): torch.zeros(1)}),
            "size mismatch",
        ),
    ],
)
def test_loading_is_strict(change, message, saved, tmp_path):
    shutil.copytree(saved["test_resnet"][0], tmp_path / "copy")
    weights = tmp_path / "copy" / "model.safetensors"
    state = safetensors.torch.load_file(weights)
    change(state)
    safetensors.torch.save_file(state, weights, metadata={"format": "pt"})
    with pytest.raises(RuntimeError, match=message):
        load(tmp_path / "copy")


NODE = {"layer": "0", "channels": 32, "scale": 1}
EDIT = {
    "paths": ["layer2"],
    "genotype": {
        "level": "unit",
        "partial": 4,
        "version": 1,
        "nodes": [NODE],
        "edges": [{"source": 0, "target": 0, "operation": "skip"}],
    },
}
HOSTILE = {
    "base from the Hub": {"base": "hf-hub:evil/x"},
    "base from a directory": {"base": "local-dir:/etc"},
    "base from a relative path": {"base": "../../etc"},
    "base None": {"base": None},
    "base a list": {"base": ["resnet18"]},
    "base itself": {"base": "timm_repaired"},
    "base unknown": {"base": "resnet18_evil"},
    "base empty": {"base": ""},
    "edits a dict": {"edits": EDIT},
    "edits a string": {"edits": "EDIT"},
    "edits None": {"edits": None},
    "thousands of edits": {"edits": [EDIT] * 5000},
    "an edit None": {"edits": [None]},
    "an edit with an extra key": {"edits": [EDIT | {"code": "import os"}]},
    "an edit without paths": {"edits": [{"genotype": EDIT["genotype"]}]},
    "paths a string": {"edits": [EDIT | {"paths": "layer2"}]},
    "paths empty": {"edits": [EDIT | {"paths": []}]},
    "paths of numbers": {"edits": [EDIT | {"paths": [2]}]},
    "the path of the model itself": {"edits": [EDIT | {"paths": [""]}]},
    "a path that does not exist": {"edits": [EDIT | {"paths": ["layer9"]}]},
    "a path into an object": {"edits": [EDIT | {"paths": ["layer2.__class__"]}]},
    "paths of two parents": {"edits": [EDIT | {"paths": ["layer2.0", "layer3.0"]}]},
    "a path twice": {"edits": [EDIT | {"paths": ["layer2", "layer2"]}]},
    "a genotype None": {"edits": [EDIT | {"genotype": None}]},
    "a layer that is not there": {
        "edits": [EDIT | {"genotype": EDIT["genotype"] | {"nodes": [NODE | {"layer": "7"}]}}]
    },
}


@pytest.mark.parametrize("arguments", HOSTILE.values(), ids=HOSTILE)
def test_a_strangers_config_is_refused(arguments, saved, tmp_path, offline):
    folder = tmp_path / "copy"
    folder.mkdir()
    config = json.loads((saved["test_resnet"][0] / "config.json").read_text())
    config["model_args"] |= arguments
    (folder / "config.json").write_text(json.dumps(config))
    shutil.copy(saved["test_resnet"][0] / "model.safetensors", folder)
    with pytest.raises(ConfigError):
        load(folder)


# ---- a whole repair


@pytest.mark.filterwarnings("ignore::timm_repair.NoEffectWarning")  # six steps may change nothing
def test_a_repair_and_a_second_one_on_top(classifier, pictures, tmp_path, offline):
    given = {
        "retain": pictures["train"][:200],
        "holdout": pictures["unseen"][:60],
        "progress": False,
        "diagnose": False,
    }
    model, x = classifier, torch.randn(4, 1, 32, 32)
    for turn, block in enumerate(("layer3", "layer3", "layer1"), start=1):
        wrong = planted.mislabelled(model, pictures["pool"][:200])
        failures = collect_failures(model, wrong)
        assert failures.labels.tolist() == [label for _, label in wrong]
        repaired = repair(
            model,
            failures,
            **given,
            genotype="random",
            block=block,
            output_dir=tmp_path / str(turn),
            **BUDGET,
        )
        assert repaired.edits
        loaded = load(tmp_path / str(turn))
        assert torch.equal(loaded(x), repaired.model(x))
        assert (
            len(
                json.loads((tmp_path / str(turn) / "config.json").read_text())["model_args"][
                    "edits"
                ]
            )
            == turn
        )
        assert (
            Report.from_dict(json.loads((tmp_path / str(turn) / "repair.json").read_text()))
            == repaired.report
        )
        assert (tmp_path / str(turn) / "README.md").read_text().startswith("---")
        model = loaded


@pytest.mark.filterwarnings("ignore::timm_repair.NoEffectWarning")  # six steps may change nothing
def test_weights_alone_load_without_this_package(classifier, failures, pictures, tmp_path, offline):
    options = {"retain": pictures["train"][:200], "progress": False, "method": "finetune"} | BUDGET
    options["diagnose"] = False
    repaired = repair(classifier, failures.subset(range(160)), **options)
    folder, x = repaired.save_pretrained(tmp_path / "out"), torch.randn(4, 1, 32, 32)
    assert json.loads((folder / "config.json").read_text())["architecture"] == "test_resnet"
    torch.save({"x": x, "y": repaired.model(x).detach()}, tmp_path / "expected.pt")
    script = (
        "import sys, timm, torch\n"
        "folder, expected = sys.argv[1], torch.load(sys.argv[2])\n"
        "model = timm.create_model('local-dir:' + folder, pretrained=True).eval()\n"
        "assert 'timm_repair' not in sys.modules\n"
        "assert torch.equal(model(expected['x']), expected['y'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, folder, tmp_path / "expected.pt"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr


# ---- where to


def test_bad_output_directories_are_refused_before_any_work(classifier, tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("mine")
    for directory, message in (
        (tmp_path / "file", "choose another"),
        (tmp_path / "file" / "below", "choose another"),
        (tmp_path / "full", "holds thesis.tex"),
        ("/proc/nowhere", "cannot write"),
    ):
        with pytest.raises(OutputError, match=message):
            # failures would raise too, if they were looked at
            repair(classifier, failures=object(), output_dir=directory)
    (tmp_path / "model").mkdir()
    # a model folder that no repair has written
    (tmp_path / "model" / "model.safetensors").write_text("mine")
    with pytest.raises(OutputError, match="not a saved repair"):
        repair(classifier, failures=object(), output_dir=tmp_path / "model")
    changed = deepcopy(classifier)
    changed.fc = torch.nn.Linear(changed.fc.in_features, 3)
    with pytest.raises(ConfigError, match="replaced head"):
        repair(changed, failures=object(), output_dir=tmp_path / "new")
    assert (
        (tmp_path / "file").read_text() == (tmp_path / "full" / "thesis.tex").read_text() == "mine"
    )


def test_an_earlier_save_is_replaced_as_a_whole(saved, tmp_path):
    _, model = saved["test_resnet"]
    folder = saving.save(model, example_report(), tmp_path / "out")
    (folder / "figures" / "old.png").write_bytes(b"")
    saving.save(model, example_report(seed=7), folder)
    assert json.loads((folder / "repair.json").read_text())["seed"] == 7
    assert not (folder / "figures" / "old.png").exists() and [
        p.name for p in tmp_path.iterdir()
    ] == ["out"]


def test_a_failed_save_keeps_the_earlier_one(saved, tmp_path):
    _, model = saved["test_resnet"]
    folder = saving.save(model, example_report(), tmp_path / "out")
    before = {p.name: p.stat().st_mtime_ns for p in folder.iterdir()}
    other = deepcopy(model)
    other.layer1 = nn.Sequential(nn.Identity())  # a change that the edits do not tell
    with pytest.raises((ConfigError, RuntimeError)):
        saving.save(other, example_report(), folder)
    assert {p.name: p.stat().st_mtime_ns for p in folder.iterdir()} == before and [
        p.name for p in tmp_path.iterdir()
    ] == ["out"]


@pytest.mark.parametrize("moved", range(4))  # the report, the weights, the card, the config
def test_a_save_killed_between_two_moves_never_loads_as_a_mixture(
    moved, saved, tmp_path, monkeypatch
):
    """Files of two saves side by side would be a model that nobody measured; saving again mends the
    folder.
    """
    _, model = saved["test_resnet"]
    monkeypatch.setattr(saving, "find_spec", lambda name: None)
    folder, replace, done = saving.save(model, example_report(), tmp_path / "out"), Path.replace, []

    def killed(self, target):
        if len(done) == moved:
            raise KeyboardInterrupt
        done.append(target)
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        saving.save(model, example_report(seed=7), folder)
    with pytest.raises(ModelError, match="no config.json"):
        from_pretrained(folder)
    monkeypatch.setattr(Path, "replace", replace)
    saving.save(model, example_report(seed=7), folder)
    assert (
        from_pretrained(folder) is not None
        and json.loads((folder / "repair.json").read_text())["seed"] == 7
    )


def test_plain_modules_cannot_be_saved_and_are_told_the_way(tmp_path):
    with pytest.raises(ConfigError, match="apply_edits"):
        saving.save(nn.Sequential(nn.Linear(1, 1)), example_report(), tmp_path / "out")
    assert not (tmp_path / "out").exists()
