"""`Stream`: a dataset that is read from its start, in order, and never held as a whole;
`raise_loading` for what goes wrong on the way.

Only so many examples are kept as the caller asks for, their images still encoded. Reading failures
out of a stream: collecting.py.
"""

import hashlib
import io
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn

import datasets
import huggingface_hub
from huggingface_hub import errors as hub_errors
from PIL import Image

from timm_repair.errors import DataError
from timm_repair.images import UNREADABLE
from timm_repair.preprocessing import open_image
from timm_repair.readers import Source, choose_columns

logger = logging.getLogger(__name__)

BUFFER = 10_000  # examples of a stream kept in memory where nobody said how many

_PNG_MODES = {"1", "L", "LA", "P", "RGB", "RGBA", "I;16"}
# huggingface_hub's errors have no common base: some are OSErrors, some ValueErrors, some neither,
# as those of its HTTP client
LOADING_ERRORS = (
    OSError,
    ValueError,
    RuntimeError,
    datasets.exceptions.DatasetsError,
    *(
        kind
        for kind in vars(hub_errors).values()
        if isinstance(kind, type) and issubclass(kind, Exception)
    ),
)
_LOGIN = "log in with `hf auth login`, or pass token= to as_images or collect_failures"
# kinds of errors, or words in their messages (datasets passes on some errors of the Hub in words
# only), and what to do
_FIXES: tuple[tuple[tuple[type, ...], tuple[str, ...], str], ...] = (
    (
        (hub_errors.GatedRepoError,),
        ("gated dataset",),
        f"Accept its conditions on its page on the Hub, then {_LOGIN}",
    ),
    (
        (hub_errors.RevisionNotFoundError,),
        (),
        "Check revision=: a branch, tag or commit of that dataset",
    ),
    ((), ("Bad split", "Unknown split"), "Check split="),
    (
        (),
        ("Config name is missing",),
        "Load it with datasets.load_dataset(id, configuration) and pass what that gives",
    ),
    (
        (),
        ("scripts are no longer supported",),
        "Try revision='refs/convert/parquet', where the Hub keeps a copy without code",
    ),
    (
        (hub_errors.LocalTokenNotFoundError,),
        ("nvalid credentials", "nvalid user token", "401 "),
        f"Your token is not valid: {_LOGIN}",
    ),
    (
        (hub_errors.RepositoryNotFoundError, datasets.exceptions.DatasetNotFoundError),
        (),
        f"Check the path or id; if the dataset is private, {_LOGIN}",
    ),
    (
        (ConnectionError, TimeoutError, hub_errors.OfflineModeIsEnabled),
        ("offline", "onnect"),
        "Check the connection and HF_HUB_OFFLINE, or give a dataset that is on this machine",
    ),
)
_OTHERWISE = (
    "Check the path or id, split= and your access, or load it with datasets.load_dataset and pass"
    " the Dataset"
)


def raise_loading(what: str, error: Exception, token: str | bool | None = None) -> NoReturn:
    """Raise DataError for an `error` that was met while loading: "`what` (the error). What to do".
    No token is ever shown.

    Args:
        what: the beginning of the message.
        error: one of `LOADING_ERRORS`; it becomes the cause, unless its text holds a token.
        token: what the user gave.
    """
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    said = " ".join(" ".join(map(str, chain)).split())
    fix = next(
        (do for kinds, words, do in _FIXES if _applies(chain, said, kinds, words)), _OTHERWISE
    )
    message = f"{what} ({type(error).__name__}: {' '.join(str(error).split())}). {fix}"
    # the HTTP client quotes a header that it refuses, and the token is in one
    secrets = [
        secret
        for secret in (token, huggingface_hub.get_token())
        if isinstance(secret, str) and secret
    ]
    leaked = any(secret in said for secret in secrets)
    for secret in secrets:
        message = message.replace(secret, "***")
    raise DataError(message) from (None if leaked else error)


def _applies(
    chain: list[BaseException], said: str, kinds: tuple[type, ...], words: tuple[str, ...]
) -> bool:
    return any(isinstance(link, kinds) for link in chain) or any(word in said for word in words)


@dataclass
class Kept:
    """Reader of examples kept in memory: encoded images, paths, or the error met on the way."""

    raws: list
    # their ids follow from what they hold, so they are comparable across streams
    key: Any = "content"

    def read(self, rows: list[int]) -> list:
        return [self.raws[row] for row in rows]


