"""The tests under other versions, kernels, numbers of threads and interpreters, each row in an
environment of its own.

    python .ci/matrix.py      # all rows; those that passed on the same sources are not run again
    python .ci/matrix.py --rows oldest --tests tests/pipeline tests/hub tests/loopback

Needs uv (pip install uv). Rows with the same interpreter and requirements share an environment;
--keep FOLDER makes the environments there and leaves them for the next run. "oldest" installs the
lower bounds of setup.cfg, all at once; bounds that contradict each other fail.
"""

import argparse
import configparser
import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "test_matrix.json"
NEWEST_PYTHON = "newest"
# pyarrow 26 cannot be imported with numpy 1, and does not say so in its requirements
NUMPY_1 = ("numpy<2", "pyarrow<26")
PROBE = """
import json, platform, accelerate, datasets, huggingface_hub, numpy, timm, torch
modules = (accelerate, datasets, huggingface_hub, numpy, timm, torch)
versions = {module.__name__: module.__version__ for module in modules}
print(json.dumps(versions | {"python": platform.python_version(),
    "threads": torch.get_num_threads(), "kernels": torch.backends.cpu.get_cpu_capability()}))
"""


# the tests of what computes: other kernels and numbers of threads change nothing of commands,
# pages, files and the Hub
COMPUTING = (
    "tests/architecture",
    "tests/contracts",
    "tests/data",
    "tests/diagnosis",
    "tests/gradient_free",
    "tests/localization",
    "tests/meaning",
    "tests/methods",
    "tests/models",
    "tests/pipeline",
    "tests/processes",
    "tests/properties",
    "tests/runtime",
    "tests/training",
)


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        python: a version, or NEWEST_PYTHON of those that this machine has.
        oldest: the lower bounds of setup.cfg instead of the newest versions.
        constraints: more of what pip calls constraints.
        environment: variables for the tests.
        tests: those that are run unless others are asked for, without the long ones; of none all.
        expected: what must hold in the environment, as PROBE tells it: a variable that has no
            effect tests nothing.
    """

    python: str = "3.11"
    oldest: bool = False
    constraints: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    tests: tuple[str, ...] = ()
    expected: dict[str, object] = field(default_factory=dict)


ROWS = {
    "newest": Row(expected={"threads": (1,)}),  # as make test, on one thread
    "oldest": Row(oldest=True, constraints=NUMPY_1),
    "aten-default": Row(
        environment={"ATEN_CPU_CAPABILITY": "default"},
        tests=COMPUTING,
        expected={"kernels": ("DEFAULT", "NO AVX")},
    ),
    "aten-avx2": Row(
        environment={"ATEN_CPU_CAPABILITY": "avx2"},
        tests=COMPUTING,
        expected={"kernels": ("AVX2",)},
    ),
    "onednn-sse41": Row(environment={"ONEDNN_MAX_CPU_ISA": "SSE41"}, tests=COMPUTING),
    "threads-2": Row(
        environment={"OMP_NUM_THREADS": "2"}, tests=COMPUTING, expected={"threads": (2,)}
    ),
    # MKL gives torch no more threads than there are cores, unless told
    "threads-4": Row(
        environment={"OMP_NUM_THREADS": "4", "MKL_DYNAMIC": "FALSE"},
        tests=COMPUTING,
        expected={"threads": (4,)},
    ),
    "newest-python": Row(python=NEWEST_PYTHON),
    "numpy-1": Row(constraints=NUMPY_1),
    "planted-seed": Row(environment={"PLANTED_SEED": "7"}, tests=COMPUTING),
    "planted-disturb": Row(environment={"PLANTED_DISTURB": "0.001"}, tests=COMPUTING),
}
# those of the caller do not count
VARIABLES = {name for row in ROWS.values() for name in row.environment}


def find_uv() -> list[str]:
    """How to call uv."""
    if importlib.util.find_spec("uv"):
        return [sys.executable, "-m", "uv"]
    if shutil.which("uv"):
        return ["uv"]
    raise SystemExit("The matrix needs uv: pip install uv")


def pythons() -> dict[str, str]:
    """PATH and the like as uv should see them: pyenv shows it only the interpreters that are
    selected, so all are.
    """
    if not shutil.which("pyenv"):
        return dict(os.environ)
    versions = subprocess.run(
        ["pyenv", "versions", "--bare"], capture_output=True, text=True
    ).stdout.split()
    return os.environ | {"PYENV_VERSION": ":".join(reversed(versions))}


def interpreter(version: str) -> str:
    """What to give to `uv venv --python`."""
    versions = (
        [f"3.{minor}" for minor in range(20, 10, -1)] if version == NEWEST_PYTHON else [version]
    )
    for each in versions:
        found = subprocess.run(
            [*find_uv(), "python", "find", "--no-python-downloads", each],
            capture_output=True,
            text=True,
            env=pythons(),
        )
        if found.returncode == 0:
            return found.stdout.strip()
    return version  # uv downloads it


def lower_bounds() -> list[str]:
    """Each requirement of setup.cfg at its lower bound: name>=1.2 becomes name==1.2.*."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    lines = "\n".join(
        [config["options"]["install_requires"], *config["options.extras_require"].values()]
    ).split("\n")
    bounds = [re.fullmatch(r"([\w-]+)(?:\[\w+\])?>=([\d.]+)", line) for line in lines if line]
    assert all(bounds), f"a requirement that is no lower bound: {lines}"
    return sorted({f"{bound[1]}=={bound[2]}.*" for bound in bounds})


