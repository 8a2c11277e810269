"""Progress: what a command tells on the way, on standard error. All of it comes through `logging`,
under "timm_repair".

In a terminal a line at the bottom shows the stage at work, its steps, the loss and the time left;
elsewhere, and above it, there is one line a stage when it is done.
"""

import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from timm_repair.cli.language import spoken

LOGGER = "timm_repair"
# bars of their own, which no log can have
SILENT = ("HF_DATASETS_DISABLE_PROGRESS_BARS",)


@contextmanager
def told(words: Mapping[str, str], *, quiet: bool) -> Iterator["Teller"]:
    """What is logged is told while the work inside goes on.

    Args:
        words: what the library's arguments are called here, see `language`.
        quiet: tell warnings alone.
    """
    ours, root = logging.getLogger(LOGGER), logging.getLogger()
    handler, level = Teller(words, quiet=quiet), ours.level
    before = {name: os.environ.get(name) for name in SILENT}
    os.environ.update(dict.fromkeys(SILENT, "1"))
    root.addHandler(handler)  # other packages warn too
    if not quiet:
        ours.setLevel(logging.DEBUG)
    try:
        yield handler
    finally:
        ours.setLevel(level)
        root.removeHandler(handler)
        handler.close()
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


class Teller(logging.Handler):
    """Tells stages, steps and warnings.

    Args:
        words: as for `told`.
        quiet: tell warnings alone.
    """

    def __init__(self, words: Mapping[str, str], *, quiet: bool):
        super().__init__(logging.WARNING if quiet else logging.DEBUG)
        self.words, self.stages = words, []
        self.last: Any = None  # the bar of the innermost stage
        self.live = None if quiet else _live()

    def emit(self, record: logging.LogRecord) -> None:
        """Show one record; of other packages only warnings come here."""
        stage, bar = getattr(record, "stage", None), getattr(record, "bar", None)
        if bar is not None:
            self._step(bar)
        elif stage is not None and stage.seconds is None:
            self.stages.append(stage.name)
            self._show(stage.name, 0, None)
        elif stage is not None:
            self.stages.pop()
            if not stage.failed:  # else the error is told
                self.say(_line(stage, self.last))
            self.last = None
            self._show(self.stages[-1] if self.stages else "", 0, None)
        elif record.levelno >= logging.WARNING:
            self.say(spoken(record.getMessage(), self.words))

    def say(self, text: str) -> None:
        """A line, above what moves."""
        if self.live is None:
            print(text, file=sys.stderr, flush=True)
        else:
            self.live.console.print(text, markup=False, highlight=False, soft_wrap=True)

    @contextmanager
    def busy(self, what: str) -> Iterator[None]:
        """Something without stages is at work."""
        self._show(what, 0, None)
        yield
        self._show("", 0, None)

    def close(self) -> None:
        """Nothing moves any more."""
        if self.live is not None:
            self.live.stop()
        super().close()

    def _step(self, bar: Any) -> None:
        self.last = bar
        if bar.ended:
            self._show(self.stages[-1] if self.stages else "", 0, None)
            return
        stage = self.stages[-1] if self.stages else bar.description
        what = stage if bar.description == stage else f"{stage}: {bar.description}"
        values = " ".join(f"{name} {value}" for name, value in bar.values.items())
        self._show(what, bar.done, bar.total, values)

    def _show(self, what: str, done: int, total: int | None, values: str = "") -> None:
        """What the moving line says; nothing where nothing is at work."""
        if self.live is None:
            return
        if not what:
            self.live.stop()
            return
        steps = "" if total is None else f"{done}/{total}"
        (task,) = self.live.tasks or [None]
        if task is None or (task.description, task.total) != (what, total):
            for each in self.live.task_ids:
                self.live.remove_task(each)
            self.live.add_task(what, total=total, steps=steps, values=values)
            self.live.start()
        else:
            self.live.update(task.id, completed=done, steps=steps, values=values)


def _line(stage: Any, bar: Any) -> str:
    """A stage that is done, with what its last loop came to."""
    done = f"{stage.name:24} {stage.seconds:8.1f} s"
    if bar is None:
        return done
    values = "".join(f", {name} {value}" for name, value in bar.values.items())
    return f"{done}  {bar.done:,} steps{values}" if values else done


def _live() -> Any:
    """A line that moves, where standard error is a terminal."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Left(TimeRemainingColumn):
        """The time left, where it can be told."""

        def render(self, task: Any) -> Text:
            known = task.time_remaining is not None
            return super().render(task).append(" left") if known else Text("")

    console = Console(stderr=True)
    if not console.is_interactive:
        return None
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[steps]} {task.fields[values]}", markup=False),
        TimeElapsedColumn(),
        Left(),
        console=console,
        transient=True,
        redirect_stdout=False,  # the result goes there, perhaps into a file
    )
