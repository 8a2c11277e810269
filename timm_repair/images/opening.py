"""Opening: a path, a Hub id or a dataset as a `Source`, or as a `Stream` of which nothing is read
yet.
"""

import logging
import re
from pathlib import Path
from typing import Any

import datasets
import torch
from PIL import Image

from timm_repair.errors import DataError
from timm_repair.images.loading_errors import LOADING_ERRORS, raise_loading
from timm_repair.images.readers import Column, Files, Source, choose_columns, from_examples
from timm_repair.images.reading import Reading
from timm_repair.images.streams import Stream

logger = logging.getLogger(__name__)

_FORMATS = {".parquet": "parquet", ".csv": "csv", ".json": "json", ".jsonl": "json"}
_HUB_ID = re.compile(r"(hfds/)?([\w.-]+/[\w.-]+)")
_SPLITS = {"train", "training", "test", "testing", "validation", "valid", "val", "dev", "eval"}


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
        hub = hub | {"streaming": reading.streaming or None}
        return _from_path(source, split, columns, name, hub)
    if isinstance(source, dict | datasets.Dataset | datasets.IterableDataset):
        return _from_dataset(source, split, columns, name)
    if isinstance(source, list | torch.utils.data.Dataset):
        return from_examples(source, columns, name)
    hint = "; give the dataset that it loads, loader.dataset" if hasattr(source, "dataset") else ""
    raise DataError(
        f"{name}: cannot take images from {type(source).__name__}{hint}. See timm_repair.as_images"
    )


def _from_path(
    path: str | Path, split: str | None, columns: tuple, name: str, hub: dict
) -> Source | Stream:
    local, text = Path(path).expanduser(), str(path)
    if local.is_dir():
        if (local / "dataset_info.json").exists() or (local / "dataset_dict.json").exists():
            kind = "a saved dataset"
            found = _from_dataset(datasets.load_from_disk(str(local)), split, columns, name)
        else:
            kind, found = "an image folder", _from_folder(local, split, columns, name)
    elif local.is_file():
        if local.suffix.lower() not in _FORMATS:
            raise DataError(
                f"{name}: {text} is none of {', '.join(_FORMATS)}; convert it, or give a folder of"
                " images"
            )
        kind, streaming = "a file", bool(hub.get("streaming"))
        files = str(local.resolve())
        table = _load(
            _FORMATS[local.suffix.lower()],
            name,
            text,
            data_files=files,
            split="train",
            streaming=streaming,
        )
        found = _from_dataset(table, None, columns, name, root=local.parent)
    elif match := _HUB_ID.fullmatch(text):
        kind = "a dataset of the Hub"
        options = {key: value for key, value in hub.items() if value is not None}
        found = _from_dataset(
            _load(match[2], name, text, split=split, **options),
            None,
            columns,
            name,
            token=hub["token"],
        )
    else:
        raise DataError(
            f"{name}: {text} does not exist, nor can it be a Hub id ('namespace/name'); check the"
            " path"
        )
    logger.info("%s: read from %s, %s", name, text, kind)
    published = kind.endswith("Hub")
    found.origin["source"] = text + (f"@{hub['revision']}" if hub["revision"] and published else "")
    if published:
        found.origin["dataset"] = match[2]
    if isinstance(found, Stream):
        return found
    found.reader.key = (str(local.resolve()) if local.exists() else found.origin["source"], split)
    return found


def _load(builder: str, name: str, text: str, **options) -> Any:
    try:
        return datasets.load_dataset(builder, **options)
    except LOADING_ERRORS as error:
        raise_loading(
            f"{name}: {text} cannot be loaded, neither from this machine nor from the Hub",
            error,
            options.get("token"),
        )


def _from_folder(folder: Path, split: str | None, columns: tuple, name: str) -> Source:
    # Not datasets' own imagefolder, which takes a file called test_1.png for a test split and loads
    # nothing else, and gives no labels where there is one class
    if split is not None and not (folder / split).is_dir():
        raise DataError(f"{name}: {folder} has no folder {split!r} for split={split!r}")
    folder = folder / split if split else folder
    below = sorted(child.name for child in folder.iterdir() if child.is_dir())
    if below and _SPLITS.issuperset(below):
        raise DataError(
            f"{name}: {folder} holds splits ({', '.join(below)}), not classes; choose one with"
            " split="
        )
    if any((folder / f"metadata.{ending}").exists() for ending in ("csv", "jsonl", "parquet")):
        table = _load(
            "imagefolder",
            name,
            str(folder),
            data_files={"train": [str(folder / "**")]},
            split="train",
        )
        found = _from_dataset(table, None, columns, name)
        assert isinstance(found, Source), "a table that was loaded whole"
        return found
    endings = Image.registered_extensions()
    files = sorted(f for f in folder.rglob("*") if f.suffix.lower() in endings and f.is_file())
    loose = [f for f in files if f.parent == folder]
    if loose or not files:
        raise DataError(
            f"{name}: {folder} holds {f'{len(loose)} images' if loose else 'no images'} outside a"
            " folder that names their class; put images into one folder per class, or give a list"
            " of (path, label)"
        )
    names = sorted({f.parent.name for f in files})
    labels, ids = [f.parent.name for f in files], [f.relative_to(folder).as_posix() for f in files]
    return Source(Files(None, files), labels, names, ids, {"columns": None})


def _from_dataset(
    dataset: Any,
    split: str | None,
    columns: tuple,
    name: str,
    root: Path | None = None,
    token: str | bool | None = None,
) -> Source | Stream:
    if isinstance(dataset, dict):
        if split is None and len(dataset) != 1:
            raise DataError(
                f"{name}: there are splits {', '.join(map(str, dataset))}; choose one with split="
            )
        if split is not None and split not in dataset:
            raise DataError(
                f"{name}: there is no split {split!r}, only {', '.join(map(str, dataset))}"
            )
        dataset = dataset[split] if split is not None else next(iter(dataset.values()))
    if isinstance(dataset, datasets.IterableDataset):
        return Stream(dataset, columns, name, root, token, origin={"source": _described(dataset)})
    if not isinstance(dataset, datasets.Dataset):
        raise DataError(
            f"{name}: {type(dataset).__name__} is no dataset; give a datasets.Dataset or"
            " IterableDataset"
        )
    if dataset.format["type"] == "custom":
        raise DataError(
            f"{name}: the dataset has a transform of its own (set_transform), which would not be"
            " timm's. Remove it with dataset.with_format(None), or store what it makes with"
            " dataset.map"
        )
    # of its content: a reloaded dataset has the same
    key = f"datasets.Dataset {dataset._fingerprint}"
    dataset, features = dataset.with_format(None), dataset.features
    images, labelled = choose_columns(columns, features, name)
    if isinstance(features[images], datasets.Image):
        # else reading labels decodes pixels
        dataset = dataset.cast_column(images, datasets.Image(decode=False))
    names = (
        features[labelled].names if isinstance(features[labelled], datasets.ClassLabel) else None
    )
    labels = dataset.select_columns([labelled])[:][labelled]
    reader = Column(key, dataset.select_columns([images]), root)
    return Source(
        reader,
        labels,
        names,
        None,
        {"source": key, "columns": {"image": images, "label": labelled}},
    )


def _described(stream: datasets.IterableDataset) -> str:
    known = (stream.info.dataset_name, str(stream.split) if stream.split else None)
    return " ".join(["datasets.IterableDataset", *filter(None, known)])
