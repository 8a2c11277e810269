"""Folders of images: one folder a class, or a metadata file that lists them. Everything that is not
read is counted.
"""

import csv
import json
import logging
import os
from collections import Counter
from pathlib import Path

import pyarrow
import pyarrow.parquet
from PIL import Image

from timm_repair.errors import DataError
from timm_repair.images.readers import (
    IMAGES,
    LABELS,
    Column,
    Files,
    Source,
    nfc,
    separator,
    usually,
)
from timm_repair.images.tables import Columns, from_file
from timm_repair.options import RUN

logger = logging.getLogger(__name__)

SPLITS = {"train", "training", "test", "testing", "validation", "valid", "val", "dev", "eval"}
_LISTED = "file_name"  # the column of a metadata file that names the images, as `datasets` has it
_BESIDES = {"__MACOSX", "__pycache__"}


def from_folder(folder: Path, split: str | None, columns: Columns, name: str) -> Source:
    """The images of a folder, or of its folder `split`.

    Links are followed, but not in a circle; what is hidden (".…") is left out, as is what has not
    the ending of an image; both are counted in one warning.

    Raises:
        DataError: there is no such split, one has to be chosen, or no image lies in a folder that
            names its class.
    """
    # Not datasets' own imagefolder, which takes a file called test_1.png for a test split and loads
    # nothing else, and gives no labels where there is one class
    if split is not None:
        chosen = [f for f in folder.iterdir() if f.is_dir() and nfc(f.name) == nfc(split)]
        if not chosen:
            raise DataError(
                f"{name}: {folder} has no folder {split!r} for split={split!r}, only"
                f" {', '.join(_folders(folder)) or 'files'}"
            )
        folder = chosen[0]
    files, left_out = _images(folder)
    tops = {f.relative_to(folder).parts[0] for f in files if f.parent != folder}
    tops |= set() if files else set(_folders(folder))
    # images right in such a folder are of a class that is called so, as COCO's "train"
    deep = not files or any(len(f.relative_to(folder).parts) > 2 for f in files)
    deep = deep or any(any((folder / top).glob("metadata.*")) for top in tops)
    if tops and deep and SPLITS.issuperset(map(str.lower, tops)):
        raise DataError(
            f"{name}: {folder} holds splits ({', '.join(sorted(tops))}), not classes; choose one"
            " with split="
        )
    listed, foreign = _metadata(folder, columns)
    if listed is not None:
        return _listed(listed, files, left_out, columns, name)
    left_out += Counter(f"{each} (no {_LISTED} with a label)" for each in foreign)
    loose = [f for f in files if f.parent == folder]
    if loose or not files:
        said = _nothing(folder, loose, left_out)
        said += "".join(
            f". {each} lists none: it has {', '.join(_header(folder / each)) or 'no columns'}, and"
            f" must have {_LISTED} and label"
            for each in foreign
        )
        raise DataError(f"{name}: {said}")
    _warn(left_out, folder, name)
    labels = [nfc(f.parent.name) for f in files]
    if any(len(f.relative_to(folder).parts) > 2 for f in files):
        logger.warning(
            "%s: in %s folders lie inside folders; the innermost names the class: %s",
            name,
            folder,
            ", ".join(sorted(set(labels))[:5]),
        )
    ids = [f.relative_to(folder).as_posix() for f in files]
    return Source(
        Files(None, files), labels, sorted(set(labels)), ids, {"columns": None}, dict(left_out)
    )


def _folders(folder: Path) -> list[str]:
    return sorted(f.name for f in folder.iterdir() if f.is_dir() and not _hidden(f.name))


def _hidden(name: str) -> bool:
    return name.startswith(".") or name in _BESIDES


