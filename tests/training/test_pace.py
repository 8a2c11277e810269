"""A budget in seconds: when a loop ends, where its schedule is, what a resumed one has left."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from training.batching import PLAIN

from timm_repair.errors import OptionError
from timm_repair.training import pace as module
from timm_repair.training.descent import Descent
from timm_repair.training.loop import Monitor, fit
from timm_repair.training.pace import Pace

TRAINING = replace(PLAIN, steps=100, seconds=50.0, warmup=0.0, learning_rate=0.2)


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    """One number, the time."""
    now = [0.0]
    monkeypatch.setattr(module.time, "perf_counter", lambda: now[0])
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
    assert pace.over and pace.told(4)[0].startswith("the time was up (50 s) after 4 of 100 steps")


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
    assert not pace.over and not pace.told(100)


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
