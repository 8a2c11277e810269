"""Writing: labelled images as a folder that can be looked at, and read again as it was."""

import csv
import io
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

from timm_repair.errors import OutputError
from timm_repair.images.decoding import open_image

LISTED = "metadata.csv"


def write_folder(examples: Iterable[tuple[Any, str | int]], folder: Path) -> int:
    """Write images into one folder a class, with a metadata.csv that has the labels as they are: no
    name of a class is lost that a file system does not take. Returns how many.

    Files and encoded images are copied byte for byte; what was never encoded becomes PNG.

    Args:
        examples: of each what `open_image` takes, and its label.
    """
    rows = []
    for number, (raw, label) in enumerate(examples):
        place = Path(_safe(str(label)), f"{number:06d}")
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        rows.append((_write(raw, folder / place).relative_to(folder).as_posix(), label))
    with (folder / LISTED).open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("file_name", "label"), *rows])
    return len(rows)


@contextmanager
def replacing(folder: Path, mark: str, *, overwrite: bool) -> Iterator[Path]:
    """An empty folder to write to, which takes the place of `folder` when all went well.

    Args:
        mark: the file that says that a folder is ours, and may be replaced if `overwrite`.

    Raises:
        OutputError: `folder` is a file, cannot be written, or holds something that would be lost.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        if not (folder / mark).is_file():
            raise OutputError(f"{str(folder)!r} is not empty: choose another output_dir=")
        if not overwrite:
            raise OutputError(f"{str(folder)!r} exists: choose another output_dir=, or pass"
                              " overwrite=True to replace it")  # fmt: skip
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch:
            new = Path(scratch) / "new"
            new.mkdir()
            yield new
            if folder.exists():
                folder.replace(Path(scratch) / "old")
            new.replace(folder)
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise OutputError(
            f"cannot write to {str(folder)!r} ({error}): make room, or choose another output_dir="
        ) from error


def _safe(name: str) -> str:
    """A name that any file system takes, and which leads nowhere else."""
    return re.sub(r"[^\w ,+()'-]", "_", name).strip(" ,")[:60] or "_"


def _write(raw: Any, path: Path) -> Path:
    if isinstance(raw, Mapping):
        raw = raw.get("bytes") or raw.get("path")
    if isinstance(raw, str | Path):
        return Path(shutil.copyfile(raw, path.with_suffix(Path(raw).suffix.lower())))
    if isinstance(raw, bytes | bytearray | memoryview):
        kind = Image.open(io.BytesIO(raw)).format or "png"
        path = path.with_suffix(f".{kind.lower()}")
        path.write_bytes(raw)
        return path
    path = path.with_suffix(".png")
    open_image(raw).save(path)
    return path
