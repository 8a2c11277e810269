"""A finished repair in a folder, and images for its model: `from app.saved_repairs import *`."""

from collections.abc import Iterator
from pathlib import Path

import planted
import pytest
from loopback.pushing import NAMES, base_folder, repaired_once

from timm_repair import Repaired
from timm_repair.app.workbench import Workbench
from timm_repair.hub import saving

__all__ = ["base_folder", "bench", "dropped", "repaired_once", "saved_once"]


@pytest.fixture(scope="session")
def saved_once(repaired_once: Repaired, tmp_path_factory) -> Path:
    """The repair of `repaired_once`, saved without figures."""
    folder = tmp_path_factory.mktemp("app") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(saving, "find_spec", lambda name: None)
        repaired_once.save_pretrained(folder)
    return folder


@pytest.fixture
def bench(saved_once: Path, base_folder: Path, tmp_path: Path) -> Iterator[Workbench]:
    """The workbench on it, which knows the original."""
    made = Workbench.of(saved_once, work=tmp_path / "work", original=str(base_folder))
    yield made
    made.close()


@pytest.fixture
def dropped(tmp_path: Path) -> dict[str, list[Path]]:
    """Name of a class to files of it."""
    found: dict[str, list[Path]] = {}
    for i, (image, label) in enumerate(planted.pictures(48, 7, classes=4, mode="RGB")):
        path = tmp_path / f"{NAMES[label]}-{i}.png"
        image.save(path)
        found.setdefault(NAMES[label], []).append(path)
    return found
