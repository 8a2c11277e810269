"""Views: what the app shows, as HTML. Jinja escapes every value."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from timm_repair.app.opening import Saved
from timm_repair.app.pair import Answer
from timm_repair.app.runs import Status
from timm_repair.app.workbench import Looked
from timm_repair.report.page.galleries import pattern_rows
from timm_repair.report.page.headline import numbers
from timm_repair.report.page.templates import data_uri, source, template
from timm_repair.report.wording import clean, middle, short_name

_HERE = "timm_repair.app"


@dataclass(frozen=True)
class Card:
    """An image, as a data URI, and what both models said to it."""

    name: str
    image: str
    before: tuple[Answer, ...]
    after: tuple[Answer, ...]

    @property
    def changed(self) -> bool:
        return bool(self.before) and self.before[0].label != self.after[0].label


@dataclass(frozen=True)
class Row:
    """One population of one repair, in a comparison."""

    name: str
    model: str
    method: str
    blocks: str
    population: str
    n: str
    before: str
    after: str
    fixed: str
    broken: str
    verdict: str
    kind: str


def head(saved: Saved) -> str:
    """Of which repair the page is, and how it went."""
    report = saved.report
    verdict = report.verdict
    return _fragment(
        "head",
        short_name(report.model),
        clean(report.method),
        verdict.kind,
        clean(verdict.sentences[0], 1000),
        numbers(report),
    )


def answers(looked: Looked, lacking: str) -> str:
    """Every image with both answers, and what is wrong with others."""
    cards = [
        Card(middle(upload.name, 40), data_uri(upload.thumbnail), each.before, each.after)
        for upload, each in zip(looked.uploads, looked.answers, strict=True)
    ]
    return _fragment("answers", cards, _told(cards), looked.wrong, lacking)


def _told(cards: Sequence[Card]) -> str:
    if not cards:
        return ""
    changed = sum(card.changed for card in cards)
    told = f"{len(cards)} image{'s' * (len(cards) > 1)}"
    if not cards[0].before:
        return f"{told}."
    return f"{told}; the repair changed the answer to {changed or 'none'} of them."


def pattern(saved: Saved) -> str:
    """The pattern that the diagnosis found, with its pictures."""
    found = saved.report.diagnosis or {}
    headline = clean(str(found.get("headline") or ""), 300)
    words = found.get("words") or [headline]
    rows = pattern_rows(saved.gallery, [str(each) for each in words])
    return _fragment("pattern", headline, rows, str(found.get("text", "")))


def collected(counts: Mapping[str, int], folder: object) -> str:
    """What the failures folder holds."""
    return _fragment("collected", counts, str(folder))


def progress(status: Status | None, verdict: str = "") -> str:
    """How far a repair is; of one that is done how it went."""
    return _fragment("progress", status, clean(verdict, 1000))


def compared(repairs: Sequence[Saved]) -> str:
    """A table of repairs."""
    return _fragment("compared", [row for saved in repairs for row in _rows(saved)])


def _rows(saved: Saved) -> list[Row]:
    report, verdict = saved.report, saved.report.verdict
    return [
        Row(
            name=saved.name,
            model=short_name(report.model),
            method=clean(report.method),
            blocks=clean(", ".join(report.repaired_blocks), 60) or "-",
            population=clean(each.population, 40),
            n=f"{each.n:,}",
            before=f"{100 * each.accuracy_before:.1f}",
            after=f"{100 * each.accuracy_after:.1f}",
            fixed=f"{each.fixed:,}",
            broken=f"{each.broken:,}",
            verdict=verdict.kind,
            kind=verdict.kind,
        )
        for each in report.scores
    ]


def say(text: str, kind: str = "") -> str:
    """A sentence about what was just done; `kind` "bad" for what went wrong."""
    return _fragment("say", text, kind)


def duration(seconds: float) -> str:
    """Seconds, in words."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def style() -> str:
    """The style sheet."""
    return source(_HERE, "app.css")


def _fragment(name: str, *values: Any) -> str:
    return str(getattr(_fragments(), name)(*values))


@cache
def _fragments() -> Any:
    return template(_HERE, "fragments.html", {"duration": duration}).module
