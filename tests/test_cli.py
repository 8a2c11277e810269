"""The console command: each command on real files, and errors as one message with exit status 2."""

import json
from pathlib import Path

import datasets
import planted
import pytest
import timm

from timm_repair.cli import main
from timm_repair.localization.localization import Localization

NO_EFFECT = "ignore::timm_repair.NoEffectWarning"  # four steps may change nothing
SMALL = [
    f"--set={pair}"
    for pair in ("steps=4", "batch_size=16", "evaluations=1", "hflip=0.0", "shift=0.0")
]


@pytest.fixture(scope="module")
def place(deployed, pictures, tmp_path_factory) -> Path:
    """A directory with a saved model, failures as an image folder and retained examples as a
    parquet file.
    """
    folder = tmp_path_factory.mktemp("cli")
    arguments = dict(deployed._model_args)
    timm.models.save_for_hf(deployed, str(folder / "model"), model_args=arguments)
    config = json.loads((folder / "model" / "config.json").read_text())
    config["label_names"] = config["pretrained_cfg"]["label_names"] = [
        f"digit {i}" for i in range(10)
    ]
    (folder / "model" / "config.json").write_text(json.dumps(config))
    wrong, _ = planted.wrong_by(deployed, pictures["pool"])
    assert [label for _, label in wrong] == [0, 1] * 100
    for number, (image, label) in enumerate(wrong):
        directory = folder / "failures" / f"digit {label}"
        directory.mkdir(parents=True, exist_ok=True)
        image.save(directory / f"{number}.png")
    for name, part in (("retain", pictures["train"][:120]), ("holdout", pictures["unseen"][:40])):
        table = {"image": [image for image, _ in part], "label": [label for _, label in part]}
        features = datasets.Features(
            {
                "image": datasets.Image(),
                "label": datasets.ClassLabel(names=[f"digit {i}" for i in range(10)]),
            }
        )
        datasets.Dataset.from_dict(table, features=features).to_parquet(folder / f"{name}.parquet")
    return folder


@pytest.fixture
def given(place) -> list[str]:
    return [
        f"--model=local-dir:{place / 'model'}",
        f"--failures={place / 'failures'}",
        f"--retain={place / 'retain.parquet'}",
    ]


@pytest.fixture(autouse=True)
def quiet(monkeypatch, recwarn):
    # a program's right, but not in a test
    monkeypatch.setattr("logging.basicConfig", lambda **_: None)


