"""What a model costs: incidental, so that nothing is lost where it cannot be measured; and two
models' latencies, in turns.
"""

import planted
import pytest
import torch
from cases import GENTLE
from torch import nn

from timm_repair import repair
from timm_repair.pipeline import measuring
from timm_repair.report.tables import cost_rows
from timm_repair.runtime import timing

TUNE = {"method": "finetune", "progress": False, "diagnose": False, **GENTLE, "steps": 2}


class Refusing(nn.Module):
    """Passes what it is given, but for a single image, which raises."""

    def forward(self, x):
        if len(x) == 1:
            raise KeyError("one image alone")
        return x


def test_costs_that_cannot_be_counted_are_unknown(deployed, failures, pictures, monkeypatch):
    def asserts(*_, **__):
        raise AssertionError("mask of the wrong shape")

    monkeypatch.setattr(measuring.FlopCounterMode, "__enter__", asserts)
    report = repair(deployed, failures, holdout=pictures["unseen"], **TUNE).report
    assert report.cost["before"]["flops"] is None is report.cost["after"]["flops"]
    assert report.cost["before"]["parameters"] > 0 < report.cost["after"]["latency_ms"]
    notes = [note for note in report.notes if "FLOPs per image: unknown" in note]
    assert len(notes) == 1 and "AssertionError: mask of the wrong shape" in notes[0]
    assert "FLOPs" not in str(report).split("Cost of the model")[1].split("Cost of the repair")[0]


def test_a_latency_that_cannot_be_measured_is_unknown(data, runtime):
    model = nn.Sequential(Refusing(), planted.network())
    assert measuring.cost(model, data, runtime)[0]["flops"] is None
    found, notes = measuring.latency(model, model, data, runtime)
    assert found == {} and "latency: unknown" in notes[0] and "KeyError" in notes[0]


def test_latencies_are_measured_in_turns_and_have_a_range(data, runtime, monkeypatch):
    before, after = planted.network(), nn.Sequential(planted.network())
    asked, clock = [], iter(range(10**6))
    monkeypatch.setattr(timing, "perf_counter", lambda: 0.0)  # as many pairs as there may be
    for model in (before, after):
        model.register_forward_pre_hook(
            lambda model, given: asked.append((model, given[0].shape, model.training))
        )

    def timed(compute, ready):
        compute()
        return (1.0 if asked[-1][0] is before else 1.5) * (1 + next(clock) % 2)

    monkeypatch.setattr(timing, "_timed", timed)
    found, notes = measuring.latency(before, after, data, runtime)
    assert {(shape, training) for _, shape, training in asked} == {((1, 1, 32, 32), False)}
    models = [model for model, _, _ in asked]
    pairs = [models[i : i + 2] for i in range(2, len(models), 2)]
    assert all({id(m) for m in pair} == {id(before), id(after)} for pair in pairs)
    assert {id(pair[0]) for pair in pairs} == {id(before), id(after)}, "neither is always first"
    assert notes == () and len(pairs) == 31
    low, high = found["change"]["latency_range"]
    assert low <= found["change"]["latency"] <= high and low < high
    assert found["before"]["latency_range_ms"] == pytest.approx([1000, 2000])


def test_the_same_architecture_takes_as_long(data, runtime):
    found, _ = measuring.latency(planted.network(), planted.network(), data, runtime)
    assert found["before"] == found["after"] and found["before"]["latency_ms"] > 0
    assert found["change"] == {"latency": 0.0, "latency_range": [0.0, 0.0]}
    assert cost_rows(found)[-1][-1] == "none"


def test_a_slow_model_is_timed_a_few_times_only(data, runtime, monkeypatch):
    clock = iter(range(10**6))
    monkeypatch.setattr(timing, "perf_counter", lambda: 5.0 * next(clock))
    count, model = [], planted.network()
    model.register_forward_pre_hook(lambda *_: count.append(1))
    measuring.latency(model, model, data, runtime)
    assert len(count) == 2 + 2 * 5


def test_the_modes_of_both_models_come_back(data, runtime):
    before, after = planted.network(), planted.network().train()
    before.layer1.train()
    measuring.latency(before, after, data, runtime)
    assert after.training and before.layer1.training and not before.layer2.training
    assert torch.is_grad_enabled()
