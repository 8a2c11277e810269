"""The controls: they do what they say, and no more; where chance is enough, it is found."""

import planted
import pytest
import torch
from making import quiet, repair_data
from torch import nn

import timm_repair
from timm_repair.errors import NoEffectWarning, OptionError
from timm_repair.methods.random_weights import RandomWeights, fitness
from timm_repair.training.job import Job
from timm_repair.training.options import Training


def plain() -> nn.Module:
    """Without norms: it takes the two classes for each other, and has 32 weights."""
    model = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(16, 2)).eval()
    patterns = torch.from_numpy(planted.PATTERNS[:2].reshape(2, 16) - 128).float() / 90
    with torch.no_grad():
        model[2].weight.copy_(-patterns / 16)
        model[2].bias.zero_()
    model.num_classes = 2
    model.pretrained_cfg = {
        "input_size": (1, 32, 32),
        "mean": (0.5,),
        "std": (0.25,),
        "crop_pct": 1.0,
    }
    return model


def test_nothing_is_nothing(classifier, failures, pictures):
    with pytest.warns(NoEffectWarning):
        repaired = timm_repair.repair(
            classifier,
            failures,
            retain=pictures["train"],
            method="noop",
            progress=False,
            diagnose=False,
        )
    before = classifier.state_dict()
    assert all(torch.equal(p, before[n]) for n, p in repaired.model.state_dict().items())
    assert repaired.report.population("failing").fixed == 0 and repaired.report.history == ()


def test_a_random_block_is_fine_tuned_and_every_block_may_be_drawn(deployed, data):
    drawn, options = set(), {"steps": 2, "batch_size": 8, "evaluations": 1}
    for seed in range(20):
        target = timm_repair.methods.named("random_block", **options)._target()
        _, (block,), _ = target.choose(deployed, data, Training(), quiet(seed=seed))
        drawn.add(block.name)
    assert drawn == {"layer1", "layer2", "layer3", "layer4"}


def test_a_random_block_is_finetuned_as_a_named_one(classifier, failures, pictures):
    given = {"retain": pictures["train"], "progress": False, "diagnose": False}
    given |= {"steps": 40, "batch_size": 32, "evaluations": 2, "hflip": 0.0, "shift": 0.0}
    drawn = timm_repair.repair(classifier, failures, method="random_block", **given).report
    named = {"method": "finetune", "level": "block", "block": drawn.block}
    assert (
        timm_repair.repair(classifier, failures, **named, **given).report.weights == drawn.weights
    )
    failing = drawn.population("failing")
    assert failing.fixed == failing.n, "two classes exchanged: any block will do"


def test_the_fitness_by_hand():
    """Of one example that is right 1, of one that is wrong 1 / (loss + 1)."""
    model = plain()
    pairs = planted.pictures(4, classes=2)
    right = [(image, 1 - label) for image, label in pairs[:1]]
    data, runtime = repair_data(model, pairs, right), quiet()
    losses = nn.functional.cross_entropy(
        model(planted.inputs(model, pairs)), torch.tensor([0, 1, 0, 1]), reduction="none"
    )
    job = Job(model, data, Training(), runtime)
    found = fitness(job, [(data.failing, 10.0), (data.retained, 1.0)])
    assert found == pytest.approx(1 + 10 * (1 / (losses + 1)).sum().item(), rel=1e-5)


def test_random_values_mend_what_a_quarter_of_all_values_would(monkeypatch):
    model = plain()
    wrong = planted.pictures(60, classes=2)
    assert (planted.margins(model, wrong) < 0).all()
    options = {"weights": 99, "candidates": 10, "steps": 6, "evaluations": 2}
    repaired = timm_repair.repair(
        model, wrong, method="random_weights", progress=False, diagnose=False, **options
    )
    failing = repaired.report.population("failing")
    assert failing.fixed == failing.n
    assert "32 of 32 weights" in repaired.report.notes[0]


def test_no_more_weights_change_than_were_drawn(classifier, failures, pictures):
    repaired = timm_repair.repair(
        classifier,
        failures,
        retain=pictures["train"][:100],
        method="random_weights",
        weights=7,
        candidates=4,
        examples=40,
        steps=4,
        evaluations=1,
        progress=False,
        diagnose=False,
    )
    before = classifier.state_dict()
    changed = {n: int((p != before[n]).sum()) for n, p in repaired.model.state_dict().items()}
    assert 0 < sum(changed.values()) <= 7


def test_what_is_refused():
    with pytest.raises(OptionError, match="at least 1"):
        RandomWeights(weights=0)
    with pytest.raises(OptionError, match="no option 'block'"):
        timm_repair.methods.named("random_block", block="layer1")
