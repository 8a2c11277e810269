"""Killed at any moment, a run continues to the same bits; what it must not continue is refused, and
says why.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from cases import BUDGET
from safetensors.torch import load_file

import timm_repair
from timm_repair.errors import OutputError, PartitionError, ResumeError
from timm_repair.properties.networks import load
from timm_repair.runtime import journal
from timm_repair.runtime.journal import FOLDER, Journal
from timm_repair.runtime.runtime import Runtime

MODEL = "model.safetensors"
SCRIPT = Path(__file__).with_name("killing.py")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Of the model that was saved there."""
    network = folder / "network.onnx"
    return load(network).state_dict() if network.exists() else load_file(folder / MODEL)


@pytest.mark.parametrize(
    ("options", "kills"),
    [
        ({"level": "layer", "diagnose": False}, 8),
        pytest.param({"level": "layer", "diagnose": False}, 20, marks=pytest.mark.long),
        pytest.param(
            {"method": "finetune", "level": "block", "blocks": 2, "patience": 2},
            6,
            marks=pytest.mark.long,
        ),
        # a prefix cache that is filled anew, in another order, and in which not everything finds
        # room
        pytest.param(
            {
                "block": "layer4",
                "views": 3,
                "cache": "always",
                "cache_memory": 5e-5,
                "cache_disk": 5e-5,
                "diagnose": False,
            },
            6,
            marks=pytest.mark.long,
        ),
        pytest.param(
            {"block": "layer2", "level": "layer", "mode": "replace", "diagnose": False},
            3,
            marks=pytest.mark.long,
        ),
        # whose loss carries queues, and a generator, from step to step
        pytest.param(
            {"method": "sensei", "children": 2, "population": 3, "beginning": 3},
            4,
            marks=pytest.mark.long,
        ),
        pytest.param({"method": "few_shot_mix"}, 3, marks=pytest.mark.long),
        pytest.param(
            {"property": True, "method": "birdnn", "steps": 60, "particles": 5, "examples": 60},
            5,
            marks=pytest.mark.long,
        ),
    ],
    ids=[
        "archrepair",
        "often",
        "finetune",
        "cached",
        "replacing",
        "sensei",
        "few_shot_mix",
        "property",
    ],
)
def test_killed_again_and_again_it_ends_with_the_same_bits(options, kills, tmp_path):
    environment = os.environ | {"TQDM_DISABLE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, SCRIPT, tmp_path, str(kills), json.dumps(options)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["kills"] >= kills and found["ended"]
    whole, timed = tmp_path / "whole", {"cost", "stages"}  # seconds and memory
    for name in found["ended"]:
        one, other = (weights(folder) for folder in (whole, tmp_path / name))
        assert one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)
        one, other = (
            json.loads((folder / "repair.json").read_text()) for folder in (whole, tmp_path / name)
        )
        assert all(one[k] == other[k] for k in one.keys() - timed)
        assert {p.name for p in whole.iterdir()} == {p.name for p in (tmp_path / name).iterdir()}


@pytest.mark.long
def test_one_of_two_ranks_is_killed(tmp_path):
    environment = os.environ | {
        "TQDM_DISABLE": "1",
        "OMP_NUM_THREADS": "1",
        "ACCELERATE_USE_CPU": "true",
    }
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "2",
        SCRIPT,
        "once",
        killed,
    ]
    launcher = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    checkpoint = killed / FOLDER / "finetune.loop.pt"
    while not checkpoint.exists():
        assert launcher.poll() is None, "it ended before it could be killed"
        time.sleep(0.01)
    max(psutil.Process(launcher.pid).children(), key=lambda rank: rank.pid).kill()
    assert launcher.wait(300) != 0, "the launcher ends the other rank"
    assert checkpoint.exists()
    # one undisturbed, and the killed one goes on
    done = subprocess.run(
        [sys.executable, SCRIPT, "ranks", whole, killed],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    assert not checkpoint.exists(), "it went on to its end"
    one, other = (load_file(folder / "model.safetensors") for folder in (whole, killed))
    assert one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)
    one, other = (json.loads((folder / "repair.json").read_text()) for folder in (whole, killed))
    assert all(one[k] == other[k] for k in one.keys() - {"cost", "stages"})


