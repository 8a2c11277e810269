"""MODE: the class, the layer and the examples that it chooses, on numbers small enough to check."""

from copy import deepcopy

import planted
import pytest
import torch
from architecture.token_models import MODELS, images, original, side
from cases import BUDGET
from making import quiet, repair_data
from torchvision.transforms.functional import to_pil_image

from timm_repair.errors import OptionError
from timm_repair.methods import mode, named
from timm_repair.methods.mode import States
from timm_repair.models.partition import blocks
from timm_repair.training.job import Job
from timm_repair.training.options import Training


def states(labels: list[int], answers: list[int]) -> States:
    rows = torch.arange(len(labels))
    return States(rows, torch.tensor(labels), torch.tensor(answers), {})


@pytest.mark.parametrize(
    ("learnt", "judged", "expected"),
    [
        # class 1 is half right on both: under-fit
        (([0, 0, 1, 1], [0, 0, 1, 0]), ([0, 0, 1, 1], [0, 0, 0, 1]), (1, "under")),
        # right on what is trained on alone: over-fit
        (([0, 0, 1, 1], [0, 0, 1, 1]), ([0, 0, 1, 1], [0, 0, 0, 1]), (1, "over")),
        # neither: the least accurate
        (([0, 0, 1, 1], [0, 0, 1, 0]), ([0, 1, 1], [0, 1, 1]), (1, "under")),
    ],
)
def test_the_worst_class(learnt, judged, expected):
    assert mode.worst_class(states(*learnt), states(*judged), 0.9, 0.1) == expected


def test_the_layer():
    """Under-fit: the first that brings nothing. Over-fit: where, from the end, it was no better."""
    assert mode.target_layer([0.2, 0.5, 0.505, 0.9], "under", 0.01) == 2
    assert mode.target_layer([0.2, 0.5, 0.8, 0.9], "under", 0.01) == 3
    assert mode.target_layer([0.2, 0.9, 0.8, 0.7], "over", 0.01) == 1
    assert mode.target_layer([0.2, 0.5, 0.8, 0.9], "over", 0.01) == 3


def test_a_feature_model_tells_what_the_features_hold():
    """Two classes apart in the one feature, the same in the other."""
    labels = torch.arange(40) % 2
    noise = torch.randn(40, 1, dtype=torch.float64)
    apart = torch.cat([labels[:, None].double() * 10 + 0.1 * noise, noise], 1)
    assert mode.feature_model(apart, labels, apart, labels, 1) == 1.0
    same = torch.cat([torch.ones(40, 1).double(), torch.zeros(40, 1).double()], 1)
    assert mode.feature_model(same, labels, same, labels, 0) + mode.feature_model(
        same, labels, same, labels, 1
    ) == pytest.approx(1.0)


def test_the_differential_and_the_ranking_by_hand():
    features = torch.tensor([[4.0, 0.0], [2.0, 0.0], [1.0, 2.0], [0.0, 8.0], [9.0, 9.0]]).double()
    labels, answers = torch.tensor([0, 0, 1, 0, 1]), torch.tensor([0, 0, 0, 1, 1])
    # HC = (3, 0), HM = (1, 2), HW = (0, 8): D^M = (2, -2) / 2, D^W = (3, -8) / 8
    direction = mode.differential(features, labels, answers, 0)
    torch.testing.assert_close(direction, torch.tensor([1 + 3 / 8, -2.0]).double())
    assert mode.ranked(features, labels, direction, 0, "under").tolist() == [0, 1, 3]
    assert mode.ranked(features, labels, direction, 0, "over").tolist() == [3, 1, 0]


@pytest.mark.parametrize("share", [0.2, 0.5, 1.0])
def test_the_share_of_a_batch(share):
    rows = mode.mixture(torch.tensor([7, 3]), 100, share)
    others = torch.bincount(rows, minlength=100)[[i for i in range(100) if i not in (3, 7)]]
    assert (others == (0 if share == 1 else 1)).all()
    selected = len(rows) - (0 if share == 1 else 100)
    assert selected / len(rows) == pytest.approx(share, abs=0.01)
    assert torch.equal(mode.mixture(torch.arange(0), 5, share), torch.arange(5))


@pytest.mark.parametrize("name", MODELS)
def test_states_are_of_channels_where_channels_are_last_too(name):
    """One number a channel, the mean over positions, of what leaves each block."""
    model = deepcopy(original(name))
    found = [b for b in blocks(model, input_size=(3, side(name), side(name))) if b.role == "body"]
    pairs = [(to_pil_image(image.sigmoid()), 0) for image in images(name)]
    data = repair_data(model, pairs, None)
    seen: dict[str, torch.Tensor] = {}
    for block in found:
        module = model.get_submodule(block.paths[-1])
        module.register_forward_hook(lambda _, __, out, key=block.name: seen.update({key: out}))
    job = Job(model, data, Training(), quiet())
    layers = States.of(job, found, data.failing, 3, "test").layers
    for block in found:
        if block.out_shape is not None:
            axis = 1 if block.maps else -1
            expected = seen[block.name].movedim(axis, 1).flatten(2).mean(2)
            assert layers[block.name].shape[1] == block.out_shape[0 if block.maps else -1]
            torch.testing.assert_close(layers[block.name], expected.double(), rtol=1e-4, atol=1e-5)


def test_the_direction_decides_what_is_selected(classifier, data, monkeypatch):
    """By default a part of the class, and the other way another part."""
    method, runtime = named("mode"), quiet()
    job = Job(classifier, data, method.training, runtime)
    body = [block for block in blocks(classifier) if block.role == "body"]

    def selected() -> dict[str, list[int]]:
        rows = method._selected(job, body, 0, 60)["rows"]
        counts = {name: torch.bincount(each, minlength=1) for name, each in rows.items()}
        return {name: (each > 1).nonzero().flatten().tolist() for name, each in counts.items()}

    there, direction = selected(), mode.differential
    assert max(map(len, there.values())) > 1
    monkeypatch.setattr(mode, "differential", lambda *given: -direction(*given))
    back = selected()
    for name, rows in there.items():
        images = data.train[name]
        own = {int(images.labels[row]) for row in rows}
        assert len(own) <= 1, "of one class"
        if len(rows) > 1:
            assert len(rows) <= (images.labels == own.pop()).sum() / 2
            assert not set(rows) & set(back[name])


def test_the_confused_classes_are_chosen_and_mended(classifier, data):
    options = BUDGET | {"steps": 60, "batch_size": 32, "evaluations": 4, "rounds": 4}
    outcome = named("mode", **options, examples=60).repair(classifier, data, quiet())
    assert outcome.notes[0].startswith(("round 1: class 0 is under-fit", "round 1: class 1"))
    assert len(outcome.history) == 60
    assert (planted.margins(classifier, planted.pictures(40)) > 0).all()


def test_what_is_refused():
    for options in ({"rounds": 0}, {"selected": 1.2}, {"granularity": "stagee"}):
        with pytest.raises(OptionError):
            named("mode", **options)
