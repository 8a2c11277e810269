"""Gallery: small pictures of examples, kept apart from the report, and which examples are shown.

A report is numbers and words, and may be published; pictures are data. They are handed to whoever
draws the page, and left out by handing over none.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from timm_repair.report.scores import Scores

BROKEN, FIXED, WRONG = KINDS = ("broken", "fixed", "wrong")
LINES = ("retained", "made", "failing")  # of a pattern
MOST, ALL = 60, 600  # examples of one kind in one population; on one page
LEAST = 3


@dataclass(frozen=True)
class Gallery:
    """JPEG files, by what they show.

    Args:
        examples: number of the population in `Report.scores` and of the example in it to its image.
        patterns: for each pattern of the diagnosis a dict with a list of images for each of LINES:
            retained images, what the pattern makes of them, and failures most like these.
    """

    examples: Mapping[tuple[int, int], bytes] = field(default_factory=dict)
    patterns: Sequence[Mapping[str, Sequence[bytes]]] = ()

    def __bool__(self) -> bool:
        return bool(self.examples or self.patterns)

    def __repr__(self) -> str:
        return f"Gallery of {len(self.examples)} examples and {len(self.patterns)} patterns"

    def files(self) -> Iterator[tuple[str, bytes]]:
        """Each image with a name for its file."""
        for (population, row), image in self.examples.items():
            yield example_name(population, row), image
        for number, pattern in enumerate(self.patterns):
            for line, images in pattern.items():
                yield from (
                    (pattern_name(number, line, i), image) for i, image in enumerate(images)
                )


def example_name(population: int, row: int) -> str:
    """The name of the file of an example."""
    return f"{population}-{row}.jpg"


def pattern_name(number: int, line: str, place: int) -> str:
    """The name of the file of an image that shows a pattern."""
    return f"pattern-{number}-{line}-{place}.jpg"


@dataclass(frozen=True)
class Chosen:
    """Which examples of one kind are shown.

    Args:
        rows: (n,) of the population, those that changed most first.
        total: how many there are of the kind.
    """

    rows: tuple[int, ...]
    total: int


def chosen(scores: Sequence[Scores], most: int = MOST) -> list[dict[str, Chosen]]:
    """For each population and each of KINDS what is shown of it.

    From every class in turn, within a class those whose confidence changed most: so every class is
    there, and what is most telling of it. Fewer of each where there are many populations.
    """
    most = max(LEAST, min(most, ALL // (len(KINDS) * max(len(scores), 1))))
    return [{kind: _chosen(each, kind, most) for kind in KINDS} for each in scores]


def rows_of(scores: Scores, kind: str) -> Tensor:
    """(N,) bool: which examples are of one of KINDS."""
    before, after = scores.before == scores.labels, scores.after == scores.labels
    return {BROKEN: before & ~after, FIXED: ~before & after, WRONG: ~before & ~after}[kind]


def _chosen(scores: Scores, kind: str, most: int) -> Chosen:
    rows = rows_of(scores, kind).nonzero().flatten()
    change = torch.zeros(len(rows))
    if scores.examples is not None:
        change = scores.examples.change[rows].abs()
    rows = rows[change.argsort(descending=True, stable=True)]
    # the place of each within its class decides: the first of every class, then the second, …
    turns, counts = [], {}
    for label in scores.labels[rows].tolist():
        turns.append(counts.get(label, 0))
        counts[label] = turns[-1] + 1
    shown = torch.tensor(turns, dtype=torch.long).argsort(stable=True)[:most].sort().values
    return Chosen(tuple(rows[shown].tolist()), len(rows))
