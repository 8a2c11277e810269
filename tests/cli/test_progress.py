"""What is told on the way: a line a stage, warnings in the words of the command line; in a terminal
a line that moves. All of it comes through the log, and nothing of it stays.
"""

import io
import logging
import os
import re

import pytest
from rich.console import Console

from timm_repair.cli import progress
from timm_repair.cli.progress import told
from timm_repair.runtime.progress import logger as stages
from timm_repair.runtime.runtime import Runtime

WORDS = {"retain": "--retain"}


def work(runtime: Runtime) -> None:
    """A stage with a loop in it, in which another stage and a warning come, and one that fails, which
    the error tells."""
    with runtime.stage("localize"):
        with runtime.stage("inner"):
            pass
        with runtime.bar(3, "probe") as bar:
            for step in range(3):
                bar.tell(loss=f"0.{step}")
                bar.update()
        logging.getLogger("timm_repair.data.splits").warning("give retain=")
        logging.getLogger("timm_repair.images.labels").info("a table of labels")
    with pytest.raises(ValueError), runtime.stage("search"):
        raise ValueError


@pytest.fixture
def runtime() -> Runtime:
    return Runtime(progress=False)


def lines(text: str) -> list[str]:
    return [re.sub(r" +\d+\.\d s", " S", line) for line in text.splitlines()]


def test_a_line_a_stage_where_there_is_no_terminal(runtime, capsys):
    with told(WORDS, quiet=False):
        work(runtime)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert [" ".join(line.split()) for line in lines(printed.err)] == [
        "inner S",
        "give --retain",
        "localize S 3 steps, loss 0.2",
    ]


def test_quiet_tells_warnings_alone(runtime, capsys):
    with told(WORDS, quiet=True):
        work(runtime)
    assert capsys.readouterr().err == "give --retain\n"


def test_a_terminal_shows_stage_steps_and_loss(runtime, monkeypatch):
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=True, width=100)
    monkeypatch.setattr("rich.console.Console", lambda **_: console)
    seen = []
    with told(WORDS, quiet=False) as teller:
        show = teller._show
        monkeypatch.setattr(teller, "_show", lambda *a: (seen.append(a), show(*a)))
        with teller.busy("torch is being loaded"):
            pass
        work(runtime)
        assert not teller.live.live.is_started, "nothing moves where nothing is at work"
    assert ("torch is being loaded", 0, None) in seen and ("localize", 0, None) in seen
    assert ("localize: probe", 2, 3, "loss 0.1") in seen
    assert "give --retain" in shown.getvalue() and "probe" in shown.getvalue()


def test_nothing_of_it_stays(runtime, monkeypatch):
    monkeypatch.delenv("HF_DATASETS_DISABLE_PROGRESS_BARS", raising=False)
    ours = logging.getLogger("timm_repair")
    before = (list(logging.getLogger().handlers), ours.level, list(ours.handlers), dict(os.environ))
    with pytest.raises(KeyError), told(WORDS, quiet=False):
        raise KeyError
    after = (list(logging.getLogger().handlers), ours.level, list(ours.handlers), dict(os.environ))
    assert after == before


def test_who_listens_hears_each_step(runtime):
    heard = []

    class Listener(logging.Handler):
        def emit(self, record):
            heard.append(getattr(record, "bar", None) or record.stage)

    listener = Listener()
    stages.addHandler(listener)
    stages.setLevel(logging.DEBUG)
    try:
        with runtime.stage("finetune"), runtime.bar(2, "finetune") as bar:
            bar.update()
    finally:
        stages.removeHandler(listener)
        stages.setLevel(logging.NOTSET)
    begun, first, step, last, done = heard
    assert (begun.name, begun.seconds) == ("finetune", None) and done.seconds >= 0
    assert first is step is last and (last.total, last.done, last.ended) == (2, 1, True)
    assert not done.failed and progress.LOGGER == "timm_repair"
