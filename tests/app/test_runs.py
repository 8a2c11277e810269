"""Repairs that the app starts: in a process of their own, cancelled at a step, gone on with."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import planted
import pytest
from app.saved_repairs import *  # noqa: F403

from timm_repair.app.runs import CANCELLED, DONE, FAILED, RUNNING, Request, Run, Runs
from timm_repair.app.uploads import Bounds, uploaded
from timm_repair.app.workbench import Form, Looked, Workbench
from timm_repair.app.worker import Steps
from timm_repair.errors import DataError, NoFailuresError, OptionError, ResumeError

PATIENCE = 120  # seconds, on a machine that has much else to do


def wait_for(found: Callable[[], object]) -> None:
    """Until it is true."""
    end = time.monotonic() + PATIENCE
    while not found():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.05)


@pytest.fixture
def collected(bench, tmp_path) -> Workbench:
    """The workbench with failures: pictures whose labels are wrong on purpose, so that the repaired
    model has them wrong.
    """
    for i, (image, label) in enumerate(planted.pictures(32, 9, classes=4, mode="RGB")):
        path = tmp_path / f"{i}.png"
        image.save(path)
        found, _ = uploaded([path], bench.pair("out").preprocessing, Bounds())
        bench.failures("out").add(found, (label + 1) % 4)
    return bench


def test_a_repair_is_cancelled_and_gone_on_with(collected):
    form = Form(method="finetune", steps=200, diagnose=False)
    run = collected.start("out", form)
    folder = run.file.with_suffix("")
    assert run.name == "repair-1" and run.status().state == RUNNING
    with pytest.raises(ResumeError, match="repair-1 is at work"):
        collected.start("out", form)
    wait_for(lambda: [*folder.glob(".resume/*.loop.pt")] or not run.at_work)
    wait_for(lambda: run.status().step or not run.at_work)
    status = run.status()
    assert (status.state, status.stage, status.steps) == (RUNNING, "finetune", 200), status
    run.cancel()
    assert not run.at_work and run.status().state == CANCELLED, run.status()
    assert [*folder.glob(".resume/*.loop.pt")], "the journal is kept"
    assert not (folder / "config.json").exists() and "work/repair-1" not in collected.refresh()

    again = collected.start("out", form)
    assert again.name == "repair-1"
    wait_for(lambda: not again.at_work)
    assert again.status().state == DONE, again.status()
    assert "it goes on from where it was stopped" in again.status().log
    assert collected.refresh() == ["out", "work/repair-1"]
    made = collected.saved("work/repair-1")
    assert len(made.report.history) == 200
    assert collected.pair("work/repair-1").original is not None, "what was repaired is known"
    # finished: the same again is another one
    request = collected.request("out", form)
    assert collected.runs.unfinished(request) is None


def test_what_fails_says_why(collected, tmp_path):
    run = collected.start("out", Form(retain=str(tmp_path / "missing"), diagnose=False))
    wait_for(lambda: not run.at_work)
    assert run.status().state == FAILED and "missing" in run.status().error
    other = collected.runs.unfinished(collected.request("out", Form()))
    assert other is None, "with other options it is another run"


def test_a_run_ends_with_the_app(tmp_path, monkeypatch):
    """Its standard input is closed, by whatever ends the app."""
    file = tmp_path / "repair-1.json"
    file.write_text("{}")
    waiting = tmp_path / "waiting.py"
    waiting.write_text(
        "import pathlib, sys, time\n"
        "from timm_repair.app import worker\n"
        "def wait(request, progress):\n"
        "    progress.write_text('{}')\n"
        "    time.sleep(600)\n"
        "worker.run = wait\n"
        "sys.exit(worker.main(pathlib.Path(sys.argv[3])))\n"
    )
    monkeypatch.setattr(sys, "executable", str(_executable(tmp_path, waiting)))
    run = Run(file, 0)
    wait_for(file.with_suffix(".progress").exists)
    run.process.stdin.close()
    wait_for(lambda: not run.at_work)
    assert run.status().state == CANCELLED


def _executable(folder: Path, script: Path) -> Path:
    """A program that runs `script` with what it was given."""
    path = folder / "python"
    path.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{script}" "$@"\n')
    path.chmod(0o700)
    return path


def test_the_same_is_gone_on_with_and_another_is_not(tmp_path):
    runs, request = Runs(tmp_path), Request("net", "f", ["a/1.png"])
    assert runs.unfinished(request) is None
    asked = {**vars(request), "output": str(tmp_path / "repair-3")}
    (tmp_path / "repair-3.json").write_text(json.dumps(asked))
    assert runs.unfinished(request) == tmp_path / "repair-3.json"
    assert runs.unfinished(Request("net", "f", ["a/1.png", "a/2.png"])) is None
    (tmp_path / "repair-3.json").write_text("{")
    assert runs.unfinished(request) is None


def test_steps_are_counted_over_all_parts_of_a_run(tmp_path):
    steps = Steps(tmp_path / "progress")

    def noted(stage: str, step: int) -> tuple:
        steps.noted = 0.0
        steps.log({f"{stage}/loss": 0.5, f"{stage}/lr": 1.0}, step=step)
        found = json.loads(steps.path.read_text())
        return found["stage"], found["step"], found["loss"]

    assert noted("try", 0) == ("try", 0, 0.5)
    assert noted("search", 1) == ("search", 1, 0.5)
    assert noted("finetune", 20) == ("finetune", 20, 0.5), "the others were done before"


def test_only_what_is_wrong_is_collected(bench, dropped):
    paths = [*dropped["tench"][:2], dropped["hen"][0]]
    looked = bench.look("out", paths)
    answers = [each.after[0].label for each in looked.answers]
    other = (answers[0] + 1) % 4
    assert bench.collect("out", looked, [0], other).startswith("Collected 1 as")
    assert bench.collect("out", looked, [0], other).endswith("1 were there already.")
    with pytest.raises(DataError, match="image 1: the repaired model says .* already"):
        bench.collect("out", looked, [0], answers[0])
    for chosen, label in (([], 0), ([7], 0), ([0], None)):
        with pytest.raises(DataError, match="choose"):
            bench.collect("out", looked, chosen, label)
    with pytest.raises(NoFailuresError, match="1 failures are too few: collect at least 6"):
        bench.start("out", Form())
    assert bench.take_back("out") == "Took 1 back."
    assert bench.take_back("out") == "There is nothing to take back."


def test_what_is_repaired_with_what(bench, saved_once, base_folder):
    request = bench.request("out", Form(steps=7))
    assert request.model == f"local-dir:{saved_once.resolve()}" and request.options == {"steps": 7}
    assert (request.retain, request.holdout, request.data) == (None, None, {})
    request = bench.request("out", Form(start="original", method="bn_recalibration", retain="x "))
    assert request.model == f"local-dir:{base_folder.resolve()}" and request.options == {
        "steps": 300
    }
    assert request.retain == "x"
    with pytest.raises(OptionError, match="did you mean 'finetune'"):
        bench.request("out", Form(method="finetun"))
    with pytest.raises(OptionError, match="there is no repair 'ou'; did you mean 'out'"):
        bench.pair("ou")


def test_a_visitor_only_looks(saved_once, tmp_path, dropped, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_me")
    bench = Workbench.of(saved_once, work=tmp_path / "work", owner=False)
    looked = bench.look("out", dropped["hen"][:1])
    assert len(looked.answers) == 1 and not bench.logged_in
    for act in (
        lambda: bench.collect("out", looked, [0], 0),
        lambda: bench.take_back("out"),
        lambda: bench.start("out", Form()),
        lambda: bench.export("out", "onnx"),
        lambda: bench.push("out", "me/net", private=False, images=False),
    ):
        with pytest.raises(OptionError, match="a visitor cannot do this"):
            act()
    assert not (tmp_path / "work").exists() and bench.look("out", []) == Looked()


def test_a_model_is_exported(bench, tmp_path):
    path = bench.export("out", "torch")
    assert path == tmp_path / "work" / "exports" / "out.pt2" and path.is_file()
    with pytest.raises(OptionError, match="format"):
        bench.export("out", "pickle")
