"""What most tests share: the planted classifier, what it gets wrong, and the promise that no test
changes global state.
"""

import atexit
import logging
import os
import random
import shutil
import socket
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from copy import deepcopy

with socket.socket() as _free:
    _free.bind(("127.0.0.1", 0))
    HUB_PORT = _free.getsockname()[1]
_HOME = tempfile.mkdtemp(prefix="timm_repair-tests-")
atexit.register(shutil.rmtree, _HOME, ignore_errors=True)
# Read when huggingface_hub is imported, hence here: no test reaches the real Hub, or anybody's
# cache or token.
os.environ |= {
    "HF_ENDPOINT": f"http://127.0.0.1:{HUB_PORT}",
    "HF_HOME": _HOME,
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
os.environ["TORCHINDUCTOR_CACHE_DIR"] = f"{_HOME}/inductor"  # torch sets it when it first compiles
os.environ.pop("HF_TOKEN", None)

import numpy as np
import planted
import pytest
import sklearn  # noqa: F401  sets environment variables when it is first imported, which is no test's doing
import torch
from torch import nn

from timm_repair.data.collected import Collected
from timm_repair.data.collecting import collect_failures
from timm_repair.data.preparing import prepare
from timm_repair.data.repair_data import RepairData
from timm_repair.images.images import Images
from timm_repair.runtime.runtime import Runtime


@pytest.fixture(autouse=True)
def fenced() -> Iterator[None]:
    """The same random numbers for every test, whichever ran before; global state must be as it was
    afterwards.
    """

    def state():
        return {
            "directory": os.getcwd(),
            "environment": dict(os.environ) | {"PYTEST_CURRENT_TEST": None},
            "threads": torch.get_num_threads(),
            "gradients": torch.is_grad_enabled(),
            "dtype": torch.get_default_dtype(),
            "deterministic": torch.are_deterministic_algorithms_enabled(),
            "handlers": [type(h) for h in logging.getLogger("timm_repair").handlers],
            "warnings": list(warnings.filters),
        }

    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    before = state()
    yield
    after = state()
    different = {
        name: (
            set(after[name].items()) ^ set(before[name].items())
            if name == "environment"
            else after[name]
        )
        for name in before
        if after[name] != before[name]
    }
    assert not different


@pytest.fixture(scope="session")
def pictures() -> dict[str, list]:
    """(image, label) pairs of ten classes in turn: "train" to be retained, "pool" of failures,
    "unseen" for the holdout.
    """
    return {
        "train": planted.pictures(300, 1),
        "pool": planted.pictures(1000, 2),
        "unseen": planted.pictures(200, 3),
    }


@pytest.fixture(scope="session")
def deployed() -> nn.Module:
    """The classifier with its planted fault, in eval mode: classes 0 and 1 confused. Take
    `classifier` to change it.
    """
    return planted.confused(planted.classifier())


@pytest.fixture
def classifier(deployed) -> nn.Module:
    return deepcopy(deployed)


@pytest.fixture(scope="session")
def collected(deployed, pictures) -> Collected:
    """What the classifier gets wrong in the pool, the 200 pictures of the two classes; and what
    passed, the 800 of the others.
    """
    found = collect_failures(deployed, pictures["pool"], runtime=Runtime(progress=False))
    assert found.labels.tolist() == [0, 1] * 100
    return found


@pytest.fixture(scope="session")
def failures(collected) -> Images:
    """The same, of which nobody knows what passed."""
    return collected.subset(range(len(collected)))


@pytest.fixture(scope="session")
def data(deployed, failures, pictures) -> RepairData:
    """The data of a repair of the classifier: failing and retained examples, and pictures of both
    kinds held out.
    """
    confused = [pair for pair in planted.pictures(300, 4) if pair[1] < 2]
    holdout = {"confused": confused, "clean": pictures["unseen"]}
    return prepare(
        deployed,
        failures,
        retain=pictures["train"],
        holdout=holdout,
        runtime=Runtime(progress=False),
    )


@pytest.fixture
def runtime() -> Runtime:
    return Runtime(progress=False)


@pytest.fixture
def undiagnosed(monkeypatch) -> None:
    """Nobody asks what the failures have in common, where there is no `diagnose=False` to pass: it
    takes ten times as long as a repair of a few steps.
    """
    from timm_repair.pipeline import evidence, repairing, shared

    def without(*args, **given):
        return evidence.looked_at(*args, **given | {"asked": False})

    for module in (repairing, shared):
        monkeypatch.setattr(module, "looked_at", without)


@pytest.fixture
def offline(monkeypatch) -> None:
    """Any connection is an error."""

    def refuse(*_):
        raise AssertionError("the network was touched")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="run the tests marked long, too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What is long runs in the matrix."""
    if not config.getoption("--long"):
        for item in items:
            if item.get_closest_marker("long"):
                item.add_marker(pytest.mark.skip("long: make test-matrix runs it, or --long"))


def pytest_unconfigure(config: pytest.Config) -> None:
    """The last line says what ran, and what was skipped for which reasons."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or config.option.collectonly:  # a worker of xdist, say
        return
    reasons = Counter(
        report.longrepr[2].removeprefix("Skipped: ") for report in reporter.stats.get("skipped", [])
    )
    ran = {
        report.nodeid
        for outcome in ("passed", "failed", "xfailed", "xpassed")
        for report in reporter.stats.get(outcome, [])
    }
    listed = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
    reporter.write_line(
        f"{len(ran):,} ran, {reasons.total()} skipped" + (f": {listed}" if listed else "")
    )
