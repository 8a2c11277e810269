"""`Images`: labelled images for one model, cheap to split and to index.

Sources of images (datasets, folders, lists) are read in sources.py.
"""

import hashlib
import json
import logging
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from timm_repair.images.pool import CHUNK, Pool, UnreadableError
from timm_repair.images.preprocessing import Preprocessing
from timm_repair.images.summary import Summary

COMPARED_BYTES = 512 * 1024**2  # decoded size up to which images are compared by their pixels

logger = logging.getLogger(__name__)


def _as_indices(indices: Sequence[int] | Tensor) -> Tensor:
    indices = torch.as_tensor(indices)
    # a mask works too
    return indices.nonzero().flatten() if indices.dtype == torch.bool else indices.long()


class Images(torch.utils.data.Dataset):
    """Labelled images for one model, decoded when first needed; made by `as_images`,
    `collect_failures` or `prepare`.

    The pixels stay in memory (uint8) within the byte budget of the pool, which all subsets share;
    what exceeds it is decoded anew each time. Pickling keeps the source and leaves the pixels
    behind.

    Args:
        pool: the source and its cache.
        rows: (N,) which rows of the pool these are.
        labels: (N,) class indices of the model.
        name: what these are, for messages.
        error_rate: share of the pool these failures were drawn from that the model gets wrong; None
            if unknown.
        origin: plain JSON: source, columns, how labels were mapped, what was skipped.
        on_unreadable: "stop" raises for an image that cannot be decoded; "skip" puts the next
            readable one of its class in this set in its place, with a logged warning.
        answers: (N,) classes that the original model predicts for them; None where nobody asked it.
        class_names: of the model, to be shown; None if it has none.
    """

    def __init__(
        self,
        pool: Pool,
        rows: Tensor,
        labels: Tensor,
        *,
        name: str,
        error_rate: float | None = None,
        origin: dict | None = None,
        on_unreadable: str = "stop",
        answers: Tensor | None = None,
        class_names: tuple[str, ...] | None = None,
    ):
        self.labels, self.answers, self.class_names = labels, answers, class_names
        self.ids = tuple(pool.ids[row] for row in rows.tolist())
        self.name = name
        self.error_rate = error_rate
        self.origin = origin or {}
        self.on_unreadable = on_unreadable
        self.pool, self.rows = pool, rows

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        return f"Images({self.name!r}, n={len(self)}, input_size={self.preprocessing.input_size})"

    def __str__(self) -> str:
        return str(self.summary())

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"example {index} of {len(self)}")
        return self.pixels([index])[0], int(self.labels[index])

    @property
    def preprocessing(self) -> Preprocessing:
        return self.pool.preprocessing

    @property
    def keys(self) -> list[tuple]:
        """What identifies each example within this process: two sets share an example where they
        share a key.
        """
        return [(self.pool.reader.key, i) for i in self.ids]

    def subset(
        self,
        indices: Sequence[int] | Tensor,
        *,
        own_cache: bool = False,
        name: str | None = None,
        error_rate: float | None = None,
        answers: Tensor | None = None,
    ) -> "Images":
        """The examples at `indices` (n,), renamed where `name` is given; `error_rate` and `answers`
        (n,) default to this set's.

        Shares the cache of decoded pixels with this set, unless `own_cache`: for a few examples of
        a source larger than its budget, most of which are not needed again.
        """
        indices, pool = _as_indices(indices), self.pool
        if answers is None and self.answers is not None:
            answers = self.answers[indices]
        if own_cache:
            pool = pool.copy()
        return Images(
            pool,
            self.rows[indices],
            self.labels[indices],
            name=name or self.name,
            error_rate=self.error_rate if error_rate is None else error_rate,
            origin=self.origin,
            on_unreadable=self.on_unreadable,
            answers=answers,
            class_names=self.class_names,
        )

    def pixels(self, indices: Sequence[int] | Tensor) -> Tensor:
        """Uint8 (n, C, H, W) of the examples at `indices` (n,), after timm's transform and before
        its normalisation.
        """
        rows = self.rows[_as_indices(indices)]
        while True:
            try:
                return self.pool.fetch(rows)
            except UnreadableError as error:
                if self.on_unreadable != "skip":
                    raise UnreadableError(f"{self.name}: {error}", error.row) from error
                rows = torch.where(rows == error.row, self._substitute(error), rows)

    def right(self, logits: Tensor, rows: Tensor) -> Tensor:
        """(n,) bool: for which of the examples `rows` (n,) the model's `logits` (n, classes) are
        the answer that is wanted.
        """
        return logits.argmax(1) == self.labels[rows].to(logits.device)

    def margins(self, logits: Tensor, rows: Tensor) -> Tensor:
        """(n,) by how much each of `logits` (n, classes) of the examples `rows` (n,) is right: the
        label's above the highest other, negative where it is wrong.
        """
        labels = self.labels[rows].to(logits.device)[:, None]
        others = logits.scatter(1, labels, -torch.inf).amax(1)
        return logits.gather(1, labels)[:, 0] - others

    def expect(self, indices: Sequence[int] | Tensor) -> None:
        """Begin to decode the examples at `indices` (n,), whose pixels will be wanted next, beside
        what the caller does.
        """
        self.pool.expect(self.rows[_as_indices(indices)])

    def _substitute(self, error: UnreadableError) -> int:
        place = int((self.rows == error.row).nonzero()[0])
        same_class = self.rows[self.labels == self.labels[place]].tolist()
        after = same_class.index(error.row)
        for row in same_class[after + 1 :] + same_class[:after]:
            if row not in self.pool.unreadable:
                logger.warning(
                    "%s: %s; used image %r instead", self.name, error, self.pool.ids[row]
                )
                return row
        raise error

    def readable(self) -> Tensor:
        """(N,) bool: which images can be decoded. Decodes all, so the cache holds them afterwards
        as far as it goes.
        """
        for chunk in self.rows.split(CHUNK):
            try:
                self.pool.fetch(chunk)
            except UnreadableError:
                pass  # noted in pool.unreadable with the others of this chunk
        return torch.tensor(
            [row not in self.pool.unreadable for row in self.rows.tolist()], dtype=torch.bool
        )

    def first_unreadable(self) -> UnreadableError | None:
        """The error of the first image that `readable` found damaged."""
        return next(
            (self.pool.unreadable[r] for r in self.rows.tolist() if r in self.pool.unreadable),
            None,
        )

    @property
    def small(self) -> bool:
        """Whether all images of its source, decoded, stay within what is compared by pixels."""
        return len(self.pool.ids) * math.prod(self.preprocessing.input_size) <= COMPARED_BYTES

    def digests(self) -> list[bytes]:
        """SHA-256 (16 bytes) of each example's decoded pixels, to find the same image under two
        names. Decodes all.
        """
        return self.pool.pixel_digests(self.rows)

    def left_out(self, kept: Sequence[int] | Tensor, reason: str) -> "Images":
        """The examples at `kept`; `reason` says why the others are not among them."""
        images = self.subset(kept)
        skipped = self.origin.get("skipped", {})
        if count := len(self) - len(images):
            skipped = skipped | {reason: skipped.get(reason, 0) + count}
            images.origin = images.origin | {"skipped": skipped}
        return images

    def prepared_by(self) -> str:
        """What happens to an image before the model sees it, and where that came from."""
        height, width = self.preprocessing.input_size[1:]
        size, transform = f"{height} x {width} pixels", self.pool.transform
        if transform is not None:
            named = getattr(transform, "__qualname__", type(transform).__qualname__)
            return f"your transform {named} to {size}; mean and std: {self.preprocessing.source}"
        config = self.preprocessing.config
        how = ", ".join(
            f"{key} {config[key]}"
            for key in ("crop_pct", "crop_mode", "interpolation")
            if key in config
        )
        prepared = self.origin.get("prepared")
        done = f"{prepared}; else timm's" if prepared else "timm's"
        return f"{done}, to {size} ({how}); from {self.preprocessing.source}"

    def answered(self, answers: Tensor) -> "Images":
        """The same, with what the original model predicts for them (N,)."""
        return self.subset(range(len(self)), answers=answers)

    def summary(self) -> Summary:
        """What was read, to be looked at: print it."""
        return Summary.of(self)

    def describe(self) -> dict:
        """Provenance as plain JSON: `origin`, the number of examples, SHA-256 over their ids,
        labels and images: over the pixels, of a source too large to decode over the files.
        """
        digest = hashlib.sha256()
        contents = self.digests() if self.small else self.pool.file_digests(self.rows)
        for i, label, content in zip(self.ids, self.labels.tolist(), contents, strict=True):
            seen = b"" if content is None or content.startswith(b"unreadable") else content
            digest.update(f"{json.dumps(i)}\t{label}\t{seen.hex()}\n".encode())
        over = "pixels" if self.small else "files"
        return self.origin | {"n": len(self), "sha256": digest.hexdigest(), "sha256_over": over}