def test_blocks(place, capsys):
    assert main(["blocks", f"local-dir:{place / 'model'}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if line.endswith("repairable")] == [
        "layer1",
        "layer2",
        "layer3",
        "layer4",
    ]
    assert any("a single layer" in line for line in lines)
    assert main(["blocks", "test_resnet", "--granularity", "layer"]) == 0


def test_localize(given, capsys):
    assert main(["localize", *given, "--set=score=spectrum_gradient", "--set=top=10"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["scorer"] == "spectrum_gradient" and sum(found["suspiciousness"].values()) == 10


def test_localize_says_when_blocks_are_within_noise(given, monkeypatch, capsys):
    found = Localization(
        "rgn",
        {"layer1": 0.5, "layer2": 0.45, "layer3": 0.1},
        errors={"layer1": 0.0, "layer2": 0.04, "layer3": 0.05},
    )
    monkeypatch.setattr("timm_repair.pipeline.inspecting.localize", lambda *_, **__: found)
    assert main(["localize", *given]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["tied"] == ["layer1", "layer2"]
    assert (
        printed.err.startswith("layer1 and layer2 cannot be told apart on these examples")
        and "`blocks=2` repairs both" in printed.err
    )


@pytest.mark.filterwarnings(NO_EFFECT)
def test_several_blocks(given, tmp_path, capsys):
    output = tmp_path / "out"
    arguments = ["repair", *given, f"--output={output}", *SMALL, "--set=score=rgn"]
    assert main([*arguments, "--set=blocks=2"]) == 0
    chosen = json.loads((output / "repair.json").read_text())["repaired_blocks"]
    assert len(chosen) == 2 and f"Repaired blocks: {', '.join(chosen)}" in capsys.readouterr().out
    arguments[arguments.index(f"--output={output}")] = f"--output={tmp_path / 'another'}"
    assert main([*arguments, "--set=blocks=5"]) == 2
    assert "blocks=5, but the model has 4" in capsys.readouterr().err
    assert main([*arguments, "--set=block=['layer1', 'layer9']"]) == 2
    assert "no block 'layer9'" in capsys.readouterr().err


@pytest.mark.filterwarnings(NO_EFFECT)
def test_repair_and_report(given, place, tmp_path, capsys):
    output = tmp_path / "out"
    arguments = [*given, f"--holdout={place / 'holdout.parquet'}", f"--output={output}", *SMALL]
    assert (
        main(
            [
                "repair",
                *arguments,
                "--set=block=layer3",
                "--set=genotype=random",
                "--data=holdout_share=0.3",
                "--seed=4",
            ]
        )
        == 0
    )
    printed = capsys.readouterr().out
    assert "Repaired block: layer3" in printed and f"local-dir:{output}" in printed
    report = json.loads((output / "repair.json").read_text())
    assert report["seed"] == 4 and report["options"]["training"]["steps"] == 4
    assert timm.create_model(f"local-dir:{output}", pretrained=True).num_classes == 10
    assert main(["report", str(output)]) == 0
    assert capsys.readouterr().out.strip() in printed, "the same text, from the file"


@pytest.mark.filterwarnings(NO_EFFECT)
def test_several_populations_are_held_out_by_name(given, place, tmp_path, capsys):
    output = tmp_path / "out"
    arguments = [
        *given,
        f"--holdout=clean={place / 'holdout.parquet'}",
        f"--output={output}",
        *SMALL,
        "--method=finetune",
    ]
    assert main(["repair", *arguments]) == 0
    assert [
        s["population"] for s in json.loads((output / "repair.json").read_text())["scores"]
    ] == ["failing", "clean"]
    capsys.readouterr()
    assert main(["repair", *arguments, "--holdout=unnamed/"]) == 2
    assert "need different names" in capsys.readouterr().err


@pytest.mark.filterwarnings(NO_EFFECT)
def test_compare(given, tmp_path, capsys):
    output = tmp_path / "comparison.json"
    assert (
        main(["compare", *given, "--methods", "finetune", "bn_recalibration", "--set=batches=2"])
        == 2
    )
    assert "method 'finetune' has no option 'batches'" in capsys.readouterr().err
    assert main(["compare", *given, "--methods", "finetune", f"--output={output}", *SMALL]) == 0
    assert "finetune network" in capsys.readouterr().out
    assert list(json.loads(output.read_text())["rows"]) == ["finetune network"]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["--set=stepps=3"], "did you mean 'steps'"),
        (["--set=steps"], "not NAME=VALUE"),
        (["--set=steps=0"], "at least 1"),
        (["--failures=/no/such/place"], "does not exist"),
        (["--data=max_right=7"], "between 0 and 1"),
        (["--data=slection_share=.1"], "did you mean 'selection_share'"),
        (["--set=steps=abc"], "must be int"),
        (["--set=seed=3"], "--seed"),
        (["--model=resnet99"], "timm has no model 'resnet99'"),
        (["--model=local-dir:/no/such/place"], "no config.json"),
    ],
)
def test_errors_are_one_message(command, message, given, tmp_path, capsys):
    assert main(["repair", *given, f"--output={tmp_path / 'out'}", *command]) == 2
    printed = capsys.readouterr()
    assert (
        message in printed.err
        and printed.err.startswith("timm-repair: ")
        and "Traceback" not in printed.err
    )
    assert printed.out == ""
    assert len([line for line in printed.err.splitlines() if not line.startswith("  ")]) == 1, (
        "notes are indented"
    )


def test_a_report_that_is_not_there(tmp_path, capsys):
    assert main(["report", str(tmp_path)]) == 2
    assert "give the directory of a saved repair" in capsys.readouterr().err
    (tmp_path / "repair.json").write_text('{"method": ')
    assert main(["report", str(tmp_path)]) == 2
    assert "is damaged" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [[], ["repairs"], ["repair"], ["compare", "--methods", "magic"]]
)
def test_wrong_commands_show_the_usage(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2 and "usage: timm-repair" in capsys.readouterr().err
