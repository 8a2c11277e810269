"""Scripts in fresh processes: what a user's program meets, where nothing was imported before."""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch

OPENING = """
import numpy, torch
given, found = {name: torch.from_numpy(value) for name, value in numpy.load("given.npz").items()}, {}
torch.set_grad_enabled(False)
"""
CLOSING = """
numpy.savez("found.npz", **{name: numpy.asarray(value) for name, value in found.items()})
"""


def start(
    script: str, folder: Path, environment: Mapping[str, str] | None = None, **given: torch.Tensor
) -> Callable[[], dict]:
    """Start `script` in `folder`; it finds tensors in `given`, and puts arrays or texts into
    `found`.

    Returns:
        A function that waits for its end and gives back `found`, tensors or texts; a script that
        fails is an AssertionError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "given.npz", **{name: value.numpy() for name, value in given.items()})
    (folder / "script.py").write_text(OPENING + script + CLOSING)
    environment = dict(os.environ if environment is None else environment) | {
        "OMP_NUM_THREADS": str(torch.get_num_threads())
    }
    process = subprocess.Popen(
        [sys.executable, "script.py"],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
    )

    def finish() -> dict[str, torch.Tensor | str]:
        output, _ = process.communicate(timeout=600)
        assert process.returncode == 0, output
        with np.load(folder / "found.npz") as arrays:
            return {
                name: str(a) if a.dtype.kind == "U" else torch.from_numpy(a)
                for name, a in arrays.items()
            }

    return finish


def fresh(
    script: str, folder: Path, environment: Mapping[str, str] | None = None, **given: torch.Tensor
) -> dict:
    """What `script` found; see `start`."""
    return start(script, folder, environment, **given)()
