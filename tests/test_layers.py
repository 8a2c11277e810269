"""Imports lead one way, without circles; siblings do not know each other (pyproject.toml)."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
LEVELS = 10  # of packages, with the benchmarks on top
# in a process of its own: the linter configures logging
LINT = (
    "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
)


def test_imports_lead_one_way():
    done = subprocess.run([sys.executable, "-c", LINT], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_house_is_not_built_higher():
    """Circles would have no levels; imports inside a package do not count."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.levels"], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    *floors, chain = done.stdout.splitlines()
    assert len(floors) <= LEVELS, chain
    assert floors[-1].split() == ["1", "errors"] and "benchmarks" in floors[0].split()
