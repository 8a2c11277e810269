"""A finished output folder: the same call is answered from it, another one is refused; nothing in
it is lost.
"""

import json
import warnings

import pytest
import torch
from cases import GENTLE

import timm_repair
from timm_repair.errors import OutputError
from timm_repair.hub.folder import CONFIG, REPORT
from timm_repair.runtime.journal import FOLDER

OPTIONS = {"method": "finetune", "progress": False, "diagnose": False, **GENTLE, "steps": 2}


@pytest.fixture
def output(tmp_path):
    return tmp_path / "out"


@pytest.fixture
def run(classifier, failures, pictures, output):
    """The same call each time, but for what is given."""

    def call(**changes):
        given = {"retain": pictures["train"], "holdout": {"clean": pictures["unseen"]}}
        options = OPTIONS | given | {"output_dir": output} | changes
        return timm_repair.repair(options.pop("model", classifier), failures, **options)

    return call


@pytest.fixture
def no_work(monkeypatch):
    """Fails the test if anything is trained or measured."""

    def refuse(*_, **__):
        raise AssertionError("work had begun")

    for place in (
        "training.tuning.fit",
        "pipeline.measuring.cost",
        "pipeline.repairing.run_method",
    ):
        monkeypatch.setattr(f"timm_repair.{place}", refuse)


def files(folder) -> dict:
    return {p.name: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_the_same_call_is_answered_from_the_folder(run, output, classifier, caplog, request):
    first, before = run(), files(output)
    caplog.clear()
    request.getfixturevalue("no_work")
    again = run()
    assert again.report == first.report and files(output) == before
    states = first.model.state_dict(), again.model.state_dict()
    assert all(torch.equal(states[0][name], value) for name, value in states[1].items())
    assert "holds this repair already" in caplog.text and not again.model.training
    reverted = timm_repair.revert(again.model).state_dict()
    assert all(torch.equal(reverted[k], v) for k, v in classifier.state_dict().items())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 3}, "options: training.steps 2 then, 3 now"),
        ({"seed": 1}, "seed: 0 then, 1 now"),
        ({"method": "bn_recalibration"}, 'method: "finetune" then, "bn_recalibration" now'),
        ({"retain": None}, "data: "),
    ],
)
def test_another_call_is_refused_and_nothing_is_lost(run, output, changes, message, request):
    run()
    before = files(output)
    request.getfixturevalue("no_work")
    with pytest.raises(OutputError, match=message) as caught:
        run(**changes)
    assert "overwrite=True" in str(caught.value) and "another output_dir" in str(caught.value)
    assert files(output) == before and not (output / FOLDER).exists()


def test_another_model_is_refused(run, classifier):
    run()
    with torch.no_grad():
        classifier.fc.bias += 0.01
    with pytest.raises(OutputError, match="model: "):
        run()


def test_overwrite_repeats_and_replaces(run, output, caplog):
    run()
    other = run(seed=1, overwrite=True)
    assert json.loads((output / REPORT).read_text())["seed"] == 1 == other.report.seed
    caplog.clear()
    run(seed=1, overwrite=True)
    assert "holds this repair already" not in caplog.text, "it is computed anew"


def test_a_folder_that_was_cut_off_or_changed_is_no_answer(run, output):
    run()
    (output / CONFIG).unlink()  # a save that was killed: the config comes last
    run()
    assert (output / CONFIG).is_file()
    (output / REPORT).write_text("{")
    with pytest.raises(OutputError, match="cannot be read.*overwrite=True"):
        run()
    run(overwrite=True)
    report = json.loads((output / REPORT).read_text())
    (output / REPORT).write_text(json.dumps(report | {"weights": "0" * 64}))
    with pytest.raises(OutputError, match="other weights than its report"):
        run()


def test_a_report_of_before_it_told_where_it_ran_is_answered_from(run, output):
    first = run()
    old = json.loads((output / REPORT).read_text()) | {"version": 3}
    for name in ("label_names", "environment"):
        del old[name]
    (output / REPORT).write_text(json.dumps(old))
    assert run().report.scores == first.report.scores
    with pytest.raises(OutputError, match="seed"):
        run(seed=1)


@pytest.mark.parametrize("step", ["hub.saving._write_weights"])
@pytest.mark.parametrize("kind", [KeyError, AssertionError, OSError, MemoryError])
def test_what_fails_while_saving_does_not_lose_the_result(run, output, step, kind, monkeypatch):
    def fails(*_, **__):
        raise kind("of no good reason")

    with monkeypatch.context() as patch:
        patch.setattr(f"timm_repair.{step}", fails)
        with pytest.raises(timm_repair.RepairError) as caught:
            run()
    repaired = caught.value.repaired
    assert repaired.report.scores and any("repaired" in note for note in caught.value.__notes__)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = run()  # from its last checkpoint
    assert again.report.weights == repaired.report.weights and (output / CONFIG).is_file()
