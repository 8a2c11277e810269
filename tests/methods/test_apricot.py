"""Apricot: the adjustment against the formula, taken one failure at a time; both signs."""

import planted
import pytest
import torch
from cases import BUDGET
from making import quiet
from torch import nn

from timm_repair.errors import OptionError
from timm_repair.methods import apricot, named
from timm_repair.methods.apricot import Apricot, Guides

RIGHT = torch.tensor([[1, 0, 1, 0], [1, 1, 0, 0], [0, 1, 1, 0]]).bool()  # models x failures


def slowly(start: torch.Tensor, others: list[torch.Tensor], options: Apricot) -> torch.Tensor:
    """θ ← θ ± η [p_C (m_C - θ) - p_W (m_W - θ)] for one failure after the other."""
    theta, sign = start.clone(), 1 if options.sign == "towards" else -1
    for column in RIGHT.T:
        right = [w for w, r in zip(others, column, strict=True) if r]
        wrong = [w for w, r in zip(others, column, strict=True) if not r]
        if not right or not wrong:
            continue
        step = torch.zeros_like(theta)
        if options.strategy in ("both", "corr"):
            step += len(right) / len(others) * (torch.stack(right).mean(0) - theta)
        if options.strategy in ("both", "incorr"):
            step -= len(wrong) / len(others) * (torch.stack(wrong).mean(0) - theta)
        theta = theta + sign * options.step_size * step
    return theta


@pytest.mark.parametrize("sign", apricot.SIGNS)
@pytest.mark.parametrize("strategy", apricot.STRATEGIES)
def test_the_adjustment_is_the_formula(sign, strategy):
    model = nn.Linear(3, 2).double()
    options = Apricot(step_size=0.1, sign=sign, strategy=strategy)
    states = [{n: torch.randn_like(p) for n, p in model.named_parameters()} for _ in RIGHT]
    expected = {
        n: slowly(p.detach(), [s[n] for s in states], options) for n, p in model.named_parameters()
    }
    before = model.weight.detach().clone()
    assert Guides(states, RIGHT).adjust(model, torch.arange(4), options)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.detach(), expected[name])
    assert not torch.equal(model.weight, before)
    assert not Guides(states, RIGHT).adjust(model, torch.tensor([3]), options), "all are wrong"


def test_towards_goes_to_who_is_right_and_away_does_not():
    model, right, wrong = nn.Linear(1, 1, bias=False), torch.ones(1, 1), -torch.ones(1, 1)
    guides = Guides([{"weight": right}, {"weight": wrong}], torch.tensor([[True], [False]]))
    for sign, expected in (("towards", 0.1), ("away", -0.1)):
        nn.init.zeros_(model.weight)
        guides.adjust(model, torch.tensor([0]), Apricot(step_size=0.1, sign=sign))
        assert model.weight.item() == pytest.approx(expected)


def test_each_reduced_model_sees_its_part(classifier, data):
    labels = data.retained.labels
    rows = [apricot._part_of_each_class(labels, 0.2, quiet(), f"{i}") for i in range(2)]
    for chosen in rows:
        counts = labels[chosen].bincount(minlength=10)
        assert counts.tolist() == (0.2 * labels.bincount(minlength=10)).round().int().tolist()
    assert not torch.equal(*rows)


@pytest.mark.parametrize("sign", apricot.SIGNS)
def test_the_fault_is_mended_within_the_budget(sign, classifier, data):
    options = BUDGET | {"steps": 60, "batch_size": 32, "evaluations": 2}
    method = named("apricot", sign=sign, reduced=3, adjustments=3, step_size=0.01, **options)
    outcome = method.repair(classifier, data, quiet())
    stages = [row["stage"] for row in outcome.history]
    assert {name: stages.count(name) for name in stages} == {
        "reduced 0": 10, "reduced 1": 10, "reduced 2": 10, "finetune": 30,
    }  # fmt: skip
    assert "reduced models" in outcome.notes[0]
    assert (planted.margins(classifier, planted.pictures(40)) > 0).all()


def test_an_adjustment_that_is_not_better_is_taken_back(classifier, data, monkeypatch):
    """By a planted answer of the selection split: always worse than before."""
    falling = iter(range(0, -1000, -1))
    monkeypatch.setattr(apricot, "objective", lambda *_: float(next(falling)))
    seen = []
    adjust = Guides.adjust

    def watched(self, model, failures, options):
        seen.append({n: p.detach().clone() for n, p in model.named_parameters()})
        done = adjust(self, model, failures, options)
        assert not done or any(not torch.equal(p, seen[-1][n]) for n, p in model.named_parameters())
        return done

    monkeypatch.setattr(Guides, "adjust", watched)
    after = apricot.AdjustingDescent.adjust

    def checked(self):
        after(self)
        for name, parameter in self.job.model.named_parameters():
            assert torch.equal(parameter, seen[-1][name])

    monkeypatch.setattr(apricot.AdjustingDescent, "adjust", checked)
    options = {"reduced": 2, "adjustments": 2, "step_size": 0.5} | BUDGET | {"steps": 12}
    named("apricot", **options).repair(classifier, data, quiet())
    assert len(seen) == 2


@pytest.mark.parametrize("steps", [12, 24, 31, 38, 40])
def test_as_many_adjustments_as_were_asked_for(steps, classifier, data, monkeypatch):
    done = []
    monkeypatch.setattr(apricot.AdjustingDescent, "adjust", lambda self: done.append(self.done))
    options = BUDGET | {"steps": steps, "reduced": 2, "adjustments": 5, "reduced_share": 0.5}
    named("apricot", **options).repair(classifier, data, quiet())
    assert len(done) == 5


def test_what_is_refused():
    for options, message in (
        ({"steps": 6}, "5 reduced models need more than steps=6: give at least 11"),
        ({"sign": "toward"}, "did you mean 'towards'"),
        ({"strategy": "none"}, "unknown strategy"),
        ({"subset": 0.0}, "subset"),
    ):
        with pytest.raises(OptionError, match=message):
            named("apricot", **options)
