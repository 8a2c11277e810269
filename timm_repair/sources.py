"""`as_images`: whatever holds the user's images and labels, as `Images` for one model.

Datasets of Hugging Face, torch datasets, folders, files, Hub ids and plain lists each become a `Source`; how labels
are matched to the model's classes is in labels.py.
"""

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import torch
from PIL import Image
from torch import nn

from timm_repair.errors import DataError, OptionError
from timm_repair.images import CACHE_BYTES, Images, Pool
from timm_repair.labels import Classes, map_labels
from timm_repair.preprocessing import Preprocessing
from timm_repair.readers import IMAGE_NAMES, LABEL_NAMES, Column, Files, Source, from_examples

logger = logging.getLogger(__name__)

_FORMATS = {".parquet": "parquet", ".csv": "csv", ".json": "json", ".jsonl": "json"}
_HUB_ID = re.compile(r"(hfds/)?([\w.-]+/[\w.-]+)")
_SPLITS = {"train", "training", "test", "testing", "validation", "valid", "val", "dev", "eval"}


def as_images(
    source: Any, model: nn.Module, *, name: str = "images", split: str | None = None, image_column: str | None = None,
    label_column: str | None = None, label_map: Mapping | Sequence[str] | str | Path | None = None,
    on_unreadable: str = "stop", on_unknown: str = "stop", check_readable: bool = True,
    revision: str | None = None, token: str | bool | None = None, cache_bytes: int = CACHE_BYTES,
) -> Images:  # fmt: skip
    """Labelled images for `model` from anything that holds them.

    Args:
        source: `Images` (returned as is); a `datasets.Dataset` or `DatasetDict`; a folder of `save_to_disk`; a folder
            with one folder of images per class; a .parquet, .csv, .json or .jsonl file; a Hub id "namespace/name"
            (an existing path of that name wins); a torch dataset of (PIL image, label) or dicts; a list of
            (PIL image | path | uint8 array (H, W, C), label).
        model: its preprocessing and classes are used; it is not changed.
        name: what these are, for messages.
        split: which one, where the source has several.
        image_column: needed where several columns may hold images.
        label_column: needed where several columns may hold labels.
        label_map: see `labels.map_labels`, as for how labels are mapped without it.
        on_unreadable: "stop", or "skip" to leave out images that cannot be decoded.
        on_unknown: "stop", or "skip" to leave out labels that match no class of the model.
        check_readable: decode all images now. Without it an unreadable image is met later; it then raises, or under
            "skip" is replaced by another of its class.
        revision: of a Hub dataset.
        token: for a Hub dataset that is private.
        cache_bytes: memory for decoded pixels.

    Returns:
        The images, with `origin` telling where they came from.

    Raises:
        DataError: the source, its columns or its images cannot be used.
        LabelError: its labels cannot be matched to the model's classes.

    Example:
        >>> failures = as_images("failures/", model, name="failures", on_unreadable="skip")
    """
    for option, value in (("on_unreadable", on_unreadable), ("on_unknown", on_unknown)):
        if value not in ("stop", "skip"):
            raise OptionError(f"{option}={value!r}; use 'stop' or 'skip'")
    if isinstance(source, Images):
        return source
    found = open_source(source, split, (image_column, label_column), name, {"revision": revision, "token": token})
    labels, mapping = map_labels(
        found.labels, Classes.of(model), names=found.names, label_map=label_map, on_unknown=on_unknown, what=name
    )
    known = (labels >= 0).nonzero().flatten()
    pool = Pool(found.reader, found.ids or range(len(labels)), Preprocessing.of(model), cache_bytes)
    skipped = {"unknown_label": mapping.pop("unknown"), "unreadable": 0}
    origin = found.origin | mapping | {"skipped": skipped}
    images = Images(pool, known, labels[known], name=name, origin=origin, on_unreadable=on_unreadable)
    return _readable(images, on_unreadable) if check_readable else images


def open_source(source: Any, split: str | None, columns: tuple, name: str, hub: dict) -> Source:
    """What `as_images` reads from, opened: a reader of raw images, and what is known of their labels."""
    if isinstance(source, str | Path):
        found = _from_path(source, split, columns, name, hub)
    elif isinstance(source, dict | datasets.Dataset | datasets.IterableDataset):
        found = _from_dataset(source, split, columns, name)
    elif isinstance(source, list | torch.utils.data.Dataset):
        found = from_examples(source, columns, name)
    else:
        hint = "; give the dataset that it loads, loader.dataset" if hasattr(source, "dataset") else ""
        raise DataError(f"{name}: cannot take images from {type(source).__name__}{hint}. See timm_repair.as_images")
    if len(found.labels) == 0:
        raise DataError(f"{name}: {found.origin['source']} holds no examples; give at least one image with its label")
    return found


def _readable(images: Images, on_unreadable: str) -> Images:
    good = images.readable()
    bad = int((~good).sum())
    if not bad:
        return images
    error = images.first_unreadable()
    if on_unreadable == "stop" or bad == len(images):
        raise DataError(f"{images.name}: {error}" + (f" ({bad} such images)" if bad > 1 else "")) from error
    logger.warning("%s: %d unreadable images left out, first: %s", images.name, bad, error)
    images = images.subset(good)
    images.origin = images.origin | {"skipped": images.origin["skipped"] | {"unreadable": bad}}
    return images