class Stop(BaseException):
    """What stands for a kill in this process."""


@pytest.fixture
def stopped(classifier, failures, pictures, tmp_path, monkeypatch):
    """A directory with a run that was cut off in the middle of its fine-tuning, and the run to
    continue it.
    """

    def run(**options):
        given = BUDGET | {
            "steps": 24,
            "level": "layer",
            "retain": pictures["train"][:200],
            "progress": False,
            "diagnose": False,
            "method": "archrepair",
        }
        if (given | options)["method"] == "archrepair":
            given["max_latency"] = None
        return timm_repair.repair(
            classifier, failures, output_dir=tmp_path / "out", **(given | options)
        )

    checkpoint, count = Journal.checkpoint, []

    def dying(self, name, state):
        checkpoint(self, name, state)
        count.append(name)
        if count.count("finetune") == 3:
            raise Stop

    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr(Journal, "checkpoint", dying)
        run()
    return run, tmp_path / "out"


def test_what_was_done_is_not_done_again(stopped, monkeypatch):
    run, output = stopped
    there = {"run.json", "before.pt", "localization.pt", "search.loop.pt", "finetune.loop.pt"}
    there |= {"spent.json"}
    assert {p.name for p in (output / FOLDER).iterdir()} == there
    from timm_repair.localization import target

    monkeypatch.setattr(target, "localize", None)  # would fail if it were called
    repaired = run()
    assert not (output / FOLDER).exists() and (output / "model.safetensors").is_file()
    assert [row["step"] for row in repaired.report.history if row["stage"] == "finetune"] == list(
        range(sum(row["stage"] == "finetune" for row in repaired.report.history))
    )


def test_another_run_is_refused_and_told_what_differs(stopped, pictures, classifier):
    run, output = stopped
    before = {p.name: p.read_bytes() for p in (output / FOLDER).iterdir()}
    for options, message in (
        ({"seed": 5}, "seed: 0 then, 5 now"),
        ({"steps": 30}, "training.steps 24 then, 30 now"),
        ({"method": "finetune", "level": "network"}, 'method: "archrepair" then, "finetune" now'),
        ({"retain": pictures["train"][:150]}, "data: "),
    ):
        with pytest.raises(ResumeError, match=message):
            run(**options)
    with torch.no_grad():
        classifier.fc.bias += 0.01
    with pytest.raises(ResumeError, match="model: "):
        run()
    assert {p.name: p.read_bytes() for p in (output / FOLDER).iterdir()} == before


def test_a_run_that_had_not_trained_yet_is_no_obstacle(classifier, failures, pictures, tmp_path):
    """A wrong block name must not have to be cleaned up after."""
    given = BUDGET | {
        "retain": pictures["train"][:200],
        "progress": False,
        "diagnose": False,
        "output_dir": tmp_path / "out",
    }
    with pytest.raises(PartitionError):
        timm_repair.repair(classifier, failures, block="layer9", **given)
    assert (
        timm_repair.repair(
            classifier, failures, block="layer3", genotype="raw", **given
        ).report.block
        == "layer3"
    )


def test_a_damaged_checkpoint_is_named(stopped):
    run, output = stopped
    path = output / FOLDER / "finetune.loop.pt"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ResumeError, match="finetune.loop.pt.* is damaged.*: delete it"):
        run()
    path.unlink()
    assert run().report.scores


def test_a_full_disk_stops_the_run_and_keeps_the_last_checkpoint(stopped, monkeypatch):
    run, output = stopped
    before = (output / FOLDER / "finetune.loop.pt").read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(journal.os, "fsync", full)
        with pytest.raises(
            OutputError, match="No space left.*make room .* then run the same command again"
        ):
            run()
    assert (output / FOLDER / "finetune.loop.pt").read_bytes() == before
    assert not list((output / FOLDER).glob("*.new"))
    assert run().report.scores


def test_without_a_directory_nothing_is_written(classifier, failures, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    timm_repair.repair(
        classifier,
        failures,
        steps=4,
        block="layer1",
        genotype="raw",
        progress=False,
        diagnose=False,
    )
    assert not list(tmp_path.iterdir())
    assert Runtime(progress=False).once("x", lambda: 3) == 3
