"""What each method of a comparison buys, and what it costs."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle
from math import inf

from timm_repair.errors import RepairError
from timm_repair.report.compared import latency_change
from timm_repair.report.comparison import Comparison
from timm_repair.report.figures.drawing import (
    BLUE,
    GREEN,
    GREY,
    INK,
    MUTED,
    ORANGE,
    PURPLE,
    RED,
    SKY,
    Axes,
    Figure,
    empty,
    title,
)
from timm_repair.report.rows import Row
from timm_repair.report.wording import clean, middle

_COLORS, _MARKERS = (BLUE, RED, GREEN, ORANGE, PURPLE, SKY), "osD^vP*X"
_PERCENT = (0.0, 100.0)
Value = tuple[float, tuple[float, float] | None]  # with its interval


@dataclass(frozen=True)
class _View:
    """One panel: what is on its x-axis, and between which values that can lie."""

    title: str
    name: str
    of: Callable[[Row], Value | None]
    more_is_better: bool
    original: float | None = None
    least: float = -inf
    most: float = inf


def pareto(
    comparison: Comparison, *, failing: str | None = None, retained: str | None = None
) -> Figure:
    """Accuracy on the failing population over accuracy on the retained one, over its negative flip
    rate, over the time of the repair and over the change of latency. A line joins the rows that no
    other beats in both.

    Args:
        failing: a population; None takes "failing", or the one that the original does worst on.
        retained: a population; None takes the one that it does best on.

    Raises:
        RepairError: every row failed.
    """
    if not comparison.populations:
        raise RepairError("every row of this comparison failed: there is nothing to draw")
    failing, retained = failing or _failing(comparison), retained or _retained(comparison)
    views = [
        _View(
            "What is kept",
            f"% right on {clean(retained, 30)!r}",
            lambda row: _after(row, retained),
            True,
            100 * comparison.original(retained).accuracy_before,
            *_PERCENT,
        ),
        _View(
            "What is broken",
            f"broken on {clean(retained, 30)!r} (NFR, %)",
            lambda row: (100 * row.population(retained).negative_flip_rate, None),
            False,
            0.0,
            *_PERCENT,
        ),
        _View(
            "What the repair takes",
            "seconds",
            lambda row: (row.seconds or 0.0, None),
            False,
            least=0.0,
        ),
        _View(
            "What the model takes",
            "change of latency (%)",
            _latency,
            False,
            0.0,
        ),
    ]
    done = {label: row for label, row in comparison.rows.items() if row.done}
    views = [view for view in views if any(view.of(row) is not None for row in done.values())]
    figure = empty(9.6, 3.5 * -(-len(views) // 2) + 0.3 * -(-len(done) // 3))
    axes = figure.subplots(-(-len(views) // 2), 2, squeeze=False).flatten()
    for ax, view in zip(axes, views, strict=False):
        _draw(ax, comparison, done, view, failing)
    for ax in axes[len(views) :]:
        ax.set_axis_off()
    handles, labels = axes[0].get_legend_handles_labels()
    legend = figure.legend(
        handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=9
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
    return figure


def _failing(comparison: Comparison) -> str:
    if "failing" in comparison.populations:
        return "failing"
    return min(comparison.populations, key=lambda p: comparison.original(p).accuracy_before)


def _retained(comparison: Comparison) -> str:
    return max(comparison.populations, key=lambda p: comparison.original(p).accuracy_before)


def _after(row: Row, population: str) -> Value:
    found = row.population(population)
    low, high = found.interval_after
    return 100 * found.accuracy_after, (100 * low, 100 * high)


def _latency(row: Row) -> Value | None:
    value, _ = row.mean(latency_change)
    return None if value is None else (100 * value, None)


def _draw(
    ax: Axes, comparison: Comparison, done: dict[str, Row], view: _View, failing: str
) -> None:
    title(ax, view.title)
    points = {}
    looks = zip(cycle(_COLORS), cycle(_MARKERS), strict=False)  # 6 and 8: 24 looks
    for (label, row), (color, marker) in zip(done.items(), looks, strict=False):
        y, x = _after(row, failing), view.of(row)
        if x is None:
            continue
        points[label] = (x[0], y[0])
        ax.errorbar(
            x[0],
            y[0],
            xerr=_error(x),
            yerr=_error(y),
            fmt=marker,
            color=color,
            ecolor=MUTED,
            elinewidth=1,
            markersize=7,
            label=middle(label, 34),
        )
    if view.original is not None:
        before = 100 * comparison.original(failing).accuracy_before
        ax.plot(view.original, before, "+", color=INK, markersize=11, label="original")
    front = _front(list(points.values()), view.more_is_better)
    ax.plot(*zip(*front, strict=True), color=GREY, linewidth=1, linestyle=":", zorder=0)
    ax.set_xlim(_within(ax.get_xlim(), view.least, view.most))
    ax.set_ylim(_within(ax.get_ylim(), *_PERCENT))
    ax.set_xlabel(view.name, fontsize=9, parse_math=False)
    ax.set_ylabel(f"% right on {clean(failing, 30)!r}", fontsize=9, parse_math=False)


def _within(limits: tuple[float, float], least: float, most: float) -> tuple[float, float]:
    """An axis that ends where values do, with room for a marker there."""
    room = 0.03 * (min(limits[1], most) - max(limits[0], least))
    return max(limits[0], least - room), min(limits[1], most + room)


def _error(value: Value) -> list[list[float]] | None:
    middle, bounds = value
    return bounds and [[max(middle - bounds[0], 0)], [max(bounds[1] - middle, 0)]]


def _front(points: list[tuple[float, float]], more_is_better: bool) -> list[tuple[float, float]]:
    """Those that no other beats in both, from left to right."""
    sign = 1 if more_is_better else -1
    best = [
        (x, y)
        for x, y in points
        if not any(sign * u >= sign * x and v >= y and (u, v) != (x, y) for u, v in points)
    ]
    return sorted(set(best))
