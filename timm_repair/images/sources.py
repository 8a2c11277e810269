"""`as_images`: whatever holds the user's images and labels, as `Images` for one model.

Datasets of Hugging Face, torch datasets, folders, files, Hub ids and plain lists are opened in
opening.py; how labels are matched to the model's classes is in labels.py.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
from torch import nn

from timm_repair.errors import DataError, OptionError
from timm_repair.images.classes import Classes
from timm_repair.images.images import Images
from timm_repair.images.labels import map_labels
from timm_repair.images.opening import open_source
from timm_repair.images.pool import CACHE_BYTES, Pool
from timm_repair.images.preprocessing import Preprocessing

logger = logging.getLogger(__name__)


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
            None for `streams.BUFFER`, with a logged warning where there are more.

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
