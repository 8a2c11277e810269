"""A finished repair in a folder: the same call again is answered from it, and another one does not
take its place unasked.
"""

import logging
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from timm_repair.errors import AssumptionWarning, OutputError, RepairError, ResumeError
from timm_repair.hub.folder import CONFIG, REPORT
from timm_repair.hub.lineage import Base, Lineage, edits_since
from timm_repair.hub.loading import from_pretrained
from timm_repair.hub.pictures import FOLDER, read
from timm_repair.hub.saving import read_report
from timm_repair.models.weights import fingerprint
from timm_repair.pipeline.case import run_of
from timm_repair.pipeline.repaired import Repaired
from timm_repair.report.report import Report
from timm_repair.runtime.journal import Journal, differences
from timm_repair.runtime.runtime import Runtime

logger = logging.getLogger(__name__)

_WAYS = "choose another output_dir to keep it, or pass overwrite=True to replace it"


def finished(directory: Path) -> Report | None:
    """The report of the repair that `directory` holds; None if it holds none, or none that is
    whole.

    Raises:
        OutputError: it cannot be read.
    """
    # a config comes last: without one a save was cut off
    if not all((directory / name).is_file() for name in (REPORT, CONFIG)):
        return None
    try:
        return read_report(directory / REPORT)
    except RepairError as error:
        raise OutputError(
            f"{str(directory)!r} holds a repair that cannot be read ({error}): {_WAYS}"
        ) from error


def refuse_another(report: Report, directory: Path, run: Mapping[str, Any]) -> None:
    """Raise OutputError if `report` is of another run than `run`, as far as that is known:
    `case.identity` or a part of it.
    """
    before = {name: value for name, value in run_of(report).items() if name in run}
    known = {name: run[name] for name in before if before[name] not in (None, {})}
    if different := differences({name: before[name] for name in known}, known):
        raise OutputError(
            f"{str(directory)!r} holds the finished repair of {report.model} with {report.method},"
            f" which differs from this one in {different}: {_WAYS}"
        )


def answered(
    directory: Path,
    report: Report,
    run: Mapping[str, Any],
    base: Base,
    original: nn.Module,
    runtime: Runtime,
) -> Repaired:
    """What the finished repair of the same run gave, from its folder.

    Raises:
        OutputError: it is of another run, or was changed since.
    """
    refuse_another(report, directory, run)
    try:
        with warnings.catch_warnings():  # weights that were changed are refused below
            warnings.simplefilter("ignore", AssumptionWarning)
            model = from_pretrained(directory)
    except RepairError as error:
        raise OutputError(
            f"{str(directory)!r} holds a repair that cannot be loaded ({error}): {_WAYS}"
        ) from error
    if report.weights is not None and fingerprint(model.state_dict()) != report.weights:
        raise OutputError(
            f"{str(directory)!r} holds other weights than its report measured: {_WAYS}"
        )
    with suppress(ResumeError):  # of this run a journal is done; that of another one stays
        Journal(directory, run, runtime.accelerator).close()
    logger.warning(
        "%s holds this repair already: it is answered from there, nothing was computed", directory
    )
    model.to(next(original.parameters()).device)
    edits = tuple(edits_since(original, model))
    pictures = read(directory / FOLDER, report)
    known = Lineage.between(base, original, model, edits, report)
    replace(known, gallery=pictures).attach(model)
    return Repaired(model, report, edits, runtime.accelerator.is_main_process, pictures)
