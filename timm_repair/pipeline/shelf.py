"""Shelf: a comparison in a folder, from which it goes on after a kill, and is read back.

comparison.json          which rows there are, and what failed
figures/pareto.png       where matplotlib is installed
seed-0/ROW/              each repair as `repair` saves it
"""

import json
import logging
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from timm_repair.errors import ConfigError, OptionError, OutputError
from timm_repair.hub.folder import REPORT, writable
from timm_repair.hub.saving import read_report
from timm_repair.hub.trust.config import MAX_REPORT, read_json
from timm_repair.options import RUN
from timm_repair.pipeline.finished import finished
from timm_repair.report import pareto
from timm_repair.report.comparison import Comparison
from timm_repair.report.report import Report
from timm_repair.report.rows import Row, Run
from timm_repair.runtime.boundary import public

CONTENTS, FIGURES, SEED = "comparison.json", "figures", "seed-"

logger = logging.getLogger(__name__)


def check_shelf(directory: str | Path, labels: Iterable[str]) -> Path:
    """The folder of a comparison, made if missing; called before any work starts.

    Raises:
        OutputError: it is a file, cannot be written, or holds what is not of a comparison.
        OptionError: two labels would have one folder.
    """
    path = writable(directory)
    ours = re.compile(rf"{CONTENTS}(\.new)?|{RUN}|{FIGURES}|{SEED}\d+")
    if foreign := sorted(p.name for p in path.iterdir() if not ours.fullmatch(p.name)):
        raise OutputError(
            f"{str(path)!r} holds {', '.join(foreign[:5])}, which is not of a comparison: choose an"
            " empty directory"
        )
    taken: dict[str, str] = {}
    for label in labels:
        other = taken.setdefault(_slug(label).casefold(), label)
        if other != label:
            raise OptionError(
                f"the rows {other!r} and {label!r} would be saved in one folder: give compare() a"
                " dict label -> method with names that differ in letters and digits"
            )
    return path


def place(directory: Path, label: str, seed: int) -> Path:
    """The folder of one repair."""
    return directory / f"{SEED}{seed}" / _slug(label)


def _slug(label: str) -> str:
    return re.sub(r"[^\w+.=-]+", "-", label).strip("-.")[:100] or "row"


def done_in(folder: Path, *, properties: bool) -> Report | None:
    """The report of the finished repair in `folder`; None if there is none."""
    if not properties:
        return finished(folder)
    # the report of a network with properties is written last
    return read_report(folder / REPORT) if (folder / REPORT).is_file() else None


def clear(directory: Path, labels: Iterable[str], seeds: Iterable[int]) -> None:
    """Remove what these rows have left."""
    for seed in seeds:
        for label in labels:
            shutil.rmtree(place(directory, label, seed), ignore_errors=True)


def write(comparison: Comparison, directory: Path) -> None:
    """Note which rows there are; the repairs themselves are saved already.

    Raises:
        OutputError: it cannot be written.
    """
    new = directory / f"{CONTENTS}.new"
    try:
        new.write_text(json.dumps(comparison.to_dict(reports=False), indent=1), encoding="utf-8")
        new.replace(directory / CONTENTS)
    except OSError as error:
        raise OutputError(
            f"cannot write to {str(directory)!r} ({error}): make room or give write access, then"
            " run the same again; finished rows are read back"
        ) from error


def draw(comparison: Comparison, directory: Path) -> None:
    """The figure, if it can be drawn: a comparison is not lost for it."""
    if not find_spec("matplotlib") or not comparison.populations:
        return
    try:
        (directory / FIGURES).mkdir(exist_ok=True)
        pareto.pareto(comparison).savefig(directory / FIGURES / "pareto.png", dpi=160)
    except Exception as error:  # noqa: BLE001  whatever matplotlib makes of fonts and disks
        logger.warning("saved without a figure (%s: %.200s)", type(error).__name__, error)


@public
def read_comparison(directory: str | Path) -> Comparison:
    """The comparison that `compare(output_dir=directory)` or `timm-repair compare` left in a
    folder, as far as it came; or the one in a JSON file.

    The rows have no models: `timm_repair.from_pretrained(comparison.rows[label].folder)` loads one.

    Raises:
        ConfigError: there is none, or it is damaged.

    Example:
        >>> print(timm_repair.read_comparison("compared/"))
    """
    path = Path(directory).expanduser()
    file = path / CONTENTS if path.is_dir() else path
    if not file.is_file():
        raise ConfigError(
            f"{str(path)!r} holds no comparison: give the output directory of compare(), or the"
            " JSON file of a comparison"
        )
    data = read_json(file, f"{str(file)!r}", MAX_REPORT)
    if path.is_dir() and isinstance(data, Mapping) and isinstance(data.get("rows"), Mapping):
        data = {**data, "rows": {k: _with_reports(k, v, path) for k, v in data["rows"].items()}}
    found = Comparison.from_dict(data)
    rows = {k: _with_folders(row, path) for k, row in found.rows.items()} if path.is_dir() else None
    return found if rows is None else replace(found, rows=rows)


def _with_reports(label: str, runs: object, directory: Path) -> object:
    """The runs as `Comparison.from_dict` takes them."""
    if not isinstance(runs, list) or not all(isinstance(r, dict) and "seed" in r for r in runs):
        return runs
    return [
        run
        if run.get("error") is not None
        else run | {"report": read_report(place(directory, label, run["seed"]) / REPORT).to_dict()}
        for run in runs
    ]


def _with_folders(row: Row, directory: Path) -> Row:
    def placed(run: Run) -> Run:
        here = place(directory, row.label, run.seed)
        return run if run.report is None else replace(run, folder=here)

    return replace(row, runs=tuple(map(placed, row.runs)))
