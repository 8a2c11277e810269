"""Whatever fails after the work, its result is on the error or in the output directory, and the
message says how to go on.
"""

import logging

import pytest
import torch
from cases import GENTLE

from timm_repair import repair, revert
from timm_repair.errors import HubError, NonFiniteError, RepairError
from timm_repair.hub import card, lineage, pushing, saving
from timm_repair.hub.loading import from_pretrained
from timm_repair.models.weights import same_value
from timm_repair.pipeline import case, measuring
from timm_repair.pipeline.repaired import Repaired
from timm_repair.report.figures import overview

GIVEN = GENTLE | {"steps": 2, "batch_size": 8, "progress": False, "diagnose": False}
GIVEN |= {"method": "finetune", "level": "block", "block": "layer3"}
pytestmark = pytest.mark.filterwarnings("ignore:.* changed nothing")


def broken(*_, **__):
    raise KeyError("nobody thought of this")


def full(*_, **__):
    raise OSError(28, "No space left on device")


def not_finite(*_, **__):
    raise NonFiniteError("the logits are NaN")


@pytest.fixture
def few(failures):
    return failures.subset(range(24))


STEPS = {
    "the weights' file": (saving.safetensors.torch, "save_file", full),
    "the config": (saving, "_write_config", broken),
    "the check before writing": (saving, "first_difference", broken),
    "the card": (card, "render", broken),
    "moving into place": (saving.shutil, "rmtree", broken),
    "where it comes from": (lineage.Lineage, "between", broken),
}


@pytest.mark.parametrize("step", STEPS)
def test_what_fails_while_saving_loses_nothing(step, classifier, few, tmp_path, monkeypatch):
    owner, name, failure = STEPS[step]
    run = case.run_method

    def then_broken(*given, **named):  # what is checked before the work still works
        repaired = run(*given, **named)
        monkeypatch.setattr(owner, name, failure)
        return repaired

    monkeypatch.setattr("timm_repair.pipeline.repairing.run_method", then_broken)
    monkeypatch.setattr(saving, "find_spec", lambda name: None)  # no figures: they take long
    output = tmp_path / "out"
    if step == "moving into place":
        output.mkdir()
        (output / ".saving-old").mkdir()
    with pytest.raises(RepairError) as caught:
        repair(classifier, few, output_dir=output, **GIVEN)
    monkeypatch.undo()
    repaired, notes = caught.value.repaired, " ".join(caught.value.__notes__)
    assert isinstance(repaired, Repaired) and repaired.report.scores
    assert "attribute `repaired`" in notes and "run the same again" in notes
    if step != "where it comes from":
        revert(repaired.model)
    again = repair(classifier, few, output_dir=output, **GIVEN)
    ours, theirs = repaired.model.state_dict(), again.model.state_dict()
    assert all(same_value(value, theirs[key]) for key, value in ours.items())
    folder = repaired.save_pretrained(tmp_path / "by hand")
    images = torch.randn(2, 1, 32, 32)
    assert torch.equal(from_pretrained(folder)(images), repaired.model(images))


@pytest.mark.parametrize("failure", [broken, not_finite])
def test_what_fails_while_measuring_loses_nothing(failure, classifier, few, monkeypatch):
    measure = case.measure
    monkeypatch.setattr(case, "measure", failure)
    with pytest.raises(RepairError, match="measuring the repaired model|NaN") as caught:
        repair(classifier, few, **GIVEN)
    monkeypatch.setattr(case, "measure", measure)
    unmeasured = caught.value.repaired
    assert unmeasured.report.scores == () and "not measured" in str(unmeasured.report.verdict)
    assert any("not measured" in note for note in unmeasured.report.notes)
    ours, theirs = unmeasured.model.state_dict(), repair(classifier, few, **GIVEN).model
    assert all(same_value(v, theirs.state_dict()[key]) for key, v in ours.items())


def test_costs_and_figures_are_incidental(classifier, few, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(measuring, "FlopCounterMode", broken)
    monkeypatch.setattr(measuring, "in_turns", broken)
    monkeypatch.setattr(overview, "save_all", broken)
    with caplog.at_level(logging.WARNING, "timm_repair"):
        report = repair(classifier, few, output_dir=tmp_path, **GIVEN).report
    assert report.cost["after"]["flops"] is None
    assert "saved without figures" in caplog.text and not (tmp_path / "figures").exists()
    assert from_pretrained(tmp_path) is not None


def test_what_fails_while_pushing_leaves_the_folder(classifier, few, tmp_path, monkeypatch):
    repaired = repair(classifier, few, **GIVEN)
    monkeypatch.setattr(pushing, "opened", broken)
    with pytest.raises(RepairError) as caught:
        repaired.save_pretrained(tmp_path / "out", push_to_hub=True, repo_id="me/x")
    assert isinstance(caught.value, HubError) and "is saved in" in caught.value.__notes__[-1]
    assert from_pretrained(tmp_path / "out") is not None


def test_an_interruption_after_the_work_keeps_the_result(classifier, few, tmp_path, monkeypatch):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("timm_repair.pipeline.repairing.Repaired.save_pretrained", stopped)
    with pytest.raises(KeyboardInterrupt) as caught:
        repair(classifier, few, output_dir=tmp_path, **GIVEN)
    assert caught.value.repaired.report.scores
