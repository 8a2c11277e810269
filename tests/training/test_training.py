"""The training loop: how steps are scheduled, which state is kept, what selection prefers, which
options are refused.
"""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from training.batching import PLAIN, plain

from timm_repair import methods
from timm_repair.data.predicting import predict
from timm_repair.errors import NonFiniteError, OptionError
from timm_repair.models.temporary import training_mode
from timm_repair.runtime.runtime import Runtime
from timm_repair.training.descent import Descent
from timm_repair.training.interpolation import interpolate
from timm_repair.training.job import Job
from timm_repair.training.loop import Monitor, fit
from timm_repair.training.objective import objective
from timm_repair.training.options import Choosing, Training
from timm_repair.training.pace import Pace
from timm_repair.training.tuning import tune


def paced(steps: int) -> Pace:
    """A loop of so many steps, however long they take."""
    return Pace(PLAIN, steps, Runtime(progress=False).accelerator)


# ---- descent


def test_the_schedule_rises_falls_and_can_be_shared(runtime):
    options = replace(PLAIN, steps=100, warmup=0.1, learning_rate=0.2)
    weight = nn.Parameter(torch.ones(2, 2))
    descent = Descent([weight], options, runtime)
    rates = [descent.step((weight**2).sum())["lr"] for _ in range(100)]
    assert rates[:10] == pytest.approx([0.02 * (i + 1) for i in range(10)])
    assert (
        rates[55] == pytest.approx(0.1, abs=0.002)
        and rates[-1] < 0.001
        and rates[10:] == sorted(rates[10:], reverse=True)
    )
    second = Descent([weight], options, runtime, first=60, total=100)
    assert second.learning_rate == pytest.approx(rates[60]) and second.done == 60


def test_norms_biases_and_gates_are_not_decayed(runtime):
    layer = nn.Conv2d(2, 2, 1)
    descent = Descent(
        layer.parameters(), replace(PLAIN, weight_decay=0.5, warmup=0.0, learning_rate=0.1), runtime
    )
    before = [p.detach().clone() for p in (layer.weight, layer.bias)]
    descent.step(0.0 * sum(p.sum() for p in layer.parameters()))
    torch.testing.assert_close(layer.weight.detach(), before[0] * (1 - 0.1 * 0.5))
    assert torch.equal(layer.bias, before[1])


def test_only_the_given_parameters_move_and_the_gradient_is_clipped(runtime):
    one, other = nn.Parameter(torch.zeros(3, 3)), nn.Parameter(torch.zeros(3, 3))
    descent = Descent(
        [one], replace(PLAIN, clip=1.0, warmup=0.0, learning_rate=0.1, weight_decay=0.0), runtime
    )
    descent.step(1000 * (one.sum() + other.sum()))
    assert one.norm().item() == pytest.approx(0.1) and not other.any() and other.grad is None


def test_fresh_parameters_learn_faster(runtime):
    old, new = nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.zeros(2))
    options = replace(
        PLAIN, warmup=0.0, learning_rate=0.1, weight_decay=0.0, fresh_rate=4.0, clip=100.0
    )
    Descent([old, new], options, runtime, fresh=[new]).step(old.sum() + new.sum())
    torch.testing.assert_close(
        (old.detach(), new.detach()), (torch.full((2, 2), -0.1), torch.full((2,), -0.4))
    )


# ---- monitor and loop


def test_the_best_state_is_kept_buffers_included():
    part, values = nn.BatchNorm1d(1), iter([0.5, 0.7, 0.9, 0.9, 0.2])
    seen = []

    def measure():
        seen.append(part.running_mean.item())
        return next(values)

    monitor = Monitor(part, measure, steps=8, evaluations=4)
    for done in range(1, 9):
        part.running_mean.fill_(done)
        part.weight.data.fill_(10 * done)
        assert (monitor.check(done, done) is None) == bool(done % 2)
    assert seen == [0, 2, 4, 6, 8]
    assert monitor.restore() == 0.9 and part.running_mean.item() == 4 and part.weight.item() == 40


def test_patience_stops_early_and_counts_from_the_best():
    part, values = nn.Linear(1, 1), iter([0.5, 0.6, 0.5, 0.5, 0.9])
    monitor = Monitor(part, lambda: next(values), steps=8, evaluations=4, patience=2)
    history = fit(
        lambda i: {"loss": 1.0, "lr": 0.1},
        pace=paced(8),
        stage="x",
        runtime=Runtime(progress=False),
        monitor=monitor,
    )
    assert len(history) == 6 and monitor.restore() == 0.6


@pytest.mark.parametrize(("best", "told"), [(2, "the state after 4 of 8 steps"), (4, None)])
def test_which_state_was_kept_is_told(best, told, classifier, data, runtime, monkeypatch):
    values = iter([0.9 if i == best else 0.1 for i in range(5)] + [0.0] * 9)
    monkeypatch.setattr("timm_repair.training.tuning.objective", lambda *_: next(values))
    monkeypatch.setattr("timm_repair.training.interpolation.objective", lambda *_: next(values))
    options = replace(PLAIN, steps=8, evaluations=4)
    _, notes = tune(Job(classifier, data, options, runtime), classifier.layer4)
    assert [note for note in notes if "of 8 steps" in note] == (
        [f"{told} was best on the selection split, and was kept"] if told else []
    )


