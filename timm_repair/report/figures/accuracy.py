"""What a repair changed: accuracy before and after, per population."""

from timm_repair.report.facts import Facts
from timm_repair.report.figures.drawing import (
    BLUE,
    INK,
    MUTED,
    Axes,
    Figure,
    empty,
    inches,
    title,
    write,
)
from timm_repair.report.wording import clean


def before_after(report: Facts) -> Figure:
    """Accuracy before and after per population, with 95 % intervals and the counts of fixed and
    broken examples.
    """
    figure = empty(max(4.5, 1.8 + 1.7 * len(report.scores)), 3.8)
    draw_before_after(figure.subplots(), report)
    return figure


def draw_before_after(ax: Axes, report: Facts) -> None:
    """Two bars a population with their intervals, and what was fixed and broken."""
    title(ax, "Held-out accuracy")
    for index, each in enumerate(report.scores):
        bounds = each.intervals(seed=report.seed)
        bars = (
            (-0.19, each.accuracy_before, bounds.before, MUTED),
            (0.19, each.accuracy_after, bounds.after, BLUE),
        )
        for side, value, (low, high), color in bars:
            label = ("before" if side < 0 else "after") if index == 0 else None
            error = [[100 * max(value - low, 0)], [100 * max(high - value, 0)]]
            ax.bar(
                index + side,
                100 * value,
                0.36,
                color=color,
                label=label,
                yerr=error,
                capsize=3,
                ecolor=INK,
            )
            write(ax, index + side, 100 * high, f"{100 * value:.1f}", shift=(0, 3), va="bottom")
        top = 100 * max(bounds.before[1], bounds.after[1])
        write(
            ax,
            index,
            top,
            f"+{each.fixed} fixed\n−{each.broken} broken",
            shift=(0, 16),
            va="bottom",
            fontsize=8.5,
        )
    names = [f"{clean(each.population, 16)}\nn = {each.n}" for each in report.scores]
    ax.set_xticks(range(len(names)), names, parse_math=False)
    ax.set_xlim(-0.6, len(report.scores) - 0.4)
    # an inch for the words above a bar of 100 %
    ax.set_ylim(0, 100 / (1 - min(0.95 / inches(ax)[1], 0.5)))
    ax.set_yticks(range(0, 101, 20))
    ax.set_ylabel("% right", fontsize=9)
    ax.legend(frameon=False, fontsize=9, ncols=2, loc="upper left", borderaxespad=0)
