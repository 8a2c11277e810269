"""Would the tests notice? Ten wrong answers are put into a copy of the package, one at a time; the
tests named must fail.

    python .ci/mutations.py [--only NAME …]

The same tests must pass on the package as it is, or their failing says nothing. Writes
benchmarks/results/test_mutations.json.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
RESULT = ROOT / "benchmarks" / "results" / "test_mutations.json"


@dataclass(frozen=True)
class Mutation:
    """A wrong answer: in the only file of the package that holds `code`, `wrong` stands instead;
    `tests` must notice.
    """

    name: str
    code: str
    wrong: str
    tests: tuple[str, ...]


MUTATIONS = (
    Mutation(
        "broken examples are counted as fixed",
        "return (self.fixed - self.broken) / self.n",
        "return (self.fixed + self.broken) / self.n",
        ("test_report.py",),
    ),
    Mutation(
        "what the model has right is collected as its failures",
        "wrong = (answers != images.labels).nonzero().flatten()\n    right",
        "wrong = (answers == images.labels).nonzero().flatten()\n    right",
        ("test_collecting_streams.py", "test_preparing.py"),
    ),
    Mutation(
        "the answer of a failure is not left out where it is class 0",
        "failing = (answers >= 0).nonzero()",
        "failing = (answers > 0).nonzero()",
        ("test_batches.py",),
    ),
    Mutation(
        "the least likely operation of an edge is kept",
        "return self.alpha.argmax(1)",
        "return self.alpha.argmin(1)",
        ("test_relaxation.py", "test_search.py"),
    ),
    Mutation(
        "architecture and weights are trained on the same examples",
        'parts["weights"][name] = order[cut:] if len(images) > 1 else order',
        'parts["weights"][name] = order',
        ("test_search.py",),
    ),
    Mutation(
        "norms and biases are decayed",
        "(p.ndim > 1) == decays",
        "(p.ndim > 0) == decays",
        ("test_training.py",),
    ),
    Mutation(
        "the last state is kept, not the best one",
        "value > self.best:",
        "value > -math.inf:",
        ("test_training.py",),
    ),
    Mutation(
        "ties of the interpolation go away from the original",
        "chosen = min(share for share, value",
        "chosen = max(share for share, value",
        ("test_training.py",),
    ),
    Mutation(
        "a holdout may hold what the repair trains on",
        "if not (count := int(self.among(others, images).sum())):",
        "if not (count := 0):",
        ("test_preparing.py", "test_repairing.py"),
    ),
    Mutation(
        "localization takes right answers for wrong ones",
        "wrong = logits.argmax(1) != labels\n        recorder",
        "wrong = logits.argmax(1) == labels\n        recorder",
        ("test_localization.py",),
    ),
)


def mutated(mutation: Mutation, package: Path) -> None:
    """Change the copy of the package in `package`."""
    places = [path for path in package.rglob("*.py") if mutation.code in path.read_text()]
    if len(places) != 1:
        raise SystemExit(
            f"{mutation.name}: {len(places)} files hold {mutation.code!r}, it must be one: mend the"
            " table"
        )
    text = places[0].read_text()
    places[0].write_text(text.replace(mutation.code, mutation.wrong))


def run(folder: Path, tests: tuple[str, ...]) -> tuple[int, str | None]:
    """pytest's exit status, and the first test that failed."""
    paths = [str(path) for name in tests for path in (folder / "tests").rglob(name)]
    environment = os.environ | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-x", "-rf", "-p", "no:cacheprovider", *paths]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    failed = [
        line.split()[1] for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))
    ]
    return done.returncode, failed[0] if failed else None


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", metavar="NAME", help="parts of names")
    only = parser.parse_args().only
    chosen = [m for m in MUTATIONS if only is None or any(part in m.name for part in only)]
    rows = []
    for mutation in chosen:
        with tempfile.TemporaryDirectory() as folder:
            for name in (
                "timm_repair",
                "tests",
                "pyproject.toml",
                "examples",
                "docs",
                "README.md",
                "setup.cfg",
            ):
                copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
                copy(ROOT / name, Path(folder) / name)
            sound, failed = run(Path(folder), mutation.tests)
            if sound != 0:
                raise SystemExit(f"{mutation.name}: {failed} fails without it")
            mutated(mutation, Path(folder) / "timm_repair")
            status, failed = run(Path(folder), mutation.tests)
        rows.append({"mutation": mutation.name, "found": status == 1, "by": failed})
        print(f"{'found' if status == 1 else 'NOT FOUND'}: {mutation.name} ({failed})", flush=True)
    if only is None:
        RESULT.write_text(json.dumps(rows, indent=1) + "\n")
    return 0 if all(row["found"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
