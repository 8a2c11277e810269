"""Pace: how much of a loop's time is over, where a budget is given in seconds."""

import time
from collections.abc import Mapping

from accelerate import Accelerator

from timm_repair.runtime.processes import agreed
from timm_repair.training.options import Training


class Pace:
    """The clock of one loop: it ends when its steps are done, or when its share of
    `Training.seconds` is over, and schedules follow what is further. The clock is that of the main
    process.

    Args:
        training: whose steps and seconds are those of the whole repair.
        steps: of this loop, which has as large a share of the seconds as of the steps.
    """

    def __init__(self, training: Training, steps: int, accelerator: Accelerator):
        self.steps, self.accelerator, self.spent = steps, accelerator, 0.0
        self.seconds = training.seconds_of(steps)
        self._begun = time.perf_counter()

    def begin(self) -> None:
        """The loop starts now, or goes on."""
        self._begun = time.perf_counter() - self.spent

    def tick(self) -> None:
        """A step is done."""
        if self.seconds is not None:
            self.spent = agreed(time.perf_counter() - self._begun, self.accelerator)

    @property
    def share(self) -> float:
        """Of the seconds that are over, from 0 to 1; 0 where none are given."""
        return 0.0 if self.seconds is None else min(self.spent / self.seconds, 1.0)

    @property
    def over(self) -> bool:
        return self.share >= 1

    def reached(self, done: int) -> int:
        """Where in its schedule the loop is after `done` of its steps."""
        return max(done, int(self.share * self.steps))

    def state_dict(self) -> dict:
        """What is spent, for `load_state_dict`."""
        return {"spent": self.spent}

    def load_state_dict(self, state: Mapping) -> None:
        """Go on from there."""
        self.spent = state["spent"]
