"""Progress: how far a run is, as bars and as records of the log.

Who wants to show it in a way of their own listens to the logger "timm_repair.progress". A record
has the attribute `stage`, when a stage begins (DEBUG) and ends (INFO), or `bar`, at each of its
steps (DEBUG).
"""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

from tqdm.auto import tqdm

logger = logging.getLogger("timm_repair.progress")


@dataclass(frozen=True)
class StageTold:
    """A stage that begins, or ends after `seconds`; `failed` if an error ended it."""

    name: str
    seconds: float | None = None
    failed: bool = False


class Bar:
    """Counts the steps of a loop; `with Bar(n, "search") as bar: bar.update()`.

    Args:
        total: steps.
        description: of what.
        hidden: show none on standard error; `silent` logs nothing either.
    """

    def __init__(self, total: int, description: str, *, hidden: bool, silent: bool = False):
        self.total, self.description, self.done = total, description, 0
        self.values: dict[str, Any] = {}
        self.ended, self.silent = False, silent
        self._shown = tqdm(
            total=total, desc=description, disable=hidden, leave=True, dynamic_ncols=True
        )

    def __enter__(self) -> Self:
        self._tell()
        return self

    def __exit__(self, *_: object) -> None:
        self._shown.close()
        self.ended = True
        self._tell()

    def update(self, steps: int = 1) -> None:
        """So many more are done."""
        self.done += steps
        self._shown.update(steps)
        self._tell()

    def tell(self, **values: str) -> None:
        """What to show beside it from the next step on: loss="0.31"."""
        self.values = values
        self._shown.set_postfix(values, refresh=False)

    def _tell(self) -> None:
        if not self.silent and logger.isEnabledFor(logging.DEBUG):
            done = (self.description, self.done, self.total)
            logger.debug("%s: %d of %d", *done, extra={"bar": self})


@contextmanager
def stage_told(name: str) -> Iterator[None]:
    """Tell that a stage begins, and how it ends."""
    logger.debug("%s begins", name, extra={"stage": StageTold(name)})
    begun, failed = time.perf_counter(), True
    try:
        yield
        failed = False
    finally:
        told = StageTold(name, time.perf_counter() - begun, failed)
        how = "failed after " if failed else ""
        logger.info("%s: %s%.1f s", name, how, told.seconds, extra={"stage": told})
