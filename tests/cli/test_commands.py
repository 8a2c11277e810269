"""The console command: each command on real files, and errors as one message with exit status 2."""

import json
import warnings

import planted
import pytest
import timm

from timm_repair.cli import main
from timm_repair.localization.localization import Localization
from timm_repair.runtime.journal import FOLDER, Journal

NO_EFFECT = "ignore::timm_repair.NoEffectWarning"  # four steps may change nothing
SMALL = [
    f"--set={pair}"
    for pair in ("steps=4", "batch_size=16", "evaluations=1", "hflip=0.0", "shift=0.0")
]
SMALL.append("--no-diagnosis")


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
    command = ["localize", *given, "--set=score=spectrum_gradient", "--set=top=10"]
    assert main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["scorer"] == "spectrum_gradient" and sum(found["suspiciousness"].values()) == 10


def test_localize_says_when_blocks_are_within_noise(given, monkeypatch, capsys):
    found = Localization(
        "rgn",
        {"layer1": 0.5, "layer2": 0.45, "layer3": 0.1},
        errors={"layer1": 0.0, "layer2": 0.04, "layer3": 0.05},
    )
    monkeypatch.setattr("timm_repair.pipeline.inspecting.localize", lambda *_, **__: found)
    assert main(["localize", *given, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tied"] == ["layer1", "layer2"]
    assert main(["localize", *given]) == 0
    head, *blocks, told = capsys.readouterr().out.split("\n", 4)
    assert head == "How suspicious each block is (score: rgn)" and "<- tied" in blocks[0]
    assert "layer1 and layer2 cannot be told apart on these examples" in told
    assert "`blocks=2` repairs both" in " ".join(told.split()) and "epaired block" not in told


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
    assert main(["report", str(output), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == report
    assert main(["repair", "--config", str(output / "run.yaml")]) == 0
    assert capsys.readouterr().out == printed, "answered from what is there"
    assert main(["repair", f"--config={output / 'run.yaml'}", "--set=steps=5"]) == 2
    assert "training.steps 4 then, 5 now" in capsys.readouterr().err


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


@pytest.mark.filterwarnings(NO_EFFECT)
def test_compare_into_a_folder(given, tmp_path, capsys):
    folder, methods = tmp_path / "out", ["finetune", "finetune block=layer1 steps=2"]
    line = ["compare", *given, "--no-diagnosis", "--methods", *methods, "--seeds", "0", "1"]
    line += [f"--output={folder}", *SMALL]
    assert main(line) == 0
    shown = capsys.readouterr().out
    assert (
        "finetune network" in shown and "finetune layer1" in shown and "The budgets differ" in shown
    )
    assert (folder / "seed-1" / "finetune-layer1" / "model.safetensors").is_file()
    assert main(["report", str(folder)]) == 0
    assert capsys.readouterr().out.strip() in shown
    assert main(["tasks", str(folder), "--repeats=each"]) == 0
    assert "'finetune network' on 'failing'" in capsys.readouterr().out
    assert main([*line, "--set=learning_rate=0.1"]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert main(["tasks", str(tmp_path)]) == 2


def test_every_row_may_fail(given, capsys, monkeypatch):
    def fails(*_):
        raise KeyError("of no good reason")

    monkeypatch.setattr("timm_repair.methods.finetune.tune", fails)
    line = ["compare", *given, "--no-diagnosis", "--methods", "finetune", *SMALL]
    assert main(line) == 2
    assert "finetune network: KeyError: 'of no good reason'" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["--set=stepps=3"], "did you mean 'steps'"),
        (["--set=steps"], "not NAME=VALUE"),
        (["--set=steps=0"], "at least 1"),
        (["--failures=/no/such/place"], "does not exist"),
        (["--data=max_right=7"], "between 0 and 1"),
        (["--data=slection_share=.1"], "did you mean 'selection_share'"),
        (["--set=steps=abc"], "must be a whole number"),
        (["--set=seed=3"], "--seed"),
        (["--model=resnet99"], "timm has no model 'resnet99'"),
        (["--model=local-dir:/no/such/place"], "there is no folder"),
    ],
)
def test_errors_are_one_message(command, message, given, tmp_path, capsys):
    option = command[0].partition("=")[0]
    others = [word for word in given if word.partition("=")[0] != option or option == "--set"]
    assert main(["repair", *others, f"--output={tmp_path / 'out'}", *command]) == 2
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


@pytest.mark.filterwarnings(NO_EFFECT)
def test_the_page_is_written_again_with_images_and_without(given, tmp_path, capsys):
    output = tmp_path / "out"
    arguments = [*given, "--method=bn_recalibration", "--set=batches=2", "--set=batch_size=16"]
    status = main(["repair", *arguments, "--seed=4", "--output", str(output)])
    assert status in (0, 3) and f"look at {output / 'report.html'}" in capsys.readouterr().out
    page = output / "report.html"
    first = page.read_text()
    assert "data:image/jpeg" in first and list((output / "examples").glob("0-*.jpg"))
    assert "--set batches=2" in first and "--seed 4" in first and "digit 0/" in first
    page.unlink()
    assert main(["report", str(output), "--html"]) == 0
    assert capsys.readouterr().out.strip() == str(page)
    assert page.read_text() == first
    assert main(["report", str(output), "--html", "--no-images"]) == 0
    assert "data:image" not in page.read_text()
    assert status == main(
        ["repair", *arguments, "--seed=4", "--no-images", "--overwrite", "--output", str(output)]
    )
    assert "data:image" not in page.read_text() and not (output / "examples").exists()


def test_a_dry_run_says_what_would_be_done(given, tmp_path, capsys):
    output = tmp_path / "out"
    command = [*given, *SMALL, "--method=finetune", "--set=block=layer2"]
    assert main(["repair", *command, f"--output={output}", "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("finetune would repair layer2 of local-dir:") and "seconds" in printed
    assert not output.exists(), "nothing is saved"
    assert main(["estimate", *command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["blocks"] == ["layer2"] and found["steps"] == 4 and found["trained"] is False
    assert main(["estimate", *command, "--set=block=layer9"]) == 2
    assert "no block 'layer9'" in capsys.readouterr().err


def test_a_report_that_is_not_there(tmp_path, capsys):
    assert main(["report", str(tmp_path)]) == 2
    assert "give the directory of a saved repair" in capsys.readouterr().err
    (tmp_path / "repair.json").write_text('{"method": ')
    assert main(["report", str(tmp_path)]) == 2
    assert "is damaged" in capsys.readouterr().err


# ---- what a terminal is told


def test_a_repair_that_harms_is_said_first_and_by_the_exit_status(
    given, place, tmp_path, capsys, monkeypatch
):
    def harmful(job, _):
        fault = planted.confused(planted.confused(job.model, 2, 3), 4, 5)
        job.model.load_state_dict(fault.state_dict())
        return [], ()

    output = tmp_path / "out"
    monkeypatch.setattr("timm_repair.methods.finetune.tune", harmful)
    arguments = ["repair", *given, f"--output={output}", "--method=finetune", *SMALL]
    arguments.append(f"--holdout=clean={place / 'holdout.parquet'}")
    assert main(arguments) == 3
    first = capsys.readouterr().out.splitlines()[0]
    assert first.startswith("Harmful: worse than the original on 'clean'")
    assert main(arguments) == 3, "the same command again answers the same"
    printed = capsys.readouterr()
    assert printed.out.startswith("Harmful: ")
    assert main([*arguments, "--set=steps=5"]) == 2
    said = capsys.readouterr().err
    assert "--overwrite" in said and "another --output" in said and "overwrite=" not in said


@pytest.mark.parametrize(
    ("command", "said", "unsaid"),
    [
        (["--set=level=layr"], "did you mean 'layer'", "Traceback"),
        (["--holdout=a=x/", "--holdout=b"], "several --holdout need different names", "holdout="),
        (["--seed=-1"], "--seed -1", "seed="),
        (["--set=output_dir=x"], "--output", "output_dir"),
        (["--set=retain=x"], "--retain", "retain="),
        (["--data=on_unknown=stopp"], "--data on_unknown='stopp'", "timm_repair."),
        (["--data=slection_share=.1"], "--data has no option", "DataOptions"),
        (["--set=block=layer9"], "layer9", "Traceback"),
        (["--set=steps={[]: 1}"], "must be a whole number", "Traceback"),
        (["--model=/tmp"], "local-dir:/tmp", "Traceback"),
    ],
)
def test_errors_speak_the_language_of_the_command_line(
    command, said, unsaid, given, tmp_path, capsys
):
    assert main(["repair", *given, f"--output={tmp_path / 'out'}", "--quiet", *command]) == 2
    error = capsys.readouterr().err
    assert said in error and unsaid not in error and error.startswith("timm-repair: ")


def test_warnings_are_a_line_each(given, tmp_path, capsys, monkeypatch):
    def warns(*_, **__):
        warnings.warn("some of retain=\n were left out", stacklevel=2)
        raise KeyError("and then it failed")

    monkeypatch.setattr("timm_repair.pipeline.repairing.repair", warns)
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        assert main(["repair", *given, f"--output={tmp_path / 'out'}"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "timm-repair: warning: some of --retain were left out"
    assert lines[1].startswith("timm-repair: timm-repair repair: KeyError") and len(lines) == 2


@pytest.mark.filterwarnings(NO_EFFECT)
def test_interrupted_it_says_how_to_go_on_and_then_says_that_it_does(
    given, tmp_path, capsys, caplog, monkeypatch
):
    output = tmp_path / "out"
    arguments = ["repair", *given, f"--output={output}", "--method=finetune", *SMALL]
    arguments.remove("--no-diagnosis")
    arguments.append("--set=steps=20")
    checkpoint, seconds = Journal.checkpoint, []

    def interrupt(self, name, state):
        checkpoint(self, name, state)
        if len(state["history"]) == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "checkpoint", interrupt)
        assert main(arguments) == 130
    said = capsys.readouterr().err
    assert "Traceback" not in said and "the same command again goes on from there" in said
    spent = output / FOLDER / "spent.json"
    kept = json.loads(spent.read_text())
    assert [name for name, _, _ in kept] == ["prepare", "evaluate", "diagnose", "finetune"]
    spent.write_text(json.dumps([(name, s + 100, m) for name, s, m in kept]))
    assert main(arguments) in (0, 3)
    assert "has an unfinished run of the same: it goes on" in caplog.text
    stages = json.loads((output / "repair.json").read_text())["stages"]
    assert [s["name"] for s in stages] == [
        "prepare",
        "evaluate",
        "diagnose",
        "finetune",
        "evaluate",
    ]
    seconds = [s["seconds"] > 100 for s in stages]
    assert seconds == [True, True, True, True, False], "those of all parts"


def test_interrupted_before_anything_was_done(given, tmp_path, capsys, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("timm_repair.pipeline.repairing.repair", interrupt)
    assert main(["repair", *given, f"--output={tmp_path / 'out'}"]) == 130
    assert "nothing was kept" in capsys.readouterr().err
    assert main(["blocks", "test_resnet"]) == 0


@pytest.mark.filterwarnings(NO_EFFECT)
def test_a_comparison_does_not_replace_a_file(given, tmp_path, capsys):
    file = tmp_path / "mine.json"
    file.write_text("precious")
    arguments = ["compare", *given, "--methods", "finetune", f"--output={file}", *SMALL]
    assert main(arguments) == 2
    assert "--overwrite" in capsys.readouterr().err and file.read_text() == "precious"
    assert main([*arguments, "--set=stepps=1"]) == 2 and file.read_text() == "precious"
    assert main([*arguments, f"--output={tmp_path / 'new.json'}", "--set=steps=0"]) == 2
    assert not (tmp_path / "new.json").exists(), "nothing is left where nothing was done"
