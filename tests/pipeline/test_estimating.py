"""An estimate reads what a repair reads and names the blocks that it would take; the model comes
back as it was.
"""

import pytest
import torch

import timm_repair
from timm_repair.errors import OptionError, PartitionError

SMALL = {"batch_size": 16, "hflip": 0.0, "shift": 0.0, "progress": False}


@pytest.fixture
def asked(classifier, collected, pictures) -> dict:
    holdout = {"clean": pictures["unseen"][:40]}
    return {"model": classifier, "failures": collected, "retain": pictures["train"]} | {
        "holdout": holdout
    }


def test_nothing_is_repaired_and_all_is_told(asked, deployed):
    found = timm_repair.estimate(**asked, **SMALL, steps=100)
    state = deployed.state_dict()
    assert all(torch.equal(v, state[k]) for k, v in asked["model"].state_dict().items())
    assert asked["model"].training == deployed.training
    ranked = timm_repair.localize(
        asked["model"], asked["failures"], asked["retain"], progress=False
    )
    assert found.blocks == (ranked.worst,) and found.localization["ranking"] == [*ranked.ranking]
    assert found.read["failures"]["n"] == 200 and found.read["holdout clean"]["n"] == 40
    assert set(found.seconds) == {"prepare", "evaluate", "localize", "train"}
    assert all(seconds > 0 for seconds in found.seconds.values()) and found.peak_memory > 2**20
    told = str(found)
    assert f"archrepair would repair {ranked.worst} of" in told and "the diagnosis is not" in told
    assert max(map(len, told.splitlines())) <= 80
    assert found.to_dict()["all_seconds"] == sum(found.seconds.values())


def test_the_cost_of_a_step_is_the_difference_of_two_short_trainings(asked, monkeypatch):
    def timed(work):
        work()
        return next(clock)

    monkeypatch.setattr("timm_repair.pipeline.estimating._timed", timed)
    finetuned, searched = {"method": "finetune"}, {"method": "archrepair", "search_share": 0.5}
    for method, times in ((finetuned, 1), (searched, 1.5)):
        # the first is not counted; 2 steps and 7 looks take 8 s, 6 steps and 7 looks 10 s
        clock = iter([99.0, 8.0, 10.0, 0.4])
        found = timm_repair.estimate(
            **asked, **SMALL, **method, block="layer1", steps=100, evaluations=6
        )
        assert found.blocks == ("layer1",) and found.localization is None
        assert found.seconds["train"] == pytest.approx(100 * times * 0.5 + 12 * 1.0)
        assert found.seconds["evaluate"] == pytest.approx(2 * 0.8 + 2.0), "80 images, twice"


def test_the_whole_network(asked):
    found = timm_repair.estimate(**asked, **SMALL, method="bn_recalibration", diagnose=False)
    assert found.blocks == () and "would repair the whole network" in " ".join(str(found).split())
    assert any("what bn_recalibration does beside" in note for note in found.notes)


def test_what_a_repair_would_refuse_is_refused(asked):
    with pytest.raises(PartitionError, match="no block 'layer9'"):
        timm_repair.estimate(**asked, **SMALL, block="layer9")
    with pytest.raises(OptionError, match="did you mean 'steps'"):
        timm_repair.estimate(**asked, stepps=3)
    with pytest.raises(OptionError, match="takes images that fail, not properties"):
        timm_repair.estimate("net.onnx", "unsafe.vnnlib")
