"""Searches by rounds: stopped in the middle they go on to the same bits, and they end where nothing
better is found for long.
"""

import planted
import pytest
import torch
from networks import correlating

import timm_repair
from timm_repair.runtime.journal import Journal

FEW = {"steps": 6, "progress": False}
SEARCHES = {
    "birdnn_finetune": {"neurons": 2, "particles": 6, "reach": 1.0},
    "care": {"neurons": 2, "particles": 6, "effect": "step"},
    "arachne v1": {"method": "arachne", "version": 1, "population": 6},
    "arachne v2": {"method": "arachne", "version": 2, "population": 6},
    "neu_recover": {"population": 6, "share": 0.1},
}


class Stop(BaseException):
    """What stands for a kill in this process."""


@pytest.mark.filterwarnings("ignore::timm_repair.NoEffectWarning")
@pytest.mark.parametrize("label", SEARCHES)
def test_a_stopped_search_goes_on_to_the_same_bits(label, tmp_path, monkeypatch):
    earlier = planted.classifier()
    model = planted.confused(earlier)
    wrong, right = planted.wrong_by(model, planted.pictures(150, seed=1))
    options = {"method": label, "retain": right} | FEW | SEARCHES[label]
    if label == "neu_recover":
        options["checkpoints"] = earlier.state_dict()
    checkpoint, count = Journal.checkpoint, []

    def dying(self, name, state):
        checkpoint(self, name, state)
        count.append(name)
        if len(count) == 3:
            raise Stop

    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr(Journal, "checkpoint", dying)
        timm_repair.repair(model, wrong, output_dir=tmp_path / "killed", **options)
    reports, states = [], []
    for folder in ("killed", "whole"):
        repaired = timm_repair.repair(model, wrong, output_dir=tmp_path / folder, **options)
        reports.append(repaired.report)
        states.append(repaired.model.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert reports[0].history == reports[1].history and reports[0].scores == reports[1].scores
    assert len(reports[0].history) == 6


def test_a_search_ends_where_nothing_better_is_found(monkeypatch):
    """The only weight that matters is the one on the front, and its best value is found at once."""
    model = correlating()
    with torch.no_grad():
        model[4].weight[3, 3] = -1.0
    wrong, right = planted.wrong_by(model, planted.pictures(150, seed=1))
    monkeypatch.setattr("timm_repair.methods.arachne.PATIENCE", 3)
    monkeypatch.setattr("timm_repair.methods.arachne.fitness", lambda *_: -1.0)
    given = {"retain": right, "method": "arachne", "version": 1, "population": 4}
    with pytest.warns(timm_repair.NoEffectWarning):
        report = timm_repair.repair(model, wrong, **given, steps=50, progress=False).report
    assert len(report.history) == 4, "one that is the best, and three that are not better"
    assert "objective" in report.history[-1]
