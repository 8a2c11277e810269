"""Failures out of a stream: read piece by piece, ask the model, keep what it gets wrong and forget
the rest.

What collecting.py does for datasets that can be held as a whole, this does for those that cannot.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from timm_repair.data.checking import ASKED, check_answers
from timm_repair.data.collected import Collected
from timm_repair.data.predicting import predict
from timm_repair.errors import DataError, LabelError, NoFailuresError
from timm_repair.images.classes import Classes
from timm_repair.images.images import Images
from timm_repair.images.labels import map_labels
from timm_repair.images.opening import find
from timm_repair.images.pool import CACHE_BYTES, Pool
from timm_repair.images.preprocessing import Preprocessing
from timm_repair.images.readers import Kept
from timm_repair.images.reading import Reading
from timm_repair.images.scales import Scales
from timm_repair.images.streams import BUFFER, Stream, identities
from timm_repair.models.temporary import evaluating_on
from timm_repair.runtime.runtime import Runtime

logger = logging.getLogger(__name__)

PASSING = 1000  # examples of a stream that the model gets right, kept where nobody said how many


def failures_of_stream(
    model: nn.Module,
    source: Any,
    max_failures: int | None,
    runtime: Runtime,
    name: str,
    reading: Reading,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_bytes: int = CACHE_BYTES,
    check_readable: bool = True,
    max_passing: int | None = None,
    generator: torch.Generator | None = None,
) -> Collected:
    """The first examples of a stream that `model` gets wrong, in order, their images still encoded
    in memory; and a random sample of those that it gets right.

    Reading stops where there are enough: `max_failures`, or `reading.max_examples`, or else
    `streams.BUFFER` with a logged warning where there is more. Beside them only the sample and one
    piece of the stream are held at a time.

    Args:
        model: it comes back as it was.
        source: for which `reading.streams` is true.
        max_failures: see above.
        runtime: where to compute; a piece of the stream is as large as its batch, times the
            processes.
        name: for messages.
        reading: as `as_images` takes it, as are those that follow.
        check_readable: makes no difference, since all images read are decoded.
        max_passing: how many of those that it gets right are kept; None for `PASSING`.
        generator: of that draw.

    Returns:
        The failures; `error_rate` is their share of the examples read.

    Raises:
        NoFailuresError: the model gets every example right.
        DataError: as `as_images`.
    """
    stream = find(source, reading, name, {"revision": revision, "token": token})
    assert isinstance(stream, Stream), "a source that is read as a stream"
    classes = Classes.of(model)
    labels = _Labels(classes, stream, reading.label_map, reading.on_unknown)
    limits = [limit for limit in (max_failures, reading.max_examples) if limit is not None]
    passed = _Sample(max_passing or PASSING, generator or torch.Generator())
    found = _Found(stream, labels, Preprocessing.of(model), reading, cache_bytes, passed)
    limit = min(limits, default=BUFFER)
    pairs, size = stream.pairs(), runtime.eval_batch_size * runtime.accelerator.num_processes
    with evaluating_on(model, runtime.device), runtime.bar(limit, f"collect {name}") as bar:
        while len(found.wrong) < limit and (piece := list(islice(pairs, size))):
            before = len(found.wrong)
            found.add(piece, model, runtime)
            bar.update(min(limit, len(found.wrong)) - before)
    if (
        not limits
        and len(found.wrong) >= limit
        and (len(found.wrong) > limit or next(pairs, None) is not None)
    ):
        logger.warning(
            "%s: reading stopped at %d failures, after %d examples of the stream; for more give"
            " max_failures=",
            name,
            limit,
            found.read,
        )
    return found.images(limit)


@dataclass(frozen=True)
class _Example:
    """One example: its image as it came, what tells it apart, its class, and the model's answer."""

    raw: Any
    id: str
    label: int
    answer: int


