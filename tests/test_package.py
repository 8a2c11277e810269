"""The package as a whole: a quiet import, small files and functions (those of tests, benchmarks and
examples too), every public name explained.
"""

import ast
import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest

import timm_repair

ROOT = Path(timm_repair.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
# all that is not the package, but is read and changed like it
BESIDE = ("tests", "benchmarks", "examples", ".ci")
LINES, OF_A_FUNCTION = 400, 60
# all promises of a method in one test, since each of them is of the same repair
LARGE = {"tests/contracts/test_methods.py"}


DEAR = {"torch", "timm", "numpy", "accelerate", "datasets", "transformers", "PIL", "rich", "yaml"}


def printed(script: str, folder: Path) -> dict:
    """What `script`, run by itself, prints as JSON; nothing else comes from it."""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=folder
    )
    assert done.returncode == 0 and done.stderr == "", done.stderr
    return json.loads(done.stdout)


def test_importing_costs_nothing_before_a_name_is_asked_for(tmp_path):
    script = """
import json, sys
import timm_repair
at_first = sorted(m for m in sys.modules if "." not in m)
kind = timm_repair.RepairError.__name__
try:
    timm_repair.repiar
except AttributeError as error:
    print(json.dumps({"at first": at_first, "name": kind, "unknown": str(error), "names": dir(timm_repair)}))
"""
    found = printed(script, tmp_path)
    assert not DEAR & set(found["at first"]), "0.1 s instead of many"
    assert found["name"] == "RepairError" and "repiar" in found["unknown"]
    assert {"repair", "errors", "methods", "Report"} <= set(found["names"])


@pytest.mark.parametrize("first", ["timm, timm_repair", "timm_repair, timm"])
def test_timm_learns_of_repaired_models_whichever_is_imported_first(first, tmp_path):
    script = f"""
import {first}
import json, sys
from timm.models import model_entrypoint
entry = model_entrypoint("timm_repaired")
loaded = "timm_repair.hub.entry_point" in sys.modules
try:
    timm.create_model("timm_repaired", base="no-such", edits=[])
except timm_repair.errors.ConfigError as error:
    print(json.dumps([entry.__name__, loaded, str(error)]))
"""
    name, loaded, refused = printed(script, tmp_path)
    assert name == "timm_repaired" and not loaded and "no-such" in refused


def test_importing_changes_nothing_but_one_entry_point(tmp_path):
    script = """
import json, logging, os, random, sys, threading, warnings
import accelerate, datasets, timm, torch  # what they change is theirs
import matplotlib, scipy.stats
def state():
    return {
        "filters": [str(f) for f in warnings.filters], "environment": sorted(os.environ.items()), "directory": os.getcwd(),
        "handlers": [[name, len(log.handlers), log.level] for name, log in sorted(logging.root.manager.loggerDict.items())
                     if isinstance(log, logging.Logger) and not name.startswith("timm_repair")],
        "ours": [len(log.handlers) for name, log in logging.root.manager.loggerDict.items()
                 if name.startswith("timm_repair") and isinstance(log, logging.Logger) and log.handlers],
        "root": [len(logging.root.handlers), logging.root.level], "threads": [torch.get_num_threads(), threading.active_count()],
        "random": [torch.get_rng_state().sum().item(), hash(random.getstate())], "files": os.listdir(),
        "defaults": [str(torch.get_default_dtype()), torch.is_grad_enabled(), torch.are_deterministic_algorithms_enabled()],
        "hooks": [sys.excepthook is sys.__excepthook__, sys.displayhook is sys.__displayhook__],
    }
before, models = state(), set(timm.list_models())
import timm_repair
after = state()
new = set(after["handlers"][i][0] for i in range(len(after["handlers"]))) - {name for name, *_ in before["handlers"]}
after["handlers"] = [each for each in after["handlers"] if each[0] not in new]
print(json.dumps({"changed": [k for k in before if before[k] != after[k]], "models": sorted(set(timm.list_models()) - models)}))
"""
    assert printed(script, tmp_path) == {"changed": [], "models": ["timm_repaired"]}


def lines_of(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Of the function, signature included, without its docstring."""
    lines = (node.end_lineno or 0) - node.lineno + 1
    if ast.get_docstring(node):
        lines -= (node.body[0].end_lineno or 0) - node.body[0].lineno + 1
    return lines


def too_large(path: Path) -> list[str]:
    """What in this file has too many lines, the file included."""
    text = path.read_text()
    sizes = {"the file": len(text.splitlines())} if text.count("\n") > LINES else {}
    sizes |= {
        node.name: lines_of(node)
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and lines_of(node) > OF_A_FUNCTION
    }
    return [f"{path}: {name} has {lines} lines" for name, lines in sizes.items()]


def test_what_is_beside_the_package_is_small_too():
    top = Path(__file__).parent.parent
    files = [path for folder in BESIDE for path in sorted((top / folder).rglob("*.py"))]
    assert files and LARGE <= {str(path.relative_to(top)) for path in files}
    large = [line for p in files if str(p.relative_to(top)) not in LARGE for line in too_large(p)]
    assert not large, "\n".join(large)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_are_small_and_explained(path):
    assert too_large(path) == []
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), "a module says what is in it"
    for node in tree.body:
        # a named expression says it itself
        short = isinstance(node, ast.FunctionDef) and len(node.body) == 1
        if (
            isinstance(node, ast.FunctionDef | ast.ClassDef)
            and not node.name.startswith("_")
            and not short
        ):
            assert ast.get_docstring(node), f"{node.name} has no docstring"


def test_public_names_are_there_and_explained():
    named = {name: getattr(timm_repair, name) for name in dir(timm_repair)}
    public = {name for name, value in named.items() if not inspect.ismodule(value)}
    for name in public:
        assert inspect.getdoc(named[name]), name
    # a function called like its module would hide it: timm_repair.localize is the function, the
    # module is localization
    modules = {path.stem for path in ROOT.glob("*.py")} | {
        path.name for path in ROOT.iterdir() if path.is_dir()
    }
    assert not modules & public


def test_nothing_prints_pickles_or_catches_everything():
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and "cli" not in path.parts
                and path.name != "demo.py"
            ):
                assert node.func.id not in {"print", "eval", "exec"}, path
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {alias.name for alias in node.names} | {getattr(node, "module", None)}
                assert not names & {"joblib", "dill"}, path
                assert getattr(node, "module", None) != "pickle", path
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                # values are compared by it; nothing is ever read
                assert node.value.id != "pickle" or node.attr == "dumps", path
            assert not (isinstance(node, ast.ExceptHandler) and node.type is None), path
