"""fit(), the only loop.

It repeats a step that it is given. A step draws a batch, computes a loss and hands it to a
`Descent`; a method differs in what its step does and in which parameters its `Descent` holds. A
`Monitor` keeps the best state by the selection split, the start included.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

from torch import nn

from timm_repair.errors import NonFiniteError, OptionError
from timm_repair.models.weights import snapshot
from timm_repair.runtime.journal import CHECKPOINTS
from timm_repair.runtime.runtime import Runtime
from timm_repair.training.batch_sizes import REMEDY
from timm_repair.training.history import Row
from timm_repair.training.pace import Pace


class Resumable(Protocol):
    """Something whose state a checkpoint holds."""

    def state_dict(self) -> dict: ...

    def load_state_dict(self, state: dict, /) -> object: ...


class Monitor:
    """Keeps the best state of `part` by `objective()` (higher is better), measured at the start and
    then `evaluations` times.
    """

    def __init__(
        self,
        part: nn.Module,
        objective: Callable[[], float],
        steps: int,
        evaluations: int,
        patience: int | None = None,
    ):
        self.part, self.objective, self.patience, self.stale = part, objective, patience, 0
        self.every, self.at, self.best_after = max(math.ceil(steps / evaluations), 1), 0, 0
        self.steps, self.best, self.state = steps, -math.inf, None
        self.check(0, 0)

    def check(self, at: int, made: int) -> float | None:
        """Measure if it is time to; remember the state if it is better than all before.

        Args:
            at: where in its schedule the loop is, in steps.
            made: how many of them were made.
        """
        due = not at or at == self.steps or at // self.every > self.at // self.every
        self.at = at
        if not due:
            return None
        value = self.objective()
        self.stale = 0 if value > self.best else self.stale + 1
        if value > self.best:
            self.best, self.state, self.best_after = value, snapshot(self.part), made
        return value

    def state_dict(self) -> dict:
        """The best so far, for `load_state_dict`."""
        own = {"best": self.best, "state": self.state, "stale": self.stale}
        return own | {"at": self.at, "best after": self.best_after}

    def load_state_dict(self, state: Mapping) -> None:
        """Go on from there."""
        self.best, self.state, self.stale = state["best"], state["state"], state["stale"]
        self.at, self.best_after = state["at"], state["best after"]

    def restore(self) -> float:
        """Bring the best state back; returns its objective."""
        assert self.state is not None, "something was measured"
        self.part.load_state_dict(self.state)
        return self.best


def fit(
    step: Callable[[int], Row],
    *,
    pace: Pace,
    stage: str,
    runtime: Runtime,
    monitor: Monitor | None = None,
    state: Mapping[str, Resumable] | None = None,
    enough: Callable[[], bool] = lambda: False,
) -> list[Row]:
    """The loop: `step(i)` for i in 0 … steps-1, with a progress bar; returns the history, one row a
    step.

    Args:
        pace: how many steps, and when their time is up.
        state: all that `step` changes. With it, and with a journal, the loop starts where an
            earlier run of the same was killed.
        enough: asked after each step; the loop ends there, and the monitor measures, if it is.

    Raises:
        NonFiniteError: the loss became NaN or infinite.
        OutputError: a checkpoint cannot be written.
    """
    state = (
        (dict(state) | {"pace": pace} | ({"monitor": monitor} if monitor else {}))
        if state and runtime.journal
        else None
    )
    history, ended = _resumed(stage, state, runtime)
    runtime.skip_logged(len(history))
    steps, every, at = pace.steps, math.ceil(pace.steps / CHECKPOINTS), len(history)
    pace.begin()
    with runtime.bar(steps, stage) as bar:
        bar.update(len(history))
        for i in range(len(history), 0 if ended else steps):
            with _enough_to_normalize():
                row: Row = {"stage": stage, "step": i, **step(i)}
            if not math.isfinite(row["loss"]):
                raise NonFiniteError(
                    f"the loss became {row['loss']} at step {i} of {stage}: lower learning_rate"
                )
            pace.tick()
            last = i + 1 == steps or pace.over or enough()
            before, at = at, steps if last else pace.reached(i + 1)
            if monitor and (value := monitor.check(at, i + 1)) is not None:
                row["objective"] = value
            history.append(row)
            runtime.log(row)
            bar.tell(loss=f"{row['loss']:.3f}")
            bar.update()
            ended = last or bool(
                monitor and monitor.patience is not None and monitor.stale >= monitor.patience
            )
            due = ended or at // every > before // every
            if state is not None and runtime.journal is not None and due:
                parts = {name: part.state_dict() for name, part in state.items()}
                runtime.checkpoint(stage, {"history": history, "ended": ended, "parts": parts})
            if ended:
                break
    if pace.over and len(history) < steps:
        runtime.shortened[stage] = len(history), steps
    return history


@contextmanager
def _enough_to_normalize() -> Iterator[None]:
    """A batch norm that was added, or met on the way, raises where a batch holds one number a
    channel.
    """
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise OptionError(f"{error}: {REMEDY}") from error


def _resumed(
    stage: str, state: Mapping[str, Resumable] | None, runtime: Runtime
) -> tuple[list[Row], bool]:
    """History of a loop that was begun in an earlier run, whether it had ended, and everything in
    `state` as it was then.
    """
    if state is None or runtime.journal is None or (kept := runtime.journal.state(stage)) is None:
        return [], False
    if state.keys() - kept["parts"].keys():
        return [], False  # written before there was one of these: the loop starts anew
    for name, part in state.items():
        part.load_state_dict(kept["parts"][name])
    return list(kept["history"]), kept["ended"]
