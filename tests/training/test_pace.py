"""A budget in seconds: when a loop ends, where its schedule is, what a resumed one has left."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from training.batching import PLAIN

from timm_repair.errors import OptionError
from timm_repair.methods import named
from timm_repair.methods.apricot import AdjustingDescent
from timm_repair.methods.auto_rgn import RelativeDescent
from timm_repair.runtime.journal import Journal
from timm_repair.training import pace as module
from timm_repair.training.descent import Descent
from timm_repair.training.loop import Monitor, fit
from timm_repair.training.pace import Pace

TRAINING = replace(PLAIN, steps=100, seconds=50.0, warmup=0.0, learning_rate=0.2)


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    """One number, the time."""
    now = [0.0]
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    return now


def test_a_loop_has_its_share_of_the_time(runtime):
    assert Pace(TRAINING, 20, runtime.accelerator).seconds == 10
    assert TRAINING.within(20).seconds == 10 and TRAINING.within(20).steps == 20
    assert replace(TRAINING, seconds=None).within(20).seconds is None
    assert Pace(replace(TRAINING, seconds=None), 20, runtime.accelerator).seconds is None


def test_the_schedule_follows_the_clock_where_steps_are_slow(runtime, clock):
    weight, pace = nn.Parameter(torch.ones(2, 2)), Pace(TRAINING, 100, runtime.accelerator)
    descent, rates = Descent([weight], TRAINING, runtime, pace=pace), []
    pace.begin()
    for _ in range(4):
        rates.append(descent.learning_rate)
        descent.step(weight.sum())
        clock[0] += 12.5
        pace.tick()
    by_steps = Descent([weight], replace(TRAINING, seconds=None), runtime)
    for at, rate in zip((0, 25, 50, 75), rates, strict=True):
        by_steps.done = at
        assert rate == pytest.approx(by_steps.learning_rate)
    assert pace.over


def test_the_schedule_follows_the_steps_where_they_are_fast(runtime, clock):
    weight, pace = nn.Parameter(torch.ones(2, 2)), Pace(TRAINING, 100, runtime.accelerator)
    timed = Descent([weight], TRAINING, runtime, pace=pace)
    plain = Descent([weight], replace(TRAINING, seconds=None), runtime)
    pace.begin()
    for _ in range(100):
        assert timed.learning_rate == plain.learning_rate
        for each in (timed, plain):
            each.step(weight.sum())
        clock[0] += 0.25
        pace.tick()
    assert not pace.over


def test_measured_as_often_as_without_a_clock(runtime, clock):
    """Of 12 steps that are to be measured four times four fit into the time."""
    measured = []
    monitor = Monitor(nn.Linear(1, 1), lambda: measured.append(clock[0]) or 0.0, 12, 4)

    def step(_: int) -> dict:
        clock[0] += 3.0
        return {"loss": 1.0}

    pace = Pace(replace(PLAIN, steps=12, seconds=12.0), 12, runtime.accelerator)
    history = fit(step, pace=pace, stage="x", runtime=runtime, monitor=monitor)
    assert len(history) == 4 and measured == [0.0, 3.0, 6.0, 9.0, 12.0]
    assert runtime.shortened == {"x": (4, 12)}


def test_what_was_spent_before_it_was_killed_counts(runtime, clock):
    first = Pace(TRAINING, 100, runtime.accelerator)
    first.begin()
    clock[0] = 30.0
    first.tick()
    clock[0] = 1000.0  # the time of another day
    second = Pace(TRAINING, 100, runtime.accelerator)
    second.load_state_dict(first.state_dict())
    second.begin()
    clock[0] += 19.0
    second.tick()
    assert not second.over and second.reached(0) == 98
    clock[0] += 1.0
    second.tick()
    assert second.over


@pytest.mark.parametrize("seconds", [0.0, -1.0])
def test_no_time_at_all_is_refused(seconds):
    with pytest.raises(OptionError, match="seconds must be positive"):
        replace(PLAIN, seconds=seconds)


def test_checkpoints_follow_the_clock(runtime, clock, tmp_path):
    """Of 400 steps eight fit into the time: whoever is killed after some of them has them."""
    journal = Journal(tmp_path, {}, runtime.accelerator)
    runtime.keep(journal)
    kept, checkpoint = [], journal.checkpoint
    journal.checkpoint = lambda name, state: (kept.append(len(state["history"])),
                                              checkpoint(name, state))  # fmt: skip

    def step(_: int) -> dict:
        clock[0] += 1.0
        return {"loss": 1.0}

    pace = Pace(replace(PLAIN, steps=400, seconds=8.0), 400, runtime.accelerator)
    fit(step, pace=pace, stage="x", runtime=runtime, state={"nothing": nn.Linear(1, 1)})
    assert kept == list(range(1, 9))


def test_a_loop_of_an_older_version_starts_anew(runtime, tmp_path):
    journal = Journal(tmp_path, {}, runtime.accelerator)
    runtime.keep(journal)
    part = nn.Linear(1, 1)
    row = {"stage": "x", "step": 0, "loss": 1.0}
    old = {"history": [row], "ended": False, "parts": {"part": part.state_dict()}}
    runtime.checkpoint("x", old)  # its checkpoints had no clock
    steps = []
    pace = Pace(replace(PLAIN, steps=3), 3, runtime.accelerator)
    fit(
        lambda i: steps.append(i) or {"loss": 1.0},
        pace=pace,
        stage="x",
        runtime=runtime,
        state={"part": part},
    )
    assert steps == [0, 1, 2]


@pytest.mark.parametrize("seconds", [None, 40.0, 20.0, 10.0])
def test_apricot_adjusts_as_often_where_the_clock_leads(seconds, runtime, clock, monkeypatch):
    training = replace(PLAIN, steps=40, seconds=seconds)
    weight, pace = nn.Parameter(torch.ones(2)), Pace(training, 40, runtime.accelerator)
    job = SimpleNamespace(forward=lambda: None)
    descent = AdjustingDescent(
        [weight], training, runtime, pace=pace, job=job, options=named("apricot"), guides=None
    )
    made = []
    monkeypatch.setattr(descent, "adjust", lambda: made.append(descent.done))
    pace.begin()
    for _ in range(40 if seconds is None else int(seconds)):
        descent.step(weight.sum())
        clock[0] += 1.0
        pace.tick()
    due = descent.options.adjustments
    assert due - 1 <= len(made) <= due, made  # the last is due when all is over


@pytest.mark.parametrize("seconds", [40.0, 10.0, 5.0])
def test_auto_rgn_measures_and_trains_where_the_clock_leads(seconds, runtime, clock):
    training = replace(PLAIN, steps=100, seconds=seconds, warmup=0.0, learning_rate=0.1)
    weight, pace = nn.Parameter(torch.ones(2, 2)), Pace(training, 100, runtime.accelerator)
    options = named("auto_rgn", rounds=5, batches=5)
    descent = RelativeDescent([weight], training, runtime, pace=pace, options=options, still=set())
    rates = []
    pace.begin()
    for _ in range(int(seconds)):
        rates.append(descent.step(weight.square().sum())["lr"])
        clock[0] += 1.0
        pace.tick()
    trained = sum(rate > 0 for rate in rates)
    assert trained >= len(rates) // 2
    assert descent.round == 4, "all rounds"
    assert rates[0] == 0, "nothing was measured yet"
