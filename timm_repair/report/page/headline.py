"""The numbers at the top of the page: what was fixed, what was broken, what became of the rest, and
what it costs.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from timm_repair.report.facts import Facts
from timm_repair.report.natural import Natural
from timm_repair.report.scores import Scores
from timm_repair.report.wording import clean, points, quantity, signed


@dataclass(frozen=True)
class Number:
    """One of them.

    Args:
        name: what it is of.
        value: the number, with its unit.
        about: of how many, within which range.
        kind: "good" or "bad" where it is that beyond doubt, else "".
    """

    name: str
    value: str
    about: str
    kind: str = ""


def numbers(report: Facts) -> list[Number]:
    """Four."""
    scores = report.scores
    fixed, broken = (sum(getattr(each, name) for each in scores) for name in ("fixed", "broken"))
    right = sum(round(each.accuracy_before * each.n) for each in scores)
    wrong = sum(each.n for each in scores) - right
    return [
        Number("Fixed", f"{fixed:,}", f"of {wrong:,} that were wrong", "good" if fixed else ""),
        Number("Broken", f"{broken:,}", f"of {right:,} that were right", "bad" if broken else ""),
        _clean(report),
        _latency(report.cost),
    ]


def kept(report: Facts) -> Scores | None:
    """Of the populations that were measured, the one that says most of what must not be forgotten:
    on which the original was best. Not one that was collected by what it got right or wrong.
    """
    natural = Natural.of(report.scores, report.provenance.get("error_rate"))
    able = [
        each
        for each in report.scores
        if each.accuracy_before > 0 and (natural is None or each is not natural.passing)
    ]
    return max(able, key=lambda each: each.accuracy_before, default=None)


def _clean(report: Facts) -> Number:
    each = kept(report)
    if each is None:
        return Number("Change elsewhere", "not measured", "only failures were")
    low, high = each.intervals(seed=report.seed).change
    kind = "bad" if high < 0 else "good" if low > 0 else ""
    about = f"{points(each.change, (low, high)).partition(' ')[2]} points on {each.n:,} examples"
    name = f"Change on {clean(each.population, 24)}"
    return Number(name, signed(each.change), about, kind)


def _latency(cost: Mapping[str, Mapping]) -> Number:
    before, after = (cost.get(when, {}).get("latency_ms") for when in ("before", "after"))
    if before is None or after is None:
        return Number("Latency", "not measured", "")
    about = f"{quantity(before)} → {quantity(after)} ms an image"
    timed = cost.get("change", {})
    if "latency" not in timed:
        return Number("Latency", f"{signed(after / before - 1)} %", about)
    low, high = timed["latency_range"]
    if low == high == timed["latency"] == 0:
        return Number("Latency", "as before", f"{quantity(before)} ms an image, same architecture")
    kind = "bad" if low > 0 else "good" if high < 0 else ""
    spread = points(timed["latency"], (low, high)).partition(" ")[2]
    return Number("Latency", f"{signed(timed['latency'])} %", f"{spread} %; {about}", kind)
