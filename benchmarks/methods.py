"""The table of docs/methods/README.md, of METHODS themselves; table.py writes it.

A method's idea is the first paragraph of its module, its paper its `paper`; what it changes is what
its rows in tests/cases.py claim, which the contract tests hold it to.
"""

import inspect
import re
import runpy
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from timm_repair.methods import METHODS

CASES = Path(__file__).parent.parent / "tests" / "cases.py"
ARXIV = re.compile(r"arXiv:(\d{4}\.\d{4,5})")
# as cases.py calls them, and as the table does
CHANGES = {
    "architecture": "architecture",
    "weights": "weights",
    "statistics": "batch-norm statistics",
}
HEADER = ["method", "idea", "paper", "changes"]


def methods_table(methods: Mapping[str, type] = METHODS) -> tuple[list[str], list[list[str]]]:
    """A row a method: its name, which leads to its card, its idea, its paper, what it changes."""
    sys.path.append(str(CASES.parent))  # what it stands on is beside it
    cases = runpy.run_path(str(CASES))["METHOD_CASES"].values()
    sys.path.remove(str(CASES.parent))
    rows = []
    for name, method in methods.items():
        its = [case for case in cases if case.method == name]
        changes = {change for case in its for change in case.changes}
        if any(case.searches for case in its):
            changes.add("architecture")
        rows.append([f"[{name}]({name}.md)", idea(method), paper(method), listed(changes)])
    return HEADER, [[cell.replace("|", "\\|") for cell in row] for row in rows]


def idea(method: type) -> str:
    text = inspect.getdoc(sys.modules[method.__module__]) or ""
    return " ".join(text.partition("\n\n")[0].split())


def paper(method: type) -> str:
    """Its `paper`, arXiv ids as links."""
    return ARXIV.sub(r"[\g<0>](https://arxiv.org/abs/\1)", method.paper)


def listed(changes: Iterable[str]) -> str:
    return ", ".join(text for change, text in CHANGES.items() if change in changes) or "nothing"
