"""The worker: one repair in a process of its own, so that it can be stopped at any step.

    python -m timm_repair.app.worker REQUEST.json

It ends when its standard input does: that is how it is cancelled, and it does not outlive the app.
The journal in the output folder lets the same request go on. What it does goes to standard output
as text; every step of a loop to a file beside the request, as JSON.
"""

import _thread
import json
import logging
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from accelerate.tracking import GeneralTracker

from timm_repair.data.options import DataOptions
from timm_repair.errors import RepairError
from timm_repair.options import make
from timm_repair.pipeline.repairing import repair
from timm_repair.runtime.accelerators import make_accelerator

logger = logging.getLogger("timm_repair.app")

ENDING = ".progress"
TRAINING = ("search", "finetune")  # the loops that share the steps of a repair; not the trials
FAILED, STOPPED = 2, 130  # exit status
EVERY = 0.2  # seconds between two notes


class Steps(GeneralTracker):
    """A tracker of accelerate that notes in a file which loop is at work, and how many steps of the
    training proper are done, those of an earlier part of the run included.
    """

    name, requires_logging_directory, main_process_only = "timm_repair_app", False, True

    def __init__(self, path: Path):
        super().__init__()
        self.path, self.done, self.last, self.noted = path, 0, -1, 0.0

    @property
    def tracker(self) -> "Steps":
        return self

    def log(self, values: dict, step: int | None = None, **kwargs: Any) -> None:
        """Note it, if there is something new to see."""
        stage = next(iter(values), "").partition("/")[0]
        step = self.last + 1 if step is None else step
        if stage in TRAINING:
            self.done += step - self.last  # more than one where some were done before
        self.last = step
        if (now := time.monotonic()) - self.noted < EVERY:
            return
        self.noted = now
        done = self.done if stage in TRAINING else 0
        note = {"stage": stage, "step": done, "loss": values.get(f"{stage}/loss")}
        new = self.path.with_name(f"{self.path.name}.new")
        new.write_text(json.dumps(note))
        new.replace(self.path)


def run(request: dict[str, Any], progress: Path) -> None:
    """Repair as `runs.Request` asks."""
    accelerator = make_accelerator(log_with=Steps(progress))
    accelerator.init_trackers("timm_repair")
    repair(
        request["model"],
        request["failures"],
        retain=request["retain"],
        holdout=request["holdout"],
        method=request["method"],
        diagnose=request["diagnose"],
        seed=request["seed"],
        data=make(DataOptions, request["data"]),
        output_dir=request["output"],
        accelerator=accelerator,
        progress=False,
        **request["options"],
    )


def _end_with_input() -> None:
    # not sys.stdin.read(), which would hold a lock when the interpreter ends
    while os.read(sys.stdin.fileno(), 1024):
        pass
    if hasattr(signal, "pthread_kill"):  # it wakes what waits
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
    else:
        _thread.interrupt_main()


def main(path: Path) -> int:
    """The exit status."""
    logging.basicConfig(format="%(message)s", stream=sys.stdout)
    logging.getLogger("timm_repair").setLevel(logging.INFO)
    # the app may have been started with it ignored
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        threading.Thread(target=_end_with_input, daemon=True).start()
        run(json.loads(path.read_text(encoding="utf-8")), path.with_suffix(ENDING))
    except KeyboardInterrupt:
        return STOPPED
    except RepairError as error:
        path.with_suffix(".error").write_text(str(error), encoding="utf-8")
        return FAILED
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