def test_the_start_is_a_candidate_and_the_end_is_measured():
    part = nn.Linear(1, 1)
    values = iter([0.5, 0.1, 0.1, 0.2])
    start = part.weight.item()
    monitor = Monitor(part, lambda: next(values), steps=7, evaluations=3)
    for done in range(1, 8):
        part.weight.data.fill_(99.0)
        assert (monitor.check(done, done) is None) == (done not in (3, 6, 7))
    assert monitor.restore() == 0.5 and part.weight.item() == start


def test_the_loop_tells_what_it_did(runtime, capsys):
    monitor = Monitor(nn.Linear(1, 1), lambda: 1.0, steps=4, evaluations=2)
    history = fit(
        lambda i: {"loss": float(i), "lr": 0.1},
        pace=paced(4),
        stage="search",
        runtime=runtime,
        monitor=monitor,
    )
    assert [(row["stage"], row["step"], row["loss"]) for row in history] == [
        ("search", i, float(i)) for i in range(4)
    ]
    assert ["objective" in row for row in history] == [False, True, False, True]
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_exploding_loss_stops_with_the_remedy(runtime, value):
    with pytest.raises(NonFiniteError, match=r"step 2 of finetune: lower learning_rate"):
        fit(
            lambda i: {"loss": value if i == 2 else 1.0},
            pace=paced(5),
            stage="finetune",
            runtime=runtime,
        )


ANYTHING = Choosing(max_clean_loss=None, max_class_loss=None)


@pytest.mark.parametrize("answer", [None, 0])
def test_selection_weighs_failures_by_how_often_they_happen(classifier, data, runtime, answer):
    if answer is not None:  # the same to every image
        classifier.fc.bias.data[answer] += 100
    share = {}  # of what it gets right
    for name, images in data.selection.items():
        labels = images.labels
        expected = (
            torch.where(labels < 2, 1 - labels, labels)
            if answer is None
            else torch.full_like(labels, answer)
        )
        assert torch.equal(
            predict(classifier, images, data.preprocessing, runtime).predictions, expected
        )
        share[name] = (expected == labels).double().mean().item()
    assert share["failing"] == (0 if answer is None else 0.5) != share["retained"] > 0
    forward = plain(classifier, data, runtime)
    for rate in (0.0, 0.3, 1.0):
        expected = rate * share["failing"] + (1 - rate) * share["retained"]
        found = objective(forward, replace(data, error_rate=rate), ANYTHING)
        least = expected - 0.5 / min(map(len, data.selection.values()))
        assert least < found <= expected, "less than half an example for the loss"
    unknown, half = (
        objective(forward, replace(data, error_rate=rate), ANYTHING) for rate in (None, 0.5)
    )
    assert unknown == half


def test_modes_are_given_back_also_after_an_error(classifier):
    classifier.train()
    classifier.layer1.eval()
    before = [m.training for m in classifier.modules()]
    with (
        pytest.raises(ZeroDivisionError),
        training_mode(classifier, classifier.layer2, batch_norm="frozen"),
    ):
        inside = {name for name, m in classifier.named_modules() if m.training}
        assert "layer2.0.conv1" in inside and all(name.startswith("layer2") for name in inside)
        assert not any(
            isinstance(classifier.get_submodule(name), nn.BatchNorm2d) for name in inside
        )
        raise ZeroDivisionError
    assert [m.training for m in classifier.modules()] == before
    with training_mode(classifier, classifier.layer2):
        assert classifier.layer2[0].bn1.training and not classifier.layer1[0].bn1.training


# ---- options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps must be at least 1"),
        ({"batch_size": -3}, "batch_size"),
        ({"evaluations": 0}, "evaluations"),
        ({"failing_share": 1.5}, "share from 0 to 1"),
        ({"hflip": -0.1}, "hflip"),
        ({"batch_norm": "eval"}, "'train' or 'frozen'"),
        ({"learning_rate": 0.0}, "positive"),
        ({"learning_rate": math.nan}, "finite"),
        ({"steps": 2.5}, "whole number"),
        ({"steps": True}, "whole number"),
        ({"shift": 0.5}, "reflection"),
        ({"momentum": 1.0}, "momentum"),
        ({"wrong_class_weight": 2}, "wrong_class_weight"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(OptionError, match=message):
        Training(**options)


@pytest.mark.parametrize(
    ("method", "option", "meant"),
    [
        ("archrepair", "learning_rat", "learning_rate"),
        ("archrepair", "blok", "block"),
        ("finetune", "stepps", "steps"),
        ("finetune", "strategy", ""),
        ("bn_recalibration", "batchs", "batches"),
    ],
)
def test_a_misspelt_option_gets_a_suggestion(method, option, meant):
    with pytest.raises(
        OptionError,
        match=f"has no option {option!r}" + (f"; did you mean {meant!r}" if meant else ""),
    ):
        methods.named(method, **{option: 1})


# ---- interpolation


def test_equally_good_steps_away_from_the_original_end_at_the_smallest(
    classifier, data, runtime, monkeypatch
):
    monkeypatch.setattr("timm_repair.training.interpolation.objective", lambda *_: 0.5)
    part = classifier.layer1
    original = {name: tensor.clone() for name, tensor in part.state_dict().items()}
    with torch.no_grad():
        for parameter in part.parameters():
            parameter.add_(0.1)
    assert interpolate(Job(classifier, data, PLAIN, runtime), part, original) == 0
    assert all(torch.equal(part.state_dict()[name], tensor) for name, tensor in original.items())
