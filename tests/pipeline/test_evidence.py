"""A repair asks first what the failures have in common, and trains on what follows from it."""

import json

import planted
import pytest
from cases import GENTLE
from diagnosis import scenes

import timm_repair
from timm_repair import corrupt
from timm_repair.data.collected import Collected
from timm_repair.pipeline import evidence
from timm_repair.report.report import Report
from timm_repair.training.batches import Batches

OPTIONS = GENTLE | {"method": "finetune", "level": "block", "block": "layer1", "progress": False}
# six steps of a random body need not mend anything
pytestmark = pytest.mark.filterwarnings("ignore::timm_repair.errors.NoEffectWarning")


@pytest.fixture(scope="module")
def model():
    return planted.classifier(in_chans=3)


@pytest.fixture(scope="module")
def production(model):
    """Scenes of low contrast, whose labels are those of the scenes: failures, and what passes."""
    pixels = scenes.scenes(900, 5)
    labels = [label for _, label in scenes.labelled(model, pixels, wrong=False)]
    seen = scenes.labelled(model, corrupt(pixels, "contrast", 5), wrong=False)
    return [(image, label) for (image, _), label in zip(seen, labels, strict=True)]


@pytest.fixture(scope="module")
def given(model, production) -> dict:
    found = timm_repair.collect_failures(model, production)
    assert isinstance(found, Collected) and found.passing is not None
    assert min(len(found), len(found.passing)) >= 60
    retained = scenes.labelled(model, scenes.scenes(300, 6), wrong=False)
    return {"model": model, "failures": found, "retain": retained}


@pytest.fixture
def batches(monkeypatch) -> list[set]:
    """The populations of each batch that was drawn."""
    seen, take = [], Batches.take

    def noted(self, *keeps):
        batch = take(self, *keeps)
        seen.append({part.name for part in batch.parts})
        return batch

    monkeypatch.setattr(Batches, "take", noted)
    return seen


def test_a_corruption_is_found_and_trained_on(given, batches, tmp_path):
    repaired = timm_repair.repair(**given, **OPTIONS, output_dir=tmp_path / "out")
    report = repaired.report
    assert report.diagnosis is not None and report.diagnosis["headline"].startswith("contrast")
    assert batches and all(
        seen == {"failing", "passing", "retained", "pattern"} for seen in batches
    )
    assert "What the failures have in common" in str(report) and "contrast" in str(report)
    assert "the population that fails" in str(report.verdict)
    assert {s.population for s in report.scores} == {"failing", "passing", "retained"}
    assert "diagnose" in [stage["name"] for stage in report.stages]
    written = json.loads((tmp_path / "out" / "repair.json").read_text())
    assert Report.from_dict(written).diagnosis == report.diagnosis
    card = (tmp_path / "out" / "README.md").read_text()
    assert report.diagnosis["headline"] in card
    # the same command again is answered, another one is refused
    again = timm_repair.repair(**given, **OPTIONS, output_dir=tmp_path / "out")
    assert again.report.to_dict() == report.to_dict()
    with pytest.raises(timm_repair.RepairError, match="diagnose"):
        timm_repair.repair(**given, **OPTIONS, output_dir=tmp_path / "out", diagnose=False)


def test_without_a_diagnosis_there_is_no_pattern(given, batches):
    report = timm_repair.repair(**given, **OPTIONS, diagnose=False).report
    assert report.diagnosis is None and "diagnose" not in [s["name"] for s in report.stages]
    assert all(seen == {"failing", "passing", "retained"} for seen in batches)


def test_failures_alone_are_trained_on_as_ever(given, batches):
    alone = given["failures"].subset(range(len(given["failures"])))
    report = timm_repair.repair(given["model"], alone, **OPTIONS).report
    assert all(seen == {"failing"} for seen in batches)
    assert any("not diagnosed" in note for note in report.notes)


def test_a_run_that_was_killed_is_not_diagnosed_again(given, monkeypatch, tmp_path):
    calls, diagnose = [], evidence.diagnosing.diagnose
    monkeypatch.setattr(
        evidence.diagnosing, "diagnose", lambda *a, **k: calls.append(1) or diagnose(*a, **k)
    )
    whole = timm_repair.repair(**given, **OPTIONS)
    with monkeypatch.context() as patched:
        patched.setattr("timm_repair.pipeline.repairing.run_method", None)
        with pytest.raises(timm_repair.RepairError):
            timm_repair.repair(**given, **OPTIONS, output_dir=tmp_path / "out")
    assert len(calls) == 2
    resumed = timm_repair.repair(**given, **OPTIONS, output_dir=tmp_path / "out")
    assert len(calls) == 2
    assert resumed.report.weights == whole.report.weights


def test_a_missing_package_is_a_note(given, monkeypatch):
    def lacking(*_):
        raise timm_repair.errors.MissingPackageError("scikit-learn is not installed")

    monkeypatch.setattr(evidence, "require_packages", lacking)
    report = timm_repair.repair(**given, **OPTIONS).report
    assert report.diagnosis is None
    assert any("scikit-learn is not installed" in note for note in report.notes)