@dataclass
class Stream:
    """The examples of a `datasets.IterableDataset`.

    Args:
        dataset: it is read from its start by each call of `pairs`.
        columns: (image, label), None where they are to be found.
        name: what these are, for messages.
        root: where relative paths start.
        token: of the user, never to be shown.
        names: of the classes by label, once known.
        origin: provenance, as in `Source`.

    Raises:
        DataError: no column, or more than one, may hold the images or the labels.
    """

    dataset: datasets.IterableDataset
    columns: tuple[str | None, str | None]
    name: str
    root: Path | None = None
    token: str | bool | None = field(default=None, repr=False)
    names: list[str] | None = None
    origin: dict = field(default_factory=dict)

    def __post_init__(self):
        self.dataset = self.dataset.with_format(None)
        features = self.dataset.features
        if features is None:  # after a map(), or of a generator: the first example will tell
            return
        self._settle(features)
        image, label = self.columns
        self.names = (
            features[label].names if isinstance(features[label], datasets.ClassLabel) else None
        )
        self.dataset = self.dataset.select_columns([image, label] if image != label else [image])
        if isinstance(features[image], datasets.Image):
            self.dataset = self.dataset.cast_column(image, datasets.Image(decode=False))

    def _settle(self, features: Mapping) -> None:
        self.columns = choose_columns(self.columns, features, self.name)
        self.origin["columns"] = dict(zip(("image", "label"), self.columns, strict=True))

    def pairs(self) -> Iterator[tuple[Any, Any]]:
        """(encoded image, path or the error met; label as it is there) of each example, in order.

        Raises:
            DataError: the stream breaks off, or an example lacks a column.
        """
        examples, count = iter(self.dataset), 0
        while True:
            try:
                example = next(examples, None)
            except LOADING_ERRORS as error:
                raise_loading(
                    f"{self.name}: the stream broke off after {count} examples", error, self.token
                )
            if example is None:
                return
            if self.dataset.features is None and not count:
                self._settle({column: _kind(value) for column, value in example.items()})
            image, label = self.columns
            if not {image, label} <= example.keys():
                raise DataError(
                    f"{self.name}: example {count} has {', '.join(example)}; all must have {image}"
                    f" and {label}"
                )
            yield self._encoded(example[image], count), example[label]
            count += 1

    def _encoded(self, raw: Any, place: int) -> Any:
        if isinstance(raw, str) and self.root:
            return self.root / raw
        if isinstance(raw, dict | bytes | str | Path):
            return raw
        try:
            image, file = open_image(raw), io.BytesIO()
            # without loss; fast rather than small
            image.save(
                file,
                **(
                    {"format": "PNG", "compress_level": 1}
                    if image.mode in _PNG_MODES
                    else {"format": "TIFF"}
                ),
            )
        except DataError as error:
            raise DataError(f"{self.name}: example {place}: {error}") from error
        except UNREADABLE as error:  # judged with the other unreadable images
            return error.with_traceback(None)
        return file.getvalue()

    def source(self, most: int | None) -> Source:
        """The first `most` examples, or `BUFFER` with a warning if there are more, kept in memory.

        Raises:
            DataError: as `pairs`.
        """
        pairs = self.pairs()
        kept = list(islice(pairs, most or BUFFER))
        if most is None and next(pairs, None) is not None:
            logger.warning(
                "%s: only the first %d examples of the stream were read, there are more; to read"
                " more give max_examples=, for others than the first dataset.shuffle(seed=...,"
                " buffer_size=...)",
                self.name,
                len(kept),
            )
        raws, labels = [raw for raw, _ in kept], [label for _, label in kept]
        origin = self.origin | {"stream": {"read": len(kept), "kept": len(kept)}}
        return Source(Kept(raws), labels, self.names, identities(raws), origin)


def _kind(value: Any) -> Any:
    """The feature an example's value tells of: an image, or nothing in particular."""
    encoded = isinstance(value, dict) and "bytes" in value and "path" in value
    return datasets.Image() if encoded or isinstance(value, Image.Image) else None


def identities(raws: Iterable[Any], start: int = 0) -> list[str]:
    """What tells images of streams apart: SHA-256 of an encoded image (first 20 digits), or its
    path, or else its place.

    By content and not by place: the same example has another place in `stream.skip(5)` or
    `stream.shuffle(seed=0)`.
    """
    return [_identity(raw, place) for place, raw in enumerate(raws, start)]


def _identity(raw: Any, place: int) -> str:
    if isinstance(raw, dict):
        raw = raw.get("bytes") or raw.get("path")
    if isinstance(raw, bytes):
        return hashlib.sha256(raw).hexdigest()[:20]
    return str(raw) if isinstance(raw, str | Path) else f"example {place}"
