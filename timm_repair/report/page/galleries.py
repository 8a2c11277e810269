"""Galleries: examples that were broken, fixed or are still wrong, as cards to be looked at."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest

from timm_repair.report.facts import Facts, name_of
from timm_repair.report.gallery import BROKEN, FIXED, KINDS, LINES, MOST, WRONG, Gallery, chosen
from timm_repair.report.page.templates import data_uri
from timm_repair.report.wording import clean

TITLES = {BROKEN: "Newly broken", FIXED: "Fixed", WRONG: "Still wrong"}
SAYS = {
    BROKEN: "right before, wrong after",
    FIXED: "wrong before, right after",
    WRONG: "wrong before and after",
}
LINE_TITLES = dict(
    zip(LINES, ("retained", "the same, seen through it", "failures most like these"), strict=True)
)
BYTES = 2_600_000  # of images in one page, which base64 makes a third larger


@dataclass(frozen=True)
class Answer:
    """What a model said: the class, the probability it gave it, and whether it is right."""

    name: str
    sure: float | None
    right: bool


@dataclass(frozen=True)
class Card:
    """One example.

    Args:
        image: as a data URI; None where there is none.
        population: its number in the report; `within` its name.
        label: index of the true class; `name` what it is called.
        change: by how much the probability of the true class rose; None if that is not known.
        id: what its source calls it, or the number it has.
    """

    image: str | None
    population: int
    within: str
    label: int
    name: str
    before: Answer
    after: Answer
    change: float | None
    id: str


@dataclass(frozen=True)
class Shelf:
    """All cards of a kind.

    Args:
        total: how many examples of the kind there are.
    """

    kind: str
    title: str
    says: str
    cards: tuple[Card, ...]
    total: int


def shelves(report: Facts, gallery: Gallery, most: int = MOST) -> list[Shelf]:
    """One of each of KINDS, the cards that changed most first."""
    shown = chosen(report.scores, most)
    images = _affordable(shown, gallery)
    found = []
    for kind in KINDS:
        cards = [
            _card(report, number, row, images.get((number, row)))
            for number, kinds in enumerate(shown)
            for row in kinds[kind].rows
        ]
        cards.sort(key=lambda card: -abs(card.change or 0))
        total = sum(kinds[kind].total for kinds in shown)
        found.append(Shelf(kind, TITLES[kind], SAYS[kind], tuple(cards), total))
    return found


def pattern_rows(gallery: Gallery, words: Sequence[str]) -> list[tuple[str, list]]:
    """For each pattern its words, and its lines: a title and images."""
    return [
        (
            clean(str(said), 200),
            [(LINE_TITLES[line], [data_uri(image) for image in pattern[line]]) for line in LINES],
        )
        for said, pattern in zip(words, gallery.patterns, strict=False)
    ]


def _affordable(shown: Sequence[dict], gallery: Gallery) -> dict[tuple[int, int], str]:
    """The images of what is shown, as data URIs, until the page is large enough: the first of each
    shelf and population, then the second, ….
    """
    columns = [
        [(number, row) for row in each.rows]
        for number, kinds in enumerate(shown)
        for each in kinds.values()
    ]
    found, room = {}, BYTES
    for key in filter(None, chain.from_iterable(zip_longest(*columns))):
        image = gallery.examples.get(key)
        if image is not None and len(image) <= room:
            room -= len(image)
            found[key] = data_uri(image)
    return found


def _card(report: Facts, number: int, row: int, image: str | None) -> Card:
    scores = report.scores[number]
    told, label = scores.examples, int(scores.labels[row])
    sides = []
    for name in ("before", "after"):
        answer = int(getattr(scores, name)[row])
        sure = None if told is None else float(getattr(told, name)[row, 0])
        sides.append(Answer(name_of(report, answer), sure, answer == label))
    known = told is not None and told.ids is not None
    return Card(
        image=image,
        population=number,
        within=clean(scores.population, 40),
        label=label,
        name=name_of(report, label),
        before=sides[0],
        after=sides[1],
        change=None if told is None else float(told.change[row]),
        id=clean(told.ids[row], 80) if told is not None and told.ids and known else f"no. {row}",
    )