def _images(folder: Path) -> tuple[list[Path], Counter]:
    """The image files below `folder`, sorted; and how many other things there are, by kind."""
    formats = Image.registered_extensions()
    endings = {ending for ending, kind in formats.items() if kind in Image.OPEN}
    found: list[Path] = []
    left_out: Counter = Counter()
    # folder -> the real ones it lies in
    above: dict[str, tuple[str, ...]] = {str(folder): (os.path.realpath(folder),)}
    for place, folders, files in os.walk(folder, followlinks=True):
        for each in folders[:]:
            path = os.path.join(place, each)
            real = os.path.realpath(path)
            if _hidden(each) or real in above[place]:
                folders.remove(each)
                left_out["hidden" if _hidden(each) else "links in a circle"] += 1
            else:
                above[path] = (*above[place], real)
        for each in files:
            file = Path(place, each)
            if _hidden(each):
                left_out["hidden"] += 1
            elif not file.is_file():
                left_out["links that lead nowhere"] += 1
            elif file.suffix.lower() in endings:
                found.append(file)
            elif not (place == str(folder) and (file.stem == "metadata" or each == RUN)):
                left_out[file.suffix.lower() or "no ending"] += 1
    return sorted(found), left_out


def _warn(left_out: Counter, folder: Path, name: str) -> None:
    if left_out:
        counts = ", ".join(f"{kind}: {count}" for kind, count in left_out.most_common())
        logger.warning("%s: left out in %s, as no images: %s", name, folder, counts)


def _nothing(folder: Path, loose: list[Path], left_out: Counter) -> str:
    fix = "put images into one folder per class, or give a list of (path, label)"
    if loose:
        return f"{folder} holds {len(loose)} images outside a folder that names their class; {fix}"
    counts = ", ".join(f"{kind}: {count}" for kind, count in left_out.most_common())
    return f"{folder} holds no images ({counts or 'it is empty'}); check the path, or {fix}"


def _metadata(folder: Path, columns: Columns) -> tuple[Path | None, list[str]]:
    """The metadata file that lists images with labels, if there is one; and those that do not."""
    foreign = []
    for ending in ("csv", "jsonl", "parquet"):
        file = folder / f"metadata.{ending}"
        if not file.is_file():
            continue
        header = _header(file)
        named = usually(header, LABELS)
        labelled = columns[1] in header if columns[1] else bool(named) or len(header) == 2
        if _naming(file, header) is not None and labelled:
            return file, foreign
        foreign.append(file.name)
    return None, foreign


def _naming(file: Path, header: list[str]) -> str | None:
    """The column of a metadata file that names its images: as `datasets` has it, or one that is
    called alike and names, in the first row, a file that is there.
    """
    if _LISTED in header:
        return _LISTED
    likely = usually(header, IMAGES[::-1])
    if len(likely) != 1 or file.suffix != ".csv":
        return None
    with file.open(encoding="utf-8-sig", newline="") as lines:
        rows = csv.DictReader(lines, delimiter=separator(file))
        first = (next(rows, None) or {}).get(likely[0])
    return likely[0] if first and (file.parent / first).is_file() else None


def _header(file: Path) -> list[str]:
    """Names of a table's columns; none where it cannot be read as what it is called."""
    try:
        if file.suffix == ".parquet":
            return pyarrow.parquet.read_schema(file).names
        with file.open(encoding="utf-8-sig", newline="") as lines:
            if file.suffix == ".csv":
                return next(csv.reader(lines, delimiter=separator(file)), [])
            first = json.loads(lines.readline() or "{}")
            return list(first) if isinstance(first, dict) else []
    except (OSError, ValueError, csv.Error, pyarrow.ArrowException):
        return []


def _listed(
    file: Path, files: list[Path], left_out: Counter, columns: Columns, name: str
) -> Source:
    """What a metadata file lists; images that it does not list are counted."""
    header = _header(file)
    naming, label = _naming(file, header), columns[1]
    if label is None and not usually(header, LABELS):
        label = next(column for column in header if column != naming)
    found = from_file(file, (columns[0] or naming, label), name)
    assert isinstance(found, Source) and isinstance(found.reader, Column), "loaded whole"
    column = found.reader.dataset[found.reader.dataset.column_names[0]]
    known = {file.parent / str(path) for path in column}
    left_out["images that it does not list"] += sum(each not in known for each in files)
    left_out = +left_out
    _warn(left_out, file, name)
    found.left_out |= dict(left_out)
    return found
