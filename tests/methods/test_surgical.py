"""Surgical fine-tuning and Auto-RGN: what is trained is what the data ask for, within one budget."""

from dataclasses import replace

import planted
import pytest
import torch
from cases import BUDGET
from making import keep_the_last, quiet
from torch import nn

from timm_repair.errors import OptionError, PartitionError
from timm_repair.methods import named
from timm_repair.methods.auto_rgn import AutoRgn, RelativeDescent, evidence, relative_norm
from timm_repair.training import trials
from timm_repair.training.options import Training

MORE = BUDGET | {"steps": 40, "batch_size": 32}


def test_every_part_is_tried_within_the_budget(classifier, data):
    outcome = named("surgical", **MORE).repair(classifier, data, quiet())
    stages = [row["stage"] for row in outcome.history]
    tried = list(dict.fromkeys(stages))
    assert len(stages) == 40 and tried[:6] == [
        f"try {name} x1"
        for name in ("conv1+bn1+layer1", "layer2", "layer3", "layer4", "fc", "network")
    ]
    best = tried[6].removeprefix("try ").removesuffix(" x0.1")
    assert tried[6:] == [f"try {best} x0.1", "finetune"]
    assert all(stages.count(name) == 2 for name in tried[:-1]), "20 steps in 7 equal parts"
    assert outcome.notes[0].startswith(best)


@pytest.mark.parametrize("best", ["layer2", "network"])
def test_what_is_best_in_its_trial_is_repaired(best, classifier, data, monkeypatch):
    """By a planted answer of the selection split: the trial that has moved that part."""
    keep_the_last(monkeypatch)
    before = {name: t.clone() for name, t in classifier.state_dict().items()}

    def preferring(forward, *_):
        state = forward.model.state_dict()
        moved = {n.partition(".")[0] for n, t in state.items() if not torch.equal(t, before[n])}
        return float(moved == {"layer2"} if best == "layer2" else len(moved) > 3)

    monkeypatch.setattr(trials, "objective", preferring)
    options = {"rates": (0.5, 1.0, 2.0)} | MORE
    outcome = named("surgical", **options).repair(classifier, data, quiet())
    assert [b.name for b in outcome.repaired] == ([] if best == "network" else [best])
    assert f"{best} was best in 8 trials of 2 steps, at 0.5 times" in outcome.notes[0]
    state = classifier.state_dict()
    moved = {n.partition(".")[0] for n, t in state.items() if not torch.equal(t, before[n])}
    assert moved == {"layer2"} if best == "layer2" else len(moved) > 3


def test_a_trial_leaves_no_trace(classifier, data):
    before = {name: t.clone() for name, t in classifier.state_dict().items()}
    outcome = named("surgical", candidates=["layer3"], rates=[1.0], **MORE).repair(
        classifier, data, quiet()
    )
    state = classifier.state_dict()
    assert all(torch.equal(t, before[n]) for n, t in state.items() if not n.startswith("layer3"))
    assert (planted.margins(outcome.model, planted.pictures(20)) > 0).all(), "and it is repaired"


def test_surgical_refuses(classifier, data):
    with pytest.raises(OptionError, match="7 trials need more than steps=6: give at least 15"):
        named("surgical", **BUDGET).repair(classifier, data, quiet())
    with pytest.raises(PartitionError, match="no block 'layer9'"):
        named("surgical", candidates=("layer9",), **BUDGET).repair(classifier, data, quiet())
    for options in (
        {"rates": ()},
        {"rates": (0,)},
        {"trial_share": 1.0},
        {"granularity": "stages"},
    ):
        with pytest.raises(OptionError):
            named("surgical", **options)


# ---- auto_rgn


def test_the_criteria_by_hand():
    gradient, parameter = torch.tensor([[3.0, 0.0], [4.0, 0.0]]), torch.tensor([[1.0, 2.0], [2, 0]])
    assert relative_norm(gradient, parameter) == pytest.approx(5 / 3)
    assert relative_norm(gradient, torch.zeros(2, 2)) == 0
    # variances along the first dimension: 0.5 and 0
    assert evidence(gradient, parameter) == pytest.approx((9 / 0.5 + 16 / 0.5) / 4, rel=1e-6)
    assert evidence(torch.tensor(2.0), parameter) == 0


def test_rates_are_proportional_to_what_was_measured():
    """Three scalars with constant gradients 1, 2, 4: the first step of Adam is its rate."""
    sizes = (1.0, 4.0, 2.0)
    parameters = [nn.Parameter(torch.full((1,), size)) for size in sizes]
    norm = nn.Parameter(torch.ones(1))
    options = AutoRgn(rate=0.1, rounds=2, batches=2, training=Training(steps=8, weight_decay=0.0))
    training = replace(options.training, learning_rate=options.rate, warmup=0.0, clip=100.0)
    descent = RelativeDescent(
        [*parameters, norm], training, quiet(), options=options, still={id(norm)}
    )

    def step():
        losses = [
            (g * p).sum() for g, p in zip((1.0, 2.0, 4.0, 9.0), (*parameters, norm), strict=True)
        ]
        return descent.step(*losses)

    assert [step()["lr"] for _ in range(2)] == [0.0, 0.0]
    assert [p.item() for p in parameters] == list(sizes), "nothing moved"
    assert descent.factors.tolist() == pytest.approx([0.5, 0.25, 1.0, 0.0])  # 1/1, 2/4, 4/2 of 2
    rate = step()["lr"]
    moved = [size - p.item() for size, p in zip(sizes, parameters, strict=True)]
    assert moved == pytest.approx([0.5 * rate, 0.25 * rate, rate], rel=1e-4) and norm.item() == 1
    step()
    adam = descent.optimizer
    assert step()["lr"] == 0.0 and descent.optimizer is not adam, "a new round, a new Adam"


def test_tensors_without_evidence_are_not_trained():
    parameters = [nn.Parameter(torch.zeros(2, 1)), nn.Parameter(torch.zeros(2, 1))]
    options = AutoRgn(criterion="eb", rounds=1, batches=1, training=Training(steps=4))
    descent = RelativeDescent(parameters, options.training, quiet(), options=options, still=set())
    agreeing, opposed = torch.tensor([[1.0], [1.0]]), torch.tensor([[1.0], [-1.0]])
    for _ in range(2):
        descent.step((agreeing * parameters[0]).sum(), (opposed * parameters[1]).sum())
    assert descent.factors.tolist() == [1.0, 0.0]  # of the other 1 / 2 is below 0.95
    assert parameters[0].all() and not parameters[1].any()


def test_batch_norms_do_not_move_and_the_fault_is_mended(classifier, data):
    norms = {
        f"{path}.{name}": p.detach().clone()
        for path, module in classifier.named_modules()
        if isinstance(module, nn.BatchNorm2d)
        for name, p in module.named_parameters()
    }
    options = MORE | {"rounds": 2, "rate": 3e-3}
    outcome = named("auto_rgn", **options).repair(classifier, data, quiet())
    weights = dict(classifier.named_parameters())
    assert norms and all(torch.equal(weights[name], value) for name, value in norms.items())
    assert [row["lr"] for row in outcome.history].count(0.0) == 10 and len(outcome.history) == 40
    assert (planted.margins(classifier, planted.pictures(20)) > 0).all()
    with pytest.raises(OptionError, match="at least 2"):
        named("auto_rgn", steps=1)
