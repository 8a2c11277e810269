"""Opening: the repairs that a place holds, to be chosen from."""

import logging
import os
from dataclasses import dataclass
from pathlib import Path

from timm_repair.errors import ConfigError, OutputError, RepairError
from timm_repair.hub.fetching import fetch
from timm_repair.hub.folder import CONFIG, REPORT
from timm_repair.hub.pictures import FOLDER, read
from timm_repair.hub.saving import read_report
from timm_repair.report.gallery import Gallery
from timm_repair.report.report import Report

logger = logging.getLogger(__name__)

DEPTH = 3  # folders below the place: of a comparison they are out/seed-0/finetune
MOST = 100


@dataclass(frozen=True)
class Saved:
    """A finished repair.

    Args:
        name: to choose it by, the same for no two of a place.
        source: what `from_pretrained` loads; of the Hub at a commit.
        folder: where its files lie.
        gallery: its pictures; those of the Hub have none.
    """

    name: str
    source: str
    folder: Path
    report: Report
    gallery: Gallery


def opened(place: str | Path) -> list[Saved]:
    """The repairs of `place`: a finished repair's folder, a folder with several, or a Hub id.

    Raises:
        ConfigError: it holds none, or one that is damaged.
        ModelError, HubError: it is neither a folder nor on the Hub.
    """
    folder = Path(place).expanduser()
    if not folder.is_dir():
        return [_from_hub(str(place))]
    if is_finished(folder):
        return [_from_folder(folder, folder.resolve().name)]
    found = inside(folder)
    if not found:
        raise ConfigError(
            f"{str(folder)!r} holds no finished repair: give the output directory of a repair, a"
            " folder with several, or a Hub id"
        )
    return found


def inside(folder: Path, within: str = "") -> list[Saved]:
    """The finished repairs below a folder, by name, which begins with `within`; those that cannot
    be read are told.
    """
    found = []
    for place, folders, _ in os.walk(folder):
        here = Path(place)
        depth = len(here.relative_to(folder).parts)
        folders[:] = sorted(f for f in folders if not f.startswith(".")) if depth < DEPTH else []
        if depth == 0 or not is_finished(here):
            continue
        folders.clear()
        try:
            name = Path(within) / here.relative_to(folder)
            found.append(_from_folder(here, name.as_posix()))
        except RepairError as error:
            logger.warning("left out: %s", error)
        if len(found) == MOST:
            logger.warning("%s holds more than %d repairs: the first are shown", folder, MOST)
            break
    return found


def is_finished(folder: Path) -> bool:
    """Whether a repair was saved there; its config comes last."""
    return all((folder / name).is_file() for name in (REPORT, CONFIG))


def _from_folder(folder: Path, name: str) -> Saved:
    report = _of_images(read_report(folder / REPORT), str(folder))
    return Saved(name, str(folder), folder, report, read(folder / FOLDER, report))


def _from_hub(place: str) -> Saved:
    found = fetch(place)
    path = found.file(REPORT)
    if path is None:
        raise ConfigError(f"{place} has no {REPORT}: it is no repaired model")
    report = _of_images(read_report(path), place)
    # what a folder of the cache is called says nothing
    return Saved(found.repo_id or place, found.source, found.folder, report, Gallery())


def _of_images(report: Report, where: str) -> Report:
    if report.properties:
        raise ConfigError(f"{where}: a network with properties takes no images to be shown")
    return report


def workplace(place: str | Path) -> Path:
    """Where the app keeps what it makes: beside a folder, since that holds nothing but the repair;
    of a Hub id here.

    Raises:
        OutputError: a folder of a root has nothing beside it.
    """
    folder = Path(place).expanduser()
    if not folder.is_dir():
        name = str(place).rpartition(":")[2].partition("@")[0].rpartition("/")[2]
        return Path(f"{name}-app")
    folder = folder.resolve()
    if not folder.name:
        raise OutputError(f"nothing can be kept beside {str(folder)!r}: pass work=")
    return folder.with_name(f"{folder.name}-app")
