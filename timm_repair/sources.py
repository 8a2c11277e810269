"""`as_images`: whatever holds the user's images and labels, as `Images` for one model.

Datasets of Hugging Face, torch datasets, folders, files, Hub ids and plain lists each become a
`Source`, some by way of a `Stream` (streaming.py); how labels are matched to the model's classes is
in labels.py.
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
from timm_repair.readers import Column, Files, Source, choose_columns, from_examples
from timm_repair.streaming import LOADING_ERRORS, Stream, raise_loading

logger = logging.getLogger(__name__)

_FORMATS = {".parquet": "parquet", ".csv": "csv", ".json": "json", ".jsonl": "json"}
_HUB_ID = re.compile(r"(hfds/)?([\w.-]+/[\w.-]+)")
_SPLITS = {"train", "training", "test", "testing", "validation", "valid", "val", "dev", "eval"}


def as_images(
    source: Any,
    model: nn.Module,
    *,
    name: str = "images",
    split: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    label_map: Mapping | Sequence[str] | str | Path | None = None,
    on_unreadable: str = "stop",
    on_unknown: str = "stop",
    check_readable: bool = True,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_bytes: int = CACHE_BYTES,
    streaming: bool = False,
    max_examples: int | None = None,
) -> Images:
    """Labelled images for `model` from anything that holds them.

    Args:
        source: `Images` (returned as is); a `datasets.Dataset` or `IterableDataset`, or a dict of
            them; a folder of `save_to_disk`; a folder with one folder of images per class; a
            .parquet, .csv, .json or .jsonl file; a Hub id "namespace/name" (an existing path of
            that name wins); a torch dataset of (PIL image, label) or dicts; a list of (PIL image |
            path | uint8 array (H, W, C), label).
        model: its preprocessing and classes are used; it is not changed.
        name: what these are, for messages.
        split: which one, where the source has several.
        image_column: needed where several columns may hold images.
        label_column: needed where several columns may hold labels.
        label_map: see `labels.map_labels`, as for how labels are mapped without it.
        on_unreadable: "stop", or "skip" to leave out images that cannot be decoded.
        on_unknown: "stop", or "skip" to leave out labels that match no class of the model.
        check_readable: decode all images now. Without it an unreadable image is met later; it then
            raises, or under "skip" is replaced by another of its class.
        revision: of a Hub dataset.
        token: for a Hub dataset that is private; False to send none, though logged in.
        cache_bytes: memory for decoded pixels.
        streaming: read a Hub id or file from its start as far as needed, instead of fetching it as
            a whole first.
        max_examples: of a stream, how many are taken, in its order, and kept in memory (encoded);
            None for `streaming.BUFFER`, with a logged warning where there are more.

    Returns:
        The images, with `origin` telling where they came from.

    Raises:
        OptionError: an option is out of range, or does not fit the source.
        DataError: the source, its columns or its images cannot be used.
        LabelError: its labels cannot be matched to the model's classes.

    Example:
        >>> failures = as_images("failures/", model, name="failures", on_unreadable="skip")
    """
    check_options(
        source, streaming, max_examples, token, on_unreadable=on_unreadable, on_unknown=on_unknown
    )
    if isinstance(source, Images):
        return source
    hub = {"revision": revision, "token": token, "streaming": streaming or None}
    found = open_source(source, split, (image_column, label_column), name, hub, max_examples)
    labels, mapping = map_labels(
        found.labels,
        Classes.of(model),
        names=found.names,
        label_map=label_map,
        on_unknown=on_unknown,
        what=name,
    )
    known = (labels >= 0).nonzero().flatten()
    pool = Pool(found.reader, found.ids or range(len(labels)), Preprocessing.of(model), cache_bytes)
    skipped = {"unknown_label": mapping.pop("unknown"), "unreadable": 0}
    origin = found.origin | mapping | {"skipped": skipped}
    images = Images(
        pool, known, labels[known], name=name, origin=origin, on_unreadable=on_unreadable
    )
    return _readable(images, on_unreadable) if check_readable else images


def can_stream(source: Any) -> bool:
    """Whether `streaming=True` means anything for `source`: it does for a Hub id and a file."""
    return isinstance(source, str | Path) and not Path(source).expanduser().is_dir()


def is_stream(source: Any, streaming: bool = False) -> bool:
    """Whether `as_images` reads `source` as a stream."""
    parts = source.values() if isinstance(source, dict) else [source]
    return (streaming and can_stream(source)) or any(
        isinstance(part, datasets.IterableDataset) for part in parts
    )


def check_options(
    source: Any, streaming: bool, max_examples: int | None, token: str | bool | None, **choices: str
) -> None:
    """Raise OptionError for what `as_images` cannot do with `source`; `choices` are its options of
    "stop" or "skip".
    """
    for option, value in choices.items():
        if value not in ("stop", "skip"):
            raise OptionError(f"{option}={value!r}; use 'stop' or 'skip'")
    if max_examples is not None and (type(max_examples) is not int or max_examples < 1):
        raise OptionError(f"max_examples={max_examples!r}; must be at least 1, or None")
    # its value is not for messages
    if isinstance(token, str) and not (token.isascii() and token.split() == [token]):
        raise OptionError(
            "token= is empty, or holds white space or other than ASCII; give the token alone, or"
            " None to use your login"
        )
    kind = (
        f"the folder {source}" if isinstance(source, str | Path) else f"a {type(source).__name__}"
    )
    if streaming and not is_stream(source, True):
        raise OptionError(
            f"streaming=True is for Hub ids and files; {kind} is read when needed anyway: leave"
            " it out"
        )
    if max_examples is not None and not is_stream(source, streaming):
        raise OptionError(
            f"max_examples={max_examples} is for streams; set streaming=True for a Hub id or file,"
            " and of anything else give the part that you want: dataset.select(range(n))"
        )


def open_source(
    source: Any,
    split: str | None,
    columns: tuple,
    name: str,
    hub: dict,
    max_examples: int | None = None,
) -> Source:
    """What `as_images` reads from, opened: a reader of raw images, and what is known of their
    labels.
    """
    found = find(source, split, columns, name, hub)
    found = found.source(max_examples) if isinstance(found, Stream) else found
    if len(found.labels) == 0:
        raise DataError(
            f"{name}: {found.origin['source']} holds no examples; give at least one image with its"
            " label"
        )
    return found


def find(source: Any, split: str | None, columns: tuple, name: str, hub: dict) -> Source | Stream:
    """`source` opened; of a stream nothing is read yet. `columns`: (image, label); `hub`: options
    of `load_dataset`.
    """
    if isinstance(source, str | Path):
        return _from_path(source, split, columns, name, hub)
    if isinstance(source, dict | datasets.Dataset | datasets.IterableDataset):
        return _from_dataset(source, split, columns, name)
    if isinstance(source, list | torch.utils.data.Dataset):
        return from_examples(source, columns, name)
    hint = "; give the dataset that it loads, loader.dataset" if hasattr(source, "dataset") else ""
    raise DataError(
        f"{name}: cannot take images from {type(source).__name__}{hint}. See timm_repair.as_images"
    )


def _readable(images: Images, on_unreadable: str) -> Images:
    good = images.readable()
    bad = int((~good).sum())
    if not bad:
        return images
    error = images.first_unreadable()
    if on_unreadable == "stop" or bad == len(images):
        where = f" (example {error.row} of the stream)" if "stream" in images.origin else ""
        raise DataError(
            f"{images.name}: {error}{where}" + (f" ({bad} such images)" if bad > 1 else "")
        ) from error
    logger.warning("%s: %d unreadable images left out, first: %s", images.name, bad, error)
    images = images.subset(good)
    images.origin = images.origin | {"skipped": images.origin["skipped"] | {"unreadable": bad}}
    return images


def _from_path(
    path: str | Path, split: str | None, columns: tuple, name: str, hub: dict
) -> Source | Stream:
    local, text = Path(path).expanduser(), str(path)
    if local.is_dir():
        if (local / "dataset_info.json").exists() or (local / "dataset_dict.json").exists():
            kind, found = (
                "a saved dataset",
                _from_dataset(datasets.load_from_disk(str(local)), split, columns, name),
            )
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
        kind, options = (
            "a dataset of the Hub",
            {key: value for key, value in hub.items() if value is not None},
        )
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
        return _from_dataset(table, None, columns, name)
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
