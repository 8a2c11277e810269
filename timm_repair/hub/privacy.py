"""Privacy: a report for others to read, without what is nobody's business: paths and names of the
machine it was made on.
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
_SAYS_NOTHING = re.compile(r"(datasets\.)?\w+ of \d+")


def published(report: Report) -> Report:
    """The report without paths: places other than Hub ids become "local data", paths in texts
    become "…".
    """
    here = _of_this_machine()
    fields = {
        name: _without_paths(getattr(report, name), here)
        for name in ("options", "provenance", "notes", "stages", "versions")
    }
    remote = report.model.startswith(("hf-hub:", "hf_hub:"))
    name = report.model if remote else wording.short_name(report.model)
    return replace(report, model=_without_paths(name, here), **fields)


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
