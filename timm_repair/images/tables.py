"""Tables: datasets of Hugging Face, loaded from a file or the Hub or given, as a `Source` or a
`Stream`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets

from timm_repair.errors import DataError
from timm_repair.images.loading_errors import LOADING_ERRORS, raise_loading
from timm_repair.images.readers import Column, Source, choose_columns, separator
from timm_repair.images.streams import Stream

FORMATS = {
    ".parquet": "parquet",
    ".csv": "csv",
    ".tsv": "csv",
    ".json": "json",
    ".jsonl": "json",
}
Columns = tuple[str | None, str | None]


def load(builder: str, name: str, text: str, *, local: bool = False, **options: Any) -> Any:
    """What `datasets.load_dataset` gives; raises DataError with what to do, and no token."""
    try:
        return datasets.load_dataset(builder, **options)
    except LOADING_ERRORS as error:
        where = "read" if local else "loaded, neither from this machine nor from the Hub"
        raise_loading(f"{name}: {text} cannot be {where}", error, options.get("token"))


def from_file(file: Path, columns: Columns, name: str, *, streaming: bool = False) -> Any:
    """A `Source`, or a `Stream` where asked for, of a file of `FORMATS`; paths in it start where it
    lies.
    """
    ending = file.suffix.lower()
    table = load(
        FORMATS[ending],
        name,
        str(file),
        local=True,
        data_files=str(file.resolve()),
        split="train",
        streaming=streaming,
        **({"sep": separator(file)} if FORMATS[ending] == "csv" else {}),
    )
    return from_dataset(table, columns, name, root=file.parent)


def from_dataset(
    dataset: Any,
    columns: Columns,
    name: str,
    root: Path | None = None,
    token: str | bool | None = None,
) -> Source | Stream:
    """One split of a dataset, opened.

    Args:
        root: where relative paths start.
        token: of the user, never to be shown.

    Raises:
        DataError: it is no dataset, has a transform of its own, or its columns cannot be told.
    """
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
            " timm's. Remove it with dataset.with_format(None), store what it makes with"
            " dataset.map, or give it as transform= if it takes a PIL image"
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


def one_split(dataset: Mapping, split: str | None, name: str) -> Any:
    """The one that `split` names, or the only one; raises DataError where that cannot be told."""
    if not dataset:
        raise DataError(f"{name}: the dict is empty; give it a dataset, or columns image and label")
    if split is None and len(dataset) != 1:
        raise DataError(
            f"{name}: there are splits {', '.join(map(str, dataset))}; choose one with split="
        )
    if split is not None and split not in dataset:
        raise DataError(
            f"{name}: there is no split {split!r}, only {', '.join(map(str, dataset))}; choose one"
            " of these with split="
        )
    return dataset[split] if split is not None else next(iter(dataset.values()))


def _described(stream: datasets.IterableDataset) -> str:
    known = (stream.info.dataset_name, str(stream.split) if stream.split else None)
    return " ".join(["datasets.IterableDataset", *filter(None, known)])