@dataclass
class _Found:
    """What was found so far."""

    stream: Stream
    labels: "_Labels"
    preprocessing: Preprocessing
    reading: Reading
    cache_bytes: int
    passed: "_Sample"
    wrong: list[_Example] = field(default_factory=list)
    compared: list[tuple[int, int]] = field(
        default_factory=list
    )  # label and answer, the first ones
    read: int = 0
    scales: Scales = field(default_factory=Scales)
    made: Scales = field(default_factory=Scales)
    asked: int = 0  # of those read the ones with a known label and a readable image
    unreadable: int = 0
    first_unreadable: Exception | None = None

    def add(self, piece: list[tuple], model: nn.Module, runtime: Runtime) -> None:
        """Ask `model` for the next examples, and keep those it gets wrong."""
        raws, ids = [raw for raw, _ in piece], identities((raw for raw, _ in piece), self.read)
        indices = self.labels.mapped([label for _, label in piece])
        known = (indices >= 0).nonzero().flatten()
        pool = self._pool(raws, ids)
        images = self._readable(Images(pool, known, indices[known], name=self.stream.name))
        self.read += len(piece)
        self.asked += len(images)
        answers = predict(model, images, self.preprocessing, runtime).predictions.tolist()
        labels = images.labels.tolist()
        self.compared += list(zip(labels, answers, strict=True))[: ASKED - len(self.compared)]
        for row, label, answer in zip(images.rows.tolist(), labels, answers, strict=True):
            example = _Example(raws[row], ids[row], label, answer)
            if label == answer:
                self.passed.add(example)
            else:
                self.wrong.append(example)

    def _pool(self, raws: list, ids: Sequence[str]) -> Pool:
        reading = self.reading
        pool = Pool(Kept(raws), ids, self.preprocessing, self.cache_bytes, reading.transform)
        pool.scales, pool.made = self.scales, self.made  # one for all pieces
        return pool

    def _readable(self, images: Images) -> Images:
        good = images.readable()
        error = images.first_unreadable()
        if error is None:
            return images
        if self.reading.on_unreadable == "stop":
            raise DataError(
                f"{images.name}: {error} (example {self.read + error.row} of the stream)"
            ) from error
        self.first_unreadable = self.first_unreadable or error
        self.unreadable += int((~good).sum())
        return images.subset(good)

    def images(self, limit: int) -> Collected:
        """The first `limit` failures, and what passed."""
        name = self.stream.name
        if self.read == 0:
            raise DataError(
                f"{name}: {self.stream.origin['source']} holds no examples; give at least one image"
                " with its label"
            )
        mapping = self.labels.finished()
        if self.unreadable:
            logger.warning(
                "%s: %d unreadable images left out, first: %s",
                name,
                self.unreadable,
                self.first_unreadable,
            )
        if self.asked == 0:
            raise DataError(f"{name}: no image can be read, first: {self.first_unreadable}")
        skipped = {"unknown_label": self.labels.unknown, "unreadable": self.unreadable}
        origin = self.stream.origin | mapping | {"skipped": skipped}
        failures = self._made(self.wrong[:limit], name, origin)
        labels, answers = torch.tensor(self.compared).T
        check_answers(failures, labels, answers)
        if not self.wrong:
            raise NoFailuresError(
                f"the model gets all {self.asked} examples right: there is nothing to repair"
            )
        failures.error_rate = len(self.wrong) / self.asked
        passing = self.passed.examples
        return Collected.of(
            failures, self._made(passing, f"{name} (passing)", origin) if passing else None
        )

    def _made(self, examples: list[_Example], name: str, origin: dict) -> Images:
        return Images(
            self._pool([each.raw for each in examples], [each.id for each in examples]),
            torch.arange(len(examples)),
            torch.tensor([each.label for each in examples], dtype=torch.long),
            name=name,
            origin=origin | {"stream": {"read": self.read, "kept": len(examples)}},
            on_unreadable=self.reading.on_unreadable,
            answers=torch.tensor([each.answer for each in examples], dtype=torch.long),
            class_names=self.labels.classes.readable,
        )


@dataclass
class _Sample:
    """A random sample of the examples added so far, of at most so many: each is as likely in it as
    any other.
    """

    most: int
    generator: torch.Generator
    examples: list[_Example] = field(default_factory=list)
    added: int = 0

    def add(self, example: _Example) -> None:
        self.added += 1
        if len(self.examples) < self.most:
            self.examples.append(example)
            return
        place = int(torch.randint(self.added, (), generator=self.generator))
        if place < self.most:
            self.examples[place] = example


@dataclass
class _Labels:
    """`map_labels`, for labels that come piece by piece: each is mapped as it would be if all had
    been there at once.
    """

    classes: Classes
    stream: Stream
    label_map: Any
    on_unknown: str
    # label as it is in the stream -> class index, -1 for none
    seen: dict[int | str, int] = field(default_factory=dict)
    waiting: list = field(default_factory=list)  # labels before the first one that is known
    mapping: dict = field(default_factory=dict)
    refused: LabelError | None = None
    unknown: int = 0

    def mapped(self, raw: Sequence[Any]) -> Tensor:
        """(n,) class indices of the next labels, -1 where they are left out."""
        if all(type(label) in (int, str) and label in self.seen for label in raw):
            indices = torch.tensor([self.seen[label] for label in raw])
        else:
            indices = self._learn(raw)
        self.unknown += int((indices < 0).sum())
        return indices

    def _learn(self, raw: Sequence[Any]) -> Tensor:
        before = [*self.waiting, *self.seen]  # the rules look at all labels together
        try:
            indices, mapping = map_labels(
                [*before, *raw],
                self.classes,
                names=self.stream.names,
                label_map=self.label_map,
                on_unknown=self.on_unknown,
                what=self.stream.name,
            )
        except LabelError as error:
            if self.on_unknown != "skip" or self.mapping or len(self.waiting) >= BUFFER:
                raise
            # it refuses labels of which none is known; here known ones may follow
            self.refused = error
            self.waiting += raw
            return torch.full((len(raw),), -1)
        if indices[: len(before)].tolist() != [-1] * len(self.waiting) + list(self.seen.values()):
            raise LabelError(
                f"{self.stream.name}: labels that came later change what the earlier ones mean;"
                " give label_map="
            )
        indices, self.waiting = indices[len(before) :], []
        self.mapping = {"label_mapping": mapping["label_mapping"]}
        self.seen |= {
            label: i
            for label, i in zip(raw, indices.tolist(), strict=True)
            if type(label) in (int, str)
        }
        return indices

    def finished(self) -> dict:
        """How they were mapped, as plain JSON; raises LabelError if none was known."""
        if not self.mapping and self.refused is not None:
            raise self.refused
        return self.mapping