def _from_path(path: str | Path, split: str | None, columns: tuple, name: str, hub: dict) -> Source:
    local, text = Path(path).expanduser(), str(path)
    if local.is_dir():
        if (local / "dataset_info.json").exists() or (local / "dataset_dict.json").exists():
            kind, found = "a saved dataset", _from_dataset(datasets.load_from_disk(str(local)), split, columns, name)
        else:
            kind, found = "an image folder", _from_folder(local, split, columns, name)
    elif local.is_file():
        if local.suffix.lower() not in _FORMATS:
            raise DataError(f"{name}: {text} is none of {', '.join(_FORMATS)}; convert it, or give a folder of images")
        kind = "a file"
        table = _load(_FORMATS[local.suffix.lower()], name, text, data_files=str(local.resolve()), split="train")
        found = _from_dataset(table, None, columns, name, root=local.parent)
    elif match := _HUB_ID.fullmatch(text):
        kind, options = "a dataset of the Hub", {key: value for key, value in hub.items() if value is not None}
        found = _from_dataset(_load(match[2], name, text, split=split, **options), None, columns, name)
    else:
        raise DataError(f"{name}: {text} does not exist, nor can it be a Hub id ('namespace/name'); check the path")
    logger.info("%s: read from %s, %s", name, text, kind)
    found.origin["source"] = text + (f"@{hub['revision']}" if hub["revision"] and kind.endswith("Hub") else "")
    found.reader.key = (str(local.resolve()) if local.exists() else found.origin["source"], split)
    return found


def _load(builder: str, name: str, text: str, **options) -> Any:
    try:
        return datasets.load_dataset(builder, **options)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise DataError(
            f"{name}: {text} cannot be loaded, neither from this machine nor from the Hub ({error}). Check the path or "
            "id, split= and your access, or load it with datasets.load_dataset and pass the Dataset"
        ) from error


def _from_folder(folder: Path, split: str | None, columns: tuple, name: str) -> Source:
    # Not datasets' own imagefolder, which takes a file called test_1.png for a test split and loads nothing else,
    # and gives no labels where there is one class
    if split is not None and not (folder / split).is_dir():
        raise DataError(f"{name}: {folder} has no folder {split!r} for split={split!r}")
    folder = folder / split if split else folder
    below = sorted(child.name for child in folder.iterdir() if child.is_dir())
    if below and _SPLITS.issuperset(below):
        raise DataError(f"{name}: {folder} holds splits ({', '.join(below)}), not classes; choose one with split=")
    if any((folder / f"metadata.{ending}").exists() for ending in ("csv", "jsonl", "parquet")):
        table = _load("imagefolder", name, str(folder), data_files={"train": [str(folder / "**")]}, split="train")
        return _from_dataset(table, None, columns, name)
    endings = Image.registered_extensions()
    files = sorted(f for f in folder.rglob("*") if f.suffix.lower() in endings and f.is_file())
    loose = [f for f in files if f.parent == folder]
    if loose or not files:
        raise DataError(
            f"{name}: {folder} holds {f'{len(loose)} images' if loose else 'no images'} outside a folder that names "
            "their class; put images into one folder per class, or give a list of (path, label)"
        )
    names = sorted({f.parent.name for f in files})
    labels, ids = [f.parent.name for f in files], [f.relative_to(folder).as_posix() for f in files]
    return Source(Files(None, files), labels, names, ids, {"columns": None})


def _from_dataset(dataset: Any, split: str | None, columns: tuple, name: str, root: Path | None = None) -> Source:
    if isinstance(dataset, dict):
        if split is None and len(dataset) != 1:
            raise DataError(f"{name}: there are splits {', '.join(map(str, dataset))}; choose one with split=")
        if split is not None and split not in dataset:
            raise DataError(f"{name}: there is no split {split!r}, only {', '.join(map(str, dataset))}")
        dataset = dataset[split] if split is not None else next(iter(dataset.values()))
    if not isinstance(dataset, datasets.Dataset):
        raise DataError(
            f"{name}: {type(dataset).__name__} is not supported yet: repair passes over the data several times. Load "
            "it without streaming=True, or materialise a part: datasets.Dataset.from_list(list(stream.take(1000)))"
        )
    if dataset.format["type"] == "custom":
        raise DataError(
            f"{name}: the dataset has a transform of its own (set_transform), which would not be timm's. Remove it "
            "with dataset.with_format(None), or store what it makes with dataset.map"
        )
    key = f"datasets.Dataset {dataset._fingerprint}"  # of its content: a reloaded dataset has the same
    dataset, features = dataset.with_format(None), dataset.features
    images = _column(columns[0], "image", datasets.Image, IMAGE_NAMES, features, name)
    labelled = _column(columns[1], "label", datasets.ClassLabel, LABEL_NAMES, features, name)
    if isinstance(features[images], datasets.Image):
        dataset = dataset.cast_column(images, datasets.Image(decode=False))  # else reading labels decodes pixels
    names = features[labelled].names if isinstance(features[labelled], datasets.ClassLabel) else None
    labels = dataset.select_columns([labelled])[:][labelled]
    reader = Column(key, dataset.select_columns([images]), root)
    return Source(reader, labels, names, None, {"source": key, "columns": {"image": images, "label": labelled}})


def _column(chosen: str | None, kind: str, feature: type, usual: tuple, features: Mapping, name: str) -> str:
    if chosen is not None:
        if chosen not in features:
            raise DataError(f"{name}: no column {chosen!r} for {kind}_column=; there are {', '.join(features)}")
        return chosen
    typed = [column for column, f in features.items() if isinstance(f, feature)]
    likely = [column for column in typed or features if column in usual] if len(typed) != 1 else typed
    if len(likely) != 1:
        raise DataError(
            f"{name}: which column holds the {kind}? There are {', '.join(features)}; say so with {kind}_column="
        )
    return likely[0]
