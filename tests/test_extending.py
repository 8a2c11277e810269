"""docs/extending.md: each of its diffs is one file and one row, and what it adds keeps its
contract.

A python block whose first line is `# path` and a markdown block whose first line is `<!-- path -->`
are new files. A diff block changes one file: each of its hunks replaces the lines that begin with
" " or "-" by those that begin with " " or "+", wherever they stand.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "extending.md"
NEW = re.compile(
    r"^```(?:python|markdown)\n(?:# |<!-- )(\S+/\S+\.\w+)(?: -->)?\n(.*?)^```$", re.M | re.S
)
DIFF = re.compile(r"^```diff\n--- a/(\S+)\n\+\+\+ b/\1\n@@\n(.*?)^```$", re.M | re.S)

# heading -> (the folder of its file, its table in cases.py, the name it adds, files besides)
ADDED = {
    "A method": ("methods", "METHOD_CASES", "last_layer", ["docs/methods/last_layer.md"]),
    "A strategy": ("architecture/strategies", "STRATEGY_CASES", "fair_darts", []),
    "A score": ("localization/scorers", "SCORER_CASES", "surplus", []),
    "An augmentation": ("training/augmentations", "AUGMENTATION_CASES", "brightness", []),
}


def section(heading: str) -> str:
    """The text below `heading`, up to the next of ADDED."""
    below = PAGE.read_text().split(f"\n## {heading}\n")[1]
    return re.split("|".join(f"\n## {other}\n" for other in ADDED), below)[0]


def changed(text: str, hunks: str) -> str:
    """`text` with every hunk applied; the old lines of a hunk must stand in it exactly once."""
    for hunk in hunks.split("@@\n"):
        lines = hunk.splitlines(keepends=True)
        old = "".join(line[1:] for line in lines if line[0] in " -")
        new = "".join(line[1:] for line in lines if line[0] in " +")
        assert f"\n{text}".count(f"\n{old}") == 1, f"not once in the file:\n{old}"
        text = f"\n{text}".replace(f"\n{old}", f"\n{new}")[1:]
    return text


@pytest.mark.parametrize("heading", ADDED)
def test_it_is_one_file_and_one_row(heading):
    folder, _, name, besides = ADDED[heading]
    text = section(heading)
    added = [path for path, _ in NEW.findall(text)]
    edited = [path for path, _ in DIFF.findall(text)]
    assert added == [f"timm_repair/{folder}/{name}.py", *besides]
    assert edited == [f"timm_repair/{folder}/__init__.py", "tests/cases.py"]
    assert not any((ROOT / path).exists() for path in added)
    rows = [line for line in DIFF.findall(text)[0][1].splitlines() if f'"{name}": ' in line]
    assert len(rows) == 1 and rows[0].startswith("+")


@pytest.fixture(scope="module")
def extended(tmp_path_factory) -> Path:
    """A copy of package and tests with all that the page adds."""
    copy = tmp_path_factory.mktemp("extended")
    for folder in ("timm_repair", "tests", "benchmarks", "docs"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, copy)
    for heading in ADDED:
        for path, text in NEW.findall(section(heading)):
            (copy / path).write_text(text)
        for path, hunks in DIFF.findall(section(heading)):
            (copy / path).write_text(changed((copy / path).read_text(), hunks))
    return copy


def test_what_is_added_keeps_its_contract(extended):
    """In a fresh process, by the contract tests of the copy: those that read a table of
    cases.py.
    """
    tables = [table for _, table, _, _ in ADDED.values()]
    names = [name for _, _, name, _ in ADDED.values()]
    files = [
        path
        for path in sorted((extended / "tests").rglob("test_*.py"))
        if path.name != Path(__file__).name and any(table in path.read_text() for table in tables)
    ]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-n", "0", "--durations=0"]
        + ["-rA", "-k", " or ".join([*names, "has_a_row"]), *map(str, files)],
        cwd=extended,
        env=os.environ | {"PYTHONPATH": str(extended), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{done.stdout[-5000:]}{done.stderr[-2000:]}"
    passed = [line for line in done.stdout.splitlines() if line.startswith("PASSED")]
    assert [name for name in names if not any(f"[{name}]" in line for line in passed)] == []


def test_the_method_gets_into_the_table_of_methods(extended):
    """By the script that writes all tables."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.table"],
        cwd=extended,
        env=os.environ | {"PYTHONPATH": str(extended), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    page = (extended / "docs" / "methods" / "README.md").read_text()
    (row,) = (
        line for line in page.splitlines() if line.startswith("| [last_layer](last_layer.md)")
    )
    assert "the features are good, their use is wrong." in row and row.endswith("| weights |")
    assert "ICLR 2023, [arXiv:2204.02937](https://arxiv.org/abs/2204.02937)" in row


def test_the_direction_of_imports_holds(extended):
    done = subprocess.run(
        [Path(sys.executable).parent / "lint-imports", "--no-cache"],
        cwd=extended,
        env=os.environ | {"PYTHONPATH": str(extended)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:]
