"""Reading: how labelled images are taken from a source; the options of everything that reads."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import datasets
import torch

from timm_repair.errors import OptionError
from timm_repair.options import check_types


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What is read from a source, and how.

    Args:
        split: which one, where the source has several.
        image_column: needed where several columns may hold images.
        label_column: needed where several columns may hold labels.
        label_map: see `labels.map_labels`, as for how labels are mapped without it.
        on_unreadable: "stop", or "skip" to leave out images that cannot be decoded.
        on_unknown: "stop", or "skip" to leave out labels that match no class of the model.
        streaming: read a Hub id or file from its start as far as needed, instead of fetching it as
            a whole first.
        transform: your own in place of timm's: a PIL image (RGB or grey, as the model takes) to a
            PIL image, array or tensor of the model's size, not normalized.
        max_examples: of a stream, how many are taken, in its order, and kept in memory (encoded);
            None for `streams.BUFFER`, with a logged warning where there are more.
    """

    split: str | None = None
    image_column: str | None = None
    label_column: str | None = None
    label_map: Mapping | Sequence[str] | str | Path | None = None
    on_unreadable: str = "stop"
    on_unknown: str = "stop"
    streaming: bool = False
    max_examples: int | None = None
    transform: Callable[[Any], Any] | None = None

    def __post_init__(self):
        if self.max_examples is not None and (
            type(self.max_examples) is not int or self.max_examples < 1
        ):
            raise OptionError(f"max_examples={self.max_examples!r}; must be at least 1, or None")
        check_types(self)
        if self.transform is not None and not callable(self.transform):
            raise OptionError(
                f"transform={self.transform!r} must be a function of a PIL image, or None"
            )
        for name in ("on_unreadable", "on_unknown"):
            if getattr(self, name) not in ("stop", "skip"):
                raise OptionError(f"{name}={getattr(self, name)!r}; use 'stop' or 'skip'")

    @property
    def columns(self) -> tuple[str | None, str | None]:
        """Of images and of labels."""
        return self.image_column, self.label_column

    def streams(self, source: Any) -> bool:
        """Whether `source` is read as a stream."""
        parts = source.values() if isinstance(source, dict) else [source]
        return (self.streaming and _can_stream(source)) or any(is_stream(part) for part in parts)

    def require_fit(self, source: Any) -> None:
        """Raise OptionError for what this asks of `source`, and `source` cannot give."""
        kind = f"a {type(source).__name__}"
        if isinstance(source, str | Path):
            kind = f"the folder {source}"
        if self.streaming and not self.streams(source):
            raise OptionError(
                f"streaming=True is for Hub ids and files; {kind} is read when needed anyway: leave"
                " it out"
            )
        if self.max_examples is not None and not self.streams(source):
            raise OptionError(
                f"max_examples={self.max_examples} is for streams; set streaming=True for a Hub id"
                " or file, and of anything else give the part that you want:"
                " dataset.select(range(n))"
            )

    def fitting(self, source: Any, split: str | None) -> "Reading":
        """The same for one source among several: `split` where it is given, and options of streams
        only where `source` is one.
        """
        streaming = self.streaming and _can_stream(source)
        fits = replace(self, split=split or self.split, streaming=streaming)
        return fits if fits.streams(source) else replace(fits, max_examples=None)


def is_stream(source: Any) -> bool:
    """Whether `source` can only be read from its start: a dataset of that kind, or a generator."""
    kinds = (datasets.IterableDataset, torch.utils.data.IterableDataset, Iterator)
    return isinstance(source, kinds)


def _can_stream(source: Any) -> bool:
    """Whether `streaming=True` means anything for `source`: it does for a Hub id and a file."""
    return isinstance(source, str | Path) and not Path(source).expanduser().is_dir()
