"""Journal: what a run has done so far, on disk, so that it can be killed at any moment and continue
to the same bits.

A run is deterministic but for what its loops have learnt. So the same command runs the same code
again; dear results are read from the journal instead of computed, and each loop (`loop.fit`)
goes on from its last checkpoint. A file is written beside and moved into place, one per loop and
result: the number of files does not grow with the length of a run, and a cut-off write is never
seen.
"""

import json
import logging
import os
import shutil
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from timm_repair.errors import OutputError, RepairError, ResumeError
from timm_repair.runtime.processes import agreed
from timm_repair.runtime.randomness import random_states, set_random_states

FOLDER = ".resume"
CHECKPOINTS = 20  # per loop
LOOP = ".loop.pt"
SPENT = "spent.json"

logger = logging.getLogger(__name__)


class Journal:
    """The journal of one run in `directory`/.resume.

    Args:
        directory: of the run's output.
        identity: what the run is: a name to plain JSON. A journal of another run is refused.
        accelerator: the main process writes; all read.

    Raises:
        ResumeError: the directory has the journal of another run; the message says what differs.
        OutputError: it cannot be written.
    """

    def __init__(self, directory: Path, identity: Mapping[str, Any], accelerator: Accelerator):
        self.folder, self.accelerator = directory / FOLDER, accelerator
        self.goes_on = False  # a loop of this run was begun before
        refusal = None
        if accelerator.is_main_process:
            try:
                self._open(json.loads(json.dumps(identity)))
            except RepairError as error:
                # all processes must hear of it, or they would wait for one that is gone
                refusal = error
        refusal = agreed(refusal, accelerator)
        if refusal is not None:
            raise refusal
        self.earlier = _spent_in(self.folder / SPENT)
        if self.goes_on:
            logger.warning(
                "%s has an unfinished run of the same: it goes on from where it was stopped, after"
                " %.0f seconds of work",
                directory,
                sum(seconds for _, seconds, _ in self.earlier),
            )

    def _open(self, identity: dict[str, Any]) -> None:
        path = self.folder / "run.json"
        different = differences(_identity_in(path), identity)
        self.goes_on = not different and any(self.folder.glob(f"*{LOOP}"))
        if different and any(self.folder.glob(f"*{LOOP}")):
            raise ResumeError(
                f"{str(self.folder.parent)!r} has an unfinished run that differs from this one in"
                f" {different}. Give the same model, data and options to continue it, another"
                f" output_dir to keep it, or delete {str(self.folder)!r} to start anew"
            )
        if different:  # of another run that had not trained yet: nothing is lost
            shutil.rmtree(self.folder, ignore_errors=True)
            self._write(path, lambda new: new.write_text(json.dumps(identity, indent=1)))

    def once(self, name: str, compute: Callable[[], Any]) -> Any:
        """What `compute()` gave when it was first called under `name`: tensors and plain values."""
        path = self._path(name)
        if path.is_file():
            return _read(path)
        value = compute()
        if self.accelerator.is_main_process:
            self._write(path, lambda new: torch.save(value, new))
        return value

    def checkpoint(self, name: str, state: Any) -> None:
        """Keep the state of loop `name`, in the place of its earlier one. All processes call it.

        Raises:
            OutputError: it cannot be written; the earlier one is still there.
        """
        random = gather_object([random_states()])
        if self.accelerator.is_main_process:
            self._write(
                self._path(name, LOOP),
                lambda new: torch.save({"state": state, "random": random}, new),
            )

    def state(self, name: str) -> Any:
        """What was last kept of loop `name`, None if nothing; the global random state is then as it
        was as well.
        """
        path = self._path(name, LOOP)
        if not path.is_file():
            return None
        kept = _read(path)
        set_random_states(kept["random"][self.accelerator.process_index])
        return kept["state"]

    def spend(self, stages: Sequence[tuple[str, float, int]]) -> None:
        """Keep what the stages of this run have cost so far, in all its parts: (name, seconds, peak
        memory).
        """
        if self.accelerator.is_main_process:
            self._write(self.folder / SPENT, lambda new: new.write_text(json.dumps(list(stages))))

    def close(self) -> None:
        """The run is done, and its result is safe: forget how it came about."""
        if self.accelerator.is_main_process:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, name: str, suffix: str = ".pt") -> Path:
        return self.folder / f"{name.replace('/', '_').replace(' ', '_')}{suffix}"

    def _write(self, path: Path, write: Callable[[Path], Any]) -> None:
        new = path.with_name(path.name + ".new")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write(new)
            with new.open("rb") as file:
                os.fsync(file.fileno())
            new.replace(path)
        except (OSError, RuntimeError) as error:
            # torch's own writer raises the latter on a full disk
            new.unlink(missing_ok=True)
            raise OutputError(
                f"cannot write to {str(self.folder)!r} ({error!s:.200}): make room or give write"
                " access, then run the same command again; it continues from the last checkpoint"
            ) from error


def _read(path: Path) -> Any:
    try:
        return torch.load(path, weights_only=True)
    except (OSError, RuntimeError, EOFError, zipfile.BadZipFile) as error:
        raise ResumeError(
            f"{str(path)!r} is damaged ({error!s:.200}): delete it; what it held is computed again"
        ) from error


def _spent_in(path: Path) -> list[tuple[str, float, int]]:
    """What was kept by `Journal.spend`; of a damaged file nothing, it is only told."""
    try:
        return [(str(n), float(s), int(m)) for n, s, m in json.loads(path.read_text())]
    except (OSError, ValueError, TypeError):
        return []


def _identity_in(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text()) if path.is_file() else {}
    except (OSError, ValueError) as error:
        raise ResumeError(
            f"{str(path)!r} is damaged ({error!s:.200}): delete {str(path.parent)!r} to start anew"
        ) from error


def differences(before: dict[str, Any], now: dict[str, Any]) -> str:
    """What differs between two runs, in words; empty if nothing does."""
    different = sorted(k for k in before.keys() | now.keys() if before.get(k) != now.get(k))
    return "; ".join(f"{k}: {_difference(before.get(k), now.get(k))}" for k in different)


def _difference(before: Any, now: Any, path: str = "") -> str:
    """Where two values of plain JSON differ, and how."""
    if isinstance(before, dict) and isinstance(now, dict):
        found = [
            _difference(before.get(k), now.get(k), f"{path}.{k}" if path else k)
            for k in sorted(before.keys() | now.keys())
            if before.get(k) != now.get(k)
        ]
        return ", ".join(found[:4]) + (", …" if len(found) > 4 else "")
    return f"{path + ' ' if path else ''}{json.dumps(before):.40} then, {json.dumps(now):.40} now"
