"""NeuRecover: which weights are to blame, by hand; checkpoints in every form; and a weight that a
later epoch spoilt, which it must find and mend.
"""

import json
from pathlib import Path

import planted
import pytest
import torch
from networks import correlating
from safetensors.torch import save_file
from torch import nn

import timm_repair
from timm_repair.errors import NoEffectWarning, OptionError
from timm_repair.gradient_free.judging import Answers
from timm_repair.methods.neu_recover import NeuRecover, to_blame


def test_who_is_to_blame_by_hand():
    """F is 3/4 and 1/4 of what was unlearnt, 1/2 each of what was learnt; D is 1/2 each. So s of
    the first layer is 0.75 / 1.25 / 2 = 0.3 of 10 weights, of the second 0.25 / 0.75 / 2 = 1/6 of 6.
    """
    falling = torch.arange(10.0, 0, -1)
    first = {
        "unlearnt": (falling * 3, falling[[1, 0, 9, 2, 3, 4, 5, 6, 7, 8]]),
        "learnt": (
            falling[[9, 0, 1, 2, 3, 4, 5, 6, 7, 8]],
            falling[[9, 0, 8, 7, 6, 5, 4, 3, 2, 1]],
        ),
    }
    second = {
        "unlearnt": (torch.full((6,), 5.5), falling[:6]),
        "learnt": (torch.full((6,), 5.5),) * 2,
    }
    forward = [{"a": first[k][0], "b": second[k][0]} for k in ("unlearnt", "learnt")]
    gradients = [{"a": first[k][1], "b": second[k][1]} for k in ("unlearnt", "learnt")]
    moved = {"a": falling.clone(), "b": torch.tensor([5.5] * 5 + [5.4])}
    moved["b"] *= 5.5 / moved["b"].mean()
    # of "a" three: 0, 1, 2 by what passes, 0, 1, 3 by gradients, 0, 1, 2 by what moved: 0 and 1
    # remain; what was learnt leads in 1, 2, 3 and in 1, 8, 9, so 1 is let off
    found = to_blame(forward, gradients, moved, share=1.0)
    assert found["a.weight"].tolist() == [0]


def test_a_weight_that_did_not_move_is_not_to_blame():
    scores = [{"a": torch.tensor([1.0, 2.0, 3.0])}, {"a": torch.zeros(3)}]
    moved = {"a": torch.tensor([0.0, 0.5, 0.0])}
    assert to_blame(scores, scores, moved, share=1.0)["a.weight"].tolist() == [1]
    nothing = {"a": torch.zeros(3)}
    assert to_blame(scores, scores, nothing, share=1.0) == {}


def test_fitness_by_hand():
    failing = Answers(torch.tensor([True, False]), torch.zeros(2), torch.tensor([1.0, 3.0]))
    right = Answers(torch.tensor([True, True]), torch.zeros(2), torch.tensor([0.0, 1.0]))
    method = NeuRecover(checkpoints={"a": torch.zeros(1)}, caution=0.5)
    assert float(method._fitness(failing, right)) == pytest.approx(-(1.5 / 3 + 0.5 * 2 / 1.5))


@pytest.fixture
def epochs(tmp_path) -> tuple[nn.Module, dict, Path]:
    """A model with one weight that has the wrong sign since its last epoch, its state before, and a
    folder with that in two kinds of files.
    """
    model = correlating()
    earlier = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    save_file(earlier, tmp_path / "earlier.safetensors")
    torch.save({"epoch": 3, "state_dict": earlier}, tmp_path / "earlier.pth")
    with torch.no_grad():
        model[4].weight[3, 3] = -1.0
    return model, earlier, tmp_path


@pytest.mark.parametrize("form", ["state", "earlier.safetensors", "earlier.pth", "of two"])
def test_what_a_later_epoch_spoilt_is_mended(epochs, form):
    model, earlier, folder = epochs
    options = {"checkpoints": earlier if form == "state" else [folder / form]}
    if form == "of two":  # the model itself is the second of them
        options = {"checkpoints": [earlier, model.state_dict()], "before": 0, "after": 1}
    wrong, right = planted.wrong_by(model, planted.pictures(300, seed=1))
    given = {"retain": right, "method": "neu_recover", "population": 10, "progress": False}
    repaired = timm_repair.repair(model, wrong, **given, **options, steps=8)
    expected = model[4].weight.detach().clone()
    expected[3, 3] = repaired.model[4].weight[3, 3]
    assert torch.equal(repaired.model[4].weight, expected), "the one that moved"
    assert torch.equal(repaired.model[2].weight, model[2].weight)
    assert (planted.margins(repaired.model, planted.pictures(200, seed=7)) > 0).all()
    assert "unlearnt and 0 learnt; 1 weights are to blame, of 4.weight" in repaired.report.notes[0]
    assert len(json.dumps(repaired.report.to_dict()["options"])) < 4000, "no weights in a report"


def test_nothing_unlearnt_nothing_repaired(epochs):
    model, _, _ = epochs
    wrong, right = planted.wrong_by(model, planted.pictures(200, seed=1))
    given = {"retain": right, "method": "neu_recover", "steps": 2, "progress": False}
    with pytest.warns(NoEffectWarning):
        repaired = timm_repair.repair(model, wrong, **given, checkpoints=model.state_dict())
    assert "nothing was unlearnt" in repaired.report.notes[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give checkpoints=, state dicts or files"),
        ({"checkpoints": []}, "give checkpoints=, state dicts or files"),
        ({"checkpoints": 3}, "give checkpoints="),
        ({"checkpoints": [3]}, "not int"),
        ({"checkpoints": "nowhere.pth"}, "there is no checkpoint 'nowhere.pth'"),
        ({"checkpoints": {"a": 1}}, "names to tensors"),
        ({"checkpoints": {"a": torch.zeros(1)}, "before": 1}, "there are 1 checkpoints"),
        ({"checkpoints": {"a": torch.zeros(1)}, "share": 0.0}, "share must be positive"),
    ],
)
def test_wrong_options_are_refused_before_any_work(options, message):
    with pytest.raises(OptionError, match=message):
        timm_repair.methods.named("neu_recover", **options)


def test_checkpoints_of_other_models_are_refused(epochs, tmp_path):
    model, earlier, _ = epochs
    wrong, right = planted.wrong_by(model, planted.pictures(200, seed=1))
    given = {"retain": right, "method": "neu_recover", "steps": 2, "progress": False}
    (tmp_path / "broken.pth").write_bytes(b"no weights")
    for checkpoints, message in (
        ({n: t for n, t in earlier.items() if n != "2.bias"}, "it has no '2.bias'"),
        (earlier | {"2.bias": torch.zeros(3)}, "'2.bias' has another shape"),
        (earlier | {"5.bias": torch.zeros(3)}, "this one has no '5.bias'"),
        (tmp_path / "broken.pth", "cannot be read as tensors alone"),
    ):
        with pytest.raises(OptionError, match=message):
            timm_repair.repair(model, wrong, **given, checkpoints=checkpoints)