def environment_of(row: Row, folder: Path) -> Path:
    """The interpreter of an environment with what the row needs, made in `folder` unless it is
    there.
    """
    python = interpreter(row.python)
    constraints = sorted([*row.constraints, *(lower_bounds() if row.oldest else [])])
    key = hashlib.sha256(
        "\n".join([python, (ROOT / "setup.cfg").read_text(), *constraints]).encode()
    ).hexdigest()[:12]
    place = folder / key
    if not (place / "installed").exists():
        subprocess.run(
            [*find_uv(), "venv", "--quiet", "--clear", "--python", python, place],
            check=True,
            env=pythons(),
        )
        (place / "constraints.txt").write_text("\n".join(constraints) + "\n")
        resolution = "lowest-direct" if row.oldest else "highest"
        subprocess.run(
            [
                *find_uv(),
                "pip",
                "install",
                "--quiet",
                "--python",
                place / "bin" / "python",
                "--resolution",
                resolution,
                "--constraint",
                place / "constraints.txt",
                "--editable",
                f"{ROOT}[demo,test]",
            ],
            check=True,
        )
        (place / "installed").touch()
    return place / "bin" / "python"


def sources() -> str:
    """A digest of everything that tests may depend on: a row that passed on it need not be run
    again.
    """
    digest = hashlib.sha256()
    for folder in (".ci", "benchmarks", "docs", "examples", "tests", "timm_repair"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.is_file() and path != RESULTS and "__pycache__" not in path.parts:
                digest.update(str(path.relative_to(ROOT)).encode() + path.read_bytes())
    for name in ("README.md", "setup.cfg", "pyproject.toml"):
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()[:12]


def run(row: Row, python: Path, tests: list[str], workers: int | None) -> dict:
    """Run the tests in an environment.

    Returns:
        Versions, numbers of tests, names of those that failed, reasons of those that were skipped,
        the time.
    """
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in VARIABLES and name != "PYTHONPATH"
    }
    environment |= {"OMP_NUM_THREADS": "1"} | row.environment
    probe = subprocess.run([python, "-c", PROBE], capture_output=True, text=True, env=environment)
    if probe.returncode:
        return {"exit": probe.returncode, "error": probe.stderr[-2000:]}
    found = json.loads(probe.stdout)
    wrong = {
        name: found[name] for name, values in row.expected.items() if found[name] not in values
    }
    if wrong:
        return found | {"exit": 1, "error": f"{row.environment} had no effect: {wrong}"}
    workers = workers or max(1, (os.cpu_count() or 1) // int(environment["OMP_NUM_THREADS"]))
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [
            python,
            "-m",
            "pytest",
            "-n",
            str(workers),
            "--dist",
            "loadfile",
            *([] if row.tests else ["--long"]),
            f"--junitxml={report}",
            *tests,
        ]
        code = subprocess.run(command, cwd=ROOT, env=environment).returncode
        counted = count(report) if report.exists() else {"error": "pytest wrote no report"}
    return found | counted | {"exit": code, "seconds": round(time.monotonic() - started)}


def count(report: Path) -> dict:
    """What pytest's XML says: numbers, names of what failed, how often each reason for skipping was
    given.
    """
    passed, failed, skipped = 0, [], {}
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        skip = case.find("skipped")
        if case.find("failure") is not None or case.find("error") is not None:
            failed.append(f"{case.get('classname')}::{case.get('name')}")
        elif skip is not None:
            skipped[skip.get("message", "")] = skipped.get(skip.get("message", ""), 0) + 1
        else:
            passed += 1
    return {
        "passed": passed,
        "failed": len(failed),
        "failures": failed,
        "skipped": sum(skipped.values()),
        "skips": skipped,
    }


def table(rows: list[dict]) -> str:
    """The rows as a Markdown table."""
    columns = (
        "row",
        "python",
        "torch",
        "timm",
        "numpy",
        "threads",
        "kernels",
        "passed",
        "failed",
        "skipped",
        "seconds",
    )
    lines = [
        columns,
        ["---"] * len(columns),
        *([str(row.get(name, "")) for name in columns] for row in rows),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rows",
        nargs="+",
        choices=ROWS,
        default=list(ROWS),
        metavar="NAME",
        help=f"of {', '.join(ROWS)}",
    )
    parser.add_argument(
        "--tests", nargs="+", default=[], help="files or ids of tests instead of all"
    )
    parser.add_argument(
        "--workers",
        type=int,
        help="processes that run tests; as many as fit on the cores unless given",
    )
    parser.add_argument(
        "--keep",
        type=Path,
        metavar="FOLDER",
        help="make the environments there, use those that are there, leave them",
    )
    parser.add_argument(
        "--output", type=Path, default=RESULTS, help="a JSON file; rows are added to it as they end"
    )
    return parser.parse_args()


def main() -> None:
    """Run what is asked for; exit with 1 if any of it is red."""
    arguments = parsed()
    results = json.loads(arguments.output.read_text())["rows"] if arguments.output.exists() else []
    state, shown = sources(), []
    with tempfile.TemporaryDirectory(prefix="matrix-") as scratch:
        folder = (arguments.keep or Path(scratch)).resolve()
        for name in arguments.rows:
            tests = arguments.tests or list(ROWS[name].tests)
            identity = {
                "row": name,
                "tests": tests,
                "environment": ROWS[name].environment,
            }
            done = [
                row
                for row in results
                if row | identity == row and row["sources"] == state and row["exit"] == 0
            ]
            if not done:
                print(f"== {name}", flush=True)
                try:
                    outcome = run(
                        ROWS[name],
                        environment_of(ROWS[name], folder),
                        tests,
                        arguments.workers,
                    )
                except subprocess.CalledProcessError as error:
                    # what could not be installed is red; the other rows are run
                    outcome = {"exit": error.returncode, "error": f"{error.cmd[:4]} failed"}
                done = [identity | {"sources": state} | outcome]
                others = [row for row in results if (row["row"], row["tests"]) != (name, tests)]
                results = others + done
                arguments.output.write_text(json.dumps({"rows": results}, indent=1) + "\n")
            shown += done
            print(table(done), flush=True)
    print(f"\n{table(shown)}")
    for row in shown:
        if row["exit"]:
            print(
                f"{row['row']} is red:"
                f" {row.get('error') or ', '.join(row['failures']) or 'pytest says so'}"
            )
    raise SystemExit(any(row["exit"] for row in shown))


if __name__ == "__main__":
    main()
