"""`as_images`: whatever holds the user's images and labels, as `Images` for one model.

Datasets of Hugging Face, torch datasets, folders, files, Hub ids and plain lists are opened in
opening.py; how labels are matched to the model's classes is in labels.py.
"""

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from timm_repair.errors import DataError, OptionError
from timm_repair.images.classes import Classes
from timm_repair.images.decoding import as_prepared
from timm_repair.images.images import Images
from timm_repair.images.labels import map_labels
from timm_repair.images.opening import open_source
from timm_repair.images.pool import CACHE_BYTES, Pool
from timm_repair.images.preprocessing import Preprocessing
from timm_repair.images.reading import Reading
from timm_repair.options import make
from timm_repair.runtime.boundary import public

ACCESS = ("check_readable", "revision", "token", "cache_bytes")

logger = logging.getLogger(__name__)


@public
def as_images(
    source: Any,
    model: nn.Module,
    *,
    name: str = "images",
    check_readable: bool = True,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_bytes: int = CACHE_BYTES,
    **options: Any,
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
        check_readable: decode all images now. Without it an unreadable image is met later; it then
            raises, or under "skip" is replaced by another of its class.
        revision: of a Hub dataset.
        token: for a Hub dataset that is private; False to send none, though logged in.
        cache_bytes: memory for decoded pixels.
        **options: those of `Reading`: split=, image_column=, label_column=, label_map=,
            on_unreadable=, on_unknown=, streaming= and max_examples=.

    Returns:
        The images, with `origin` telling where they came from.

    Raises:
        OptionError: an option is out of range, or does not fit the source.
        DataError: the source, its columns or its images cannot be used.
        LabelError: its labels cannot be matched to the model's classes.

    Example:
        >>> failures = as_images("failures/", model, name="failures", on_unreadable="skip")
    """
    if cache_bytes < 0:
        raise OptionError(f"cache_bytes={cache_bytes}; must be 0 or more: 0 keeps no pixels")
    reading = make(Reading, options, "as_images")
    reading.require_fit(source)
    require_token(token)
    if isinstance(source, Images):
        return source
    hub = {"revision": revision, "token": token}
    found = open_source(source, reading, name, hub)
    classes, preprocessing = Classes.of(model), Preprocessing.of(model)
    labels, mapping = map_labels(
        found.labels,
        classes,
        names=found.names,
        label_map=reading.label_map,
        on_unknown=reading.on_unknown,
        what=name,
    )
    known = (labels >= 0).nonzero().flatten()
    rows = torch.arange(len(labels)) if found.rows is None else torch.tensor(found.rows)
    pool = Pool(
        found.reader,
        found.ids or range(len(labels)),
        preprocessing,
        cache_bytes,
        reading.transform,
    )
    pool.survey(rows[known])
    skipped = {"unknown_label": mapping.pop("unknown"), "unreadable": 0} | found.left_out
    origin = found.origin | mapping | {"skipped": skipped}
    if len(known) and reading.transform is None and _prepared(pool, int(rows[known[0]])):
        origin["prepared"] = "tensors of the model's own size as they are, not resized or cropped"
    images = Images(
        pool,
        rows[known],
        labels[known],
        name=name,
        origin=origin,
        on_unreadable=reading.on_unreadable,
        class_names=classes.readable,
    )
    return leave_out_unreadable(images) if check_readable else images


def split_options(options: Mapping[str, Any]) -> tuple[Reading, dict[str, Any]]:
    """Those of `as_images` that say how a source is read, and those that say how to get at it."""
    access = {name: options[name] for name in ACCESS if name in options}
    given = {name: value for name, value in options.items() if name not in ACCESS}
    return make(Reading, given, "as_images"), access


def require_token(token: str | bool | None) -> None:
    """Raise OptionError for a text that can be no token; its value is not for messages."""
    if isinstance(token, str) and not (token.isascii() and token.split() == [token]):
        raise OptionError(
            "token= is empty, or holds white space or other than ASCII; give the token alone, or"
            " None to use your login"
        )


def _prepared(pool: Pool, row: int) -> bool:
    return (
        as_prepared(pool.reader.read([row])[0], pool.preprocessing.input_size, pool.scales)
        is not None
    )


def leave_out_unreadable(images: Images) -> Images:
    """`images` less those that cannot be decoded, with a warning; decodes all.

    Raises:
        DataError: there are such images and `on_unreadable` is "stop", or there are no others.
    """
    good = images.readable()
    bad = int((~good).sum())
    error = images.first_unreadable()
    if error is None:
        return images
    if images.on_unreadable == "stop" or bad == len(images):
        where = f" (example {error.row} of the stream)" if "stream" in images.origin else ""
        raise DataError(
            f"{images.name}: {error}{where}" + (f" ({bad} such images)" if bad > 1 else "")
        ) from error
    logger.warning("%s: %d unreadable images left out, first: %s", images.name, bad, error)
    images = images.subset(good)
    skipped = images.origin["skipped"]
    skipped = skipped | {"unreadable": skipped["unreadable"] + bad}
    images.origin = images.origin | {"skipped": skipped}
    return images
