"""Opening: a path, a Hub id or a dataset as a `Source`, or as a `Stream` of which nothing is read
yet.
"""

import difflib
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
import torch

from timm_repair.errors import DataError
from timm_repair.images.examples import as_columns, from_columns, from_examples
from timm_repair.images.folders import from_folder
from timm_repair.images.readers import Source
from timm_repair.images.reading import Reading, is_stream
from timm_repair.images.streams import Generated, Stream
from timm_repair.images.tables import FORMATS, Columns, from_dataset, from_file, load, one_split

logger = logging.getLogger(__name__)

_HUB_ID = re.compile(r"(hfds/)?([\w.-]+/[\w.-]+)")


def open_source(source: Any, reading: Reading, name: str, hub: dict) -> Source:
    """What `as_images` reads from, opened: a reader of raw images, and what is known of their
    labels.
    """
    found = find(source, reading, name, hub)
    found = found.source(reading.max_examples) if isinstance(found, Stream) else found
    if len(found.labels) == 0:
        raise DataError(
            f"{name}: {found.origin['source']} holds no examples; give at least one image with its"
            " label"
        )
    return found


def find(source: Any, reading: Reading, name: str, hub: dict) -> Source | Stream:
    """`source` opened; of a stream nothing is read yet.

    Args:
        hub: the options revision and token of `load_dataset`.
    """
    split, columns = reading.split, reading.columns
    if isinstance(source, str | Path):
        if not str(source).strip():
            raise DataError(f"{name}: the path is empty; give one, or a dataset")
        hub = hub | {"streaming": reading.streaming or None}
        return _from_path(source, split, columns, name, hub)
    if isinstance(source, datasets.Dataset | datasets.IterableDataset):
        return from_dataset(source, columns, name)
    table = as_columns(source, columns)
    if split is not None and (table is not None or not isinstance(source, Mapping)):
        logger.warning("%s: split=%r means nothing for a %s", name, split, type(source).__name__)
    if table is not None:
        return from_columns(table, columns, name)
    if isinstance(source, Mapping):
        chosen = one_split(source, split, name)
        if isinstance(chosen, Mapping):
            raise DataError(f"{name}: {type(chosen).__name__} is no dataset")
        return find(chosen, reading, name, hub)
    if is_stream(source):
        origin = {"source": type(source).__name__}
        return Stream(Generated(source, columns, name), ("image", "label"), name, origin=origin)
    if isinstance(source, torch.utils.data.Dataset) or (
        hasattr(source, "__getitem__") and hasattr(source, "__len__")
    ):
        return from_examples(source, columns, name, reading.on_unreadable)
    hint = "; give the dataset that it loads, loader.dataset" if hasattr(source, "dataset") else ""
    raise DataError(
        f"{name}: cannot take images from {type(source).__name__}{hint}. See timm_repair.as_images"
    )


def _from_path(
    path: str | Path, split: str | None, columns: Columns, name: str, hub: dict
) -> Source | Stream:
    local, text = Path(path).expanduser(), str(path)
    published = False
    try:
        if local.is_dir():
            kind, found = _from_local_folder(local, split, columns, name)
        elif local.is_file():
            _require_format(local, name, text)
            kind = "a file"
            found = from_file(local, columns, name, streaming=bool(hub.get("streaming")))
        else:
            kind, published = "a dataset of the Hub", True
            found = _from_hub(_hub_id(local, text, name), text, split, columns, name, hub)
    except OSError as error:
        raise DataError(
            f"{name}: {text:.200} cannot be read ({error.strerror or error}); check the path"
        ) from error
    logger.info("%s: read from %s, %s", name, text, kind)
    found.origin["source"] = text + (f"@{hub['revision']}" if hub["revision"] and published else "")
    if published:
        found.origin["dataset"] = _hub_id(local, text, name)
    if isinstance(found, Stream):
        return found
    found.reader.key = (str(local.resolve()) if local.exists() else found.origin["source"], split)
    return found


def _from_local_folder(
    folder: Path, split: str | None, columns: Columns, name: str
) -> tuple[str, Any]:
    if not any((folder / f"dataset_{each}.json").exists() for each in ("info", "dict")):
        return "an image folder", from_folder(folder, split, columns, name)
    saved = datasets.load_from_disk(str(folder))
    chosen = one_split(saved, split, name) if isinstance(saved, dict) else saved
    return "a saved dataset", from_dataset(chosen, columns, name)


def _require_format(file: Path, name: str, text: str) -> None:
    ending = file.suffix.lower()
    if ending in FORMATS:
        return
    packed = ending in (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar")
    fix = "unpack it, and give the folder" if packed else "convert it, or give a folder of images"
    raise DataError(f"{name}: {text} is none of {', '.join(FORMATS)}; {fix}")


def _hub_id(local: Path, text: str, name: str) -> str:
    """The Hub id that `text` is, where nothing of that name is on this machine.

    Raises:
        DataError: it can only be a path: its first folder is there, or it has the ending of a file.
    """
    match = _HUB_ID.fullmatch(text)
    is_path = local.parent != Path(".") and local.parent.is_dir()
    if match and (match[1] or not (is_path or local.suffix.lower() in FORMATS)):
        return match[2]
    there = [each.name for each in local.parent.iterdir()] if local.parent.is_dir() else []
    close = difflib.get_close_matches(local.name, there, n=1)
    what = "file" if local.suffix.lower() in FORMATS else "folder or file"
    said = f"{name}: there is no such {what}: {text:.200} does not exist"
    said += f"; did you mean {str(local.parent / close[0])!r}?" if close else "."
    if match and is_path:
        said += (
            f" As {str(local.parent)!r} is a folder here, the Hub was not asked; for a dataset of"
            f" the Hub give 'hfds/{text:.200}'."
        )
    elif not match:
        said += " Nor can it be a Hub id ('namespace/name')."
    raise DataError(f"{said} Check the path")


def _from_hub(
    dataset: str, text: str, split: str | None, columns: Columns, name: str, hub: dict
) -> Source | Stream:
    options = {key: value for key, value in hub.items() if value is not None}
    loaded = load(dataset, name, text, split=split, **options)
    if isinstance(loaded, dict):
        loaded = one_split(loaded, None, name)
    return from_dataset(loaded, columns, name, token=hub["token"])
