"""Privacy: a report for others to read, without what is nobody's business: paths and names of the
machine it was made on, and what single examples are called.
"""

import getpass
import os
import re
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from timm_repair.report import wording
from timm_repair.report.report import Report

_PATH = re.compile(
    r"(?<![\w/…])(?:file://|~[\w.-]*|\.{1,2}|[A-Za-z]:)?[\\/](?=[^\s\\/])[^\s'\"<>|]*"
)
# "list of 550": what is told of a source that is no place
# the paragraphs of a diagnosis that name single examples
NAMING = ("Likely label errors", "Single images")
_SAYS_NOTHING = re.compile(r"(datasets\.)?\w+ of \d+")


def published(report: Report) -> Report:
    """The report without paths: places other than Hub ids become "local data", paths in texts
    become "…". What was asked for, in which every name may be a path, is left out, and so are the
    ids of examples.
    """
    here = _of_this_machine()
    fields = {
        name: _without_paths(getattr(report, name), here)
        for name in ("options", "provenance", "notes", "stages", "versions")
    }
    remote = report.model.startswith(("hf-hub:", "hf_hub:"))
    name = report.model if remote else wording.short_name(report.model)
    scores = tuple(
        replace(each, examples=None if each.examples is None else replace(each.examples, ids=None))
        for each in report.scores
    )
    found = report.diagnosis and _without_paths(_without_ids(report.diagnosis), here)
    return replace(
        report,
        model=_without_paths(name, here),
        scores=scores,
        diagnosis=found,
        asked={},
        **fields,
    )


def _without_ids(diagnosis: dict) -> dict:
    """A diagnosis that names no single example, neither as values nor in its text, and shows no
    pixels of theirs, as a fixed overlay does.
    """
    quality = {
        name: [] if isinstance(value, list) else value
        for name, value in (diagnosis.get("quality") or {}).items()
    }
    parts = str(diagnosis.get("text", "")).split("\n\n")
    told = [part for part in parts if not part.lstrip().startswith(NAMING)]
    patterns = [
        pattern | {"parts": [part | {"picture": ""} for part in pattern.get("parts") or []]}
        for pattern in diagnosis.get("patterns") or []
    ]
    told = "\n\n".join(told)
    return diagnosis | {"labels": [], "quality": quality, "patterns": patterns, "text": told}


def _of_this_machine() -> list[str]:
    """Folders that may have spaces in their names, the longest first."""
    try:
        homes = [str(Path.home()), f"/home/{getpass.getuser()}"]
    except (RuntimeError, OSError, KeyError):  # a user without a home or a name
        homes = []
    return sorted(
        {p for p in [*homes, os.getcwd(), tempfile.gettempdir()] if len(p) > 3},
        key=len,
        reverse=True,
    )


def _without_paths(value: Any, here: Iterable[str], key: str = "") -> Any:
    if isinstance(value, dict):
        public = "dataset" in value  # its source is a Hub id, no path
        return {
            k: v if k == "source" and public else _without_paths(v, here, k)
            for k, v in value.items()
        }
    if isinstance(value, list | tuple):
        return type(value)(_without_paths(each, here, key) for each in value)
    if not isinstance(value, str):
        return value
    if key == "source":
        return value if _SAYS_NOTHING.fullmatch(value) else "local data"
    for folder in here:
        value = value.replace(folder, "/…")
    return _PATH.sub("…", value)
