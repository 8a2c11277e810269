"""Runs: repairs started from the app, one at a time, each in a process of its own.

Of run "repair-1" there are, beside each other, its output folder of that name, repair-1.json (what
was asked), .progress and .error (what its process tells), .log (what it says).
"""

import json
import re
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from timm_repair.app.opening import is_finished
from timm_repair.app.worker import ENDING, STOPPED
from timm_repair.errors import ResumeError
from timm_repair.hub.folder import writable
from timm_repair.runtime.journal import FOLDER, SPENT

RUNNING, DONE, CANCELLED, FAILED = "running", "done", "cancelled", "failed"
PATIENCE = 20  # seconds until a process that was told to end is killed
TAIL = 4000  # characters of the log


@dataclass(frozen=True)
class Request:
    """What to repair, as plain JSON; the fields are arguments of `repair`.

    Args:
        examples: the files in the failures folder: with others it is another run.
        options: of the method; `data`, of `DataOptions`.
    """

    model: str
    failures: str
    examples: list[str]
    retain: str | None = None
    holdout: str | dict[str, str] | None = None
    method: str = "archrepair"
    diagnose: bool = True
    seed: int = 0
    options: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Status:
    """Where a run stands.

    Args:
        stages: (name, seconds) of those that are through, or were noted.
        stage: the loop at work, "" where none is.
        step, steps: how much of the training is done, of how much; 0 where that is not known.
        seconds: since it was started, or until it ended.
        left: seconds that the loop still takes, if that can be told.
        says: why it failed; the end of its log.
    """

    name: str
    state: str
    stages: tuple[tuple[str, float], ...] = ()
    stage: str = ""
    step: int = 0
    steps: int = 0
    loss: float | None = None
    seconds: float = 0.0
    left: float | None = None
    error: str = ""
    log: str = ""


class Run:
    """A repair at work, or that was: `status()`, `cancel()`."""

    def __init__(self, file: Path, steps: int):
        self.file, self.steps, self.started = file, steps, time.monotonic()
        self.ended: float | None = None
        self.cancelled = False
        self._first: tuple[str, int, float] | None = None
        for ending in (ENDING, ".error"):
            file.with_suffix(ending).unlink(missing_ok=True)
        with file.with_suffix(".log").open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "timm_repair.app.worker", str(file)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C in the terminal is for the app
            )

    @property
    def name(self) -> str:
        return self.file.stem

    @property
    def at_work(self) -> bool:
        return self.process.poll() is None

    def cancel(self) -> None:
        """Stop it, and wait until it is; its journal stays."""
        self.cancelled |= self.at_work
        assert self.process.stdin is not None
        with suppress(OSError):  # it ended meanwhile
            self.process.stdin.close()
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()  # the journal is whole all the same
            self.process.wait()

    def status(self) -> Status:
        """Where it stands now."""
        code, now = self.process.poll(), time.monotonic()
        if code is not None and self.ended is None:
            self.ended = now
            assert self.process.stdin is not None
            with suppress(OSError):
                self.process.stdin.close()
        log = _tail(self.file.with_suffix(".log"))
        told = {"name": self.name, "seconds": (self.ended or now) - self.started, "log": log}
        if code == 0:
            return Status(state=DONE, **told)
        told["stages"] = _stages(self.file.with_suffix("") / FOLDER / SPENT)
        if self.cancelled or code == STOPPED:
            return Status(state=CANCELLED if code is not None else RUNNING, **told)
        if code is not None:
            error = _text(self.file.with_suffix(".error"))
            return Status(state=FAILED, error=error or f"it ended with status {code}", **told)
        return Status(state=RUNNING, **told, **self._loop(now))

    def _loop(self, now: float) -> dict[str, Any]:
        try:
            note = json.loads(_text(self.file.with_suffix(ENDING)))
            stage, step, loss = note["stage"], note["step"], note["loss"]
        except (ValueError, KeyError, TypeError):
            return {}
        if self._first is None or self._first[0] != stage or step < self._first[1]:
            self._first = stage, step, now
        known = self.steps if step <= self.steps else 0
        _, first, since = self._first
        left = (known - step) * (now - since) / (step - first) if known and step > first else None
        return {"stage": stage, "step": step, "steps": known, "loss": loss, "left": left}


class Runs:
    """The runs in a folder."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.current: Run | None = None

    def start(self, request: Request, *, steps: int = 0) -> Run:
        """Start a repair, or go on with the last one, if it was of the same and is not finished.

        Args:
            steps: of its training, where they are known; for the progress.

        Raises:
            ResumeError: one is at work already.
            OutputError: the folder cannot be written.
        """
        if self.current is not None and self.current.at_work:
            raise ResumeError(f"{self.current.name} is at work: cancel it, or wait for it")
        file = self.unfinished(request)
        if file is None:
            folder = writable(self.folder)
            file = folder / f"repair-{max([0, *self._numbers()]) + 1}.json"
            asked = asdict(request) | {"output": str(file.with_suffix(""))}
            file.write_text(json.dumps(asked, indent=1), encoding="utf-8")
        self.current = Run(file, steps)
        return self.current

    def unfinished(self, request: Request) -> Path | None:
        """The file of the last run, if it was asked for the same, and can be gone on with."""
        file = self.folder / f"repair-{max([0, *self._numbers()])}.json"
        output = file.with_suffix("")
        if not file.is_file() or is_finished(output):
            return None
        try:
            asked = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return file if asked == asdict(request) | {"output": str(output)} else None

    def _numbers(self) -> list[int]:
        found = (re.fullmatch(r"repair-(\d+)", p.stem) for p in self.folder.glob("repair-*"))
        return [int(each[1]) for each in found if each]

    def close(self) -> None:
        """Stop what is at work."""
        if self.current is not None and self.current.at_work:
            self.current.cancel()


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _tail(path: Path) -> str:
    text = _text(path)[-TAIL:]
    # of a line that is drawn over and over the last state
    return "\n".join(line.rpartition("\r")[2] for line in text.splitlines())


def _stages(path: Path) -> tuple[tuple[str, float], ...]:
    try:
        return tuple((str(name), float(s)) for name, s, _ in json.loads(_text(path) or "[]"))
    except (ValueError, TypeError):
        return ()
