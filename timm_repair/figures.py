"""Figures of a Report: where the fault was suspected, what was built, what it changed, how the
search went.

Each returns a `matplotlib.figure.Figure` of its own, drawn without pyplot: nothing global changes,
no screen is needed. `overview` is the one for a README. matplotlib is an optional extra: `pip
install timm_repair[figures]`.
"""

import math
from itertools import accumulate, groupby
from pathlib import Path
from typing import TYPE_CHECKING

from timm_repair.drawing import (
    BLUE,
    GREEN,
    GREY,
    INK,
    MUTED,
    ORANGE,
    PALE,
    PURPLE,
    RED,
    SKY,
    empty,
    inches,
    title,
    write,
)
from timm_repair.errors import OutputError, RepairError
from timm_repair.figures_localization import draw_blocks, draw_layers, layer_scores
from timm_repair.space import OPERATIONS
from timm_repair.wording import clean, tail

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from timm_repair.report import Report

COLORS = {"skip": PURPLE, "avg_pool": SKY, "max_pool": BLUE, "sep_conv": RED, "dil_conv": GREEN}
OTHERS = (ORANGE, INK)  # for operations of the user's own, by order of appearance


def suspiciousness(report: "Report") -> "Figure":
    """One bar per block, the repaired ones in colour, and under them one per layer, where the
    scorer says something of layers.

    Raises:
        RepairError: the report holds no localization.
    """
    if not report.localization:
        raise RepairError(
            "this report holds no localization: its method did not look for a block; draw another"
            " figure"
        )
    most, layers = 60, len(layer_scores(report.localization)[0])
    count = min(len(report.localization["suspiciousness"]), most)
    rows = max(1.8, 0.9 + (0.32 if count < 16 else 0.17) * count)
    if not layers:
        figure = empty(6.0, rows)
        draw_blocks(figure.subplots(), report, most=most, brief=False)
        return figure
    figure = empty(min(max(7.0, 1.6 + 0.17 * layers), 15.0), rows + 3.2)
    above, below = figure.subplots(2, height_ratios=(rows, 3.2))
    draw_blocks(above, report, most=most, brief=False)
    draw_layers(below, report)
    return figure


def architecture(report: "Report") -> "Figure":
    """The raw layers as a chain, the searched paths as labelled arcs over it; one below the other
    for several blocks.
    """
    plans = _plans(report)
    heights = [1.8 + 0.48 * _stacked(genotype)[1] for _, genotype in plans]
    layers = max(len(genotype["nodes"]) if genotype else 1 for _, genotype in plans)
    figure = empty(min(max(6.0, 1.4 * layers), 20.0), sum(heights))
    axes = figure.subplots(len(plans), squeeze=False, height_ratios=heights)[:, 0]
    for ax, (block, genotype) in zip(axes, plans, strict=True):
        _draw_architecture(ax, report, block, genotype)
    return figure


def before_after(report: "Report") -> "Figure":
    """Accuracy before and after per population, with 95 % intervals and the counts of fixed and
    broken examples.
    """
    figure = empty(max(4.5, 1.8 + 1.7 * len(report.scores)), 3.8)
    _draw_before_after(figure.subplots(), report)
    return figure


def trajectories(report: "Report") -> "Figure":
    """Loss per step and stage; the search's objective and the final operation weights where the
    history has them.

    Raises:
        RepairError: the report holds no history.
    """
    if not report.history:
        raise RepairError(
            "this report holds no history: its method has no training steps; draw another figure"
        )
    searched = next((row for row in reversed(report.history) if row.get("alpha")), None)
    shown = [
        key
        for key in ("loss", "objective")
        if any(row.get(key) is not None for row in report.history)
    ]
    panels = len(shown) + (searched is not None)
    figure = empty(4.6 * panels, 3.4)
    axes = figure.subplots(1, panels, squeeze=False)[0]
    for ax, key in zip(axes, shown, strict=False):
        _draw_curve(ax, report.history, key)
    if searched:
        _draw_alpha(
            figure,
            axes[-1],
            searched["alpha"],
            list(report.repaired_blocks),
            searched.get("edges") or [],
        )
    return figure


def overview(report: "Report") -> "Figure":
    """Suspiciousness, architecture and before/after in one row; without the first two where the
    method has neither.
    """
    plans = _plans(report) if report.genotypes else []
    heights = [2.4 + 0.4 * _stacked(genotype)[1] for _, genotype in plans] or [3.6]
    widths = [4.0] * bool(report.localization) + [7.5] * bool(plans) + [4.0]
    figure = empty(sum(widths), min(max(3.6, sum(heights)), 7.0 if len(plans) < 2 else 9.0))
    grid = figure.add_gridspec(
        len(heights),
        len(widths),
        width_ratios=[1 if width < 5 else 2 for width in widths],
        height_ratios=heights,
    )
    if report.localization:
        draw_blocks(figure.add_subplot(grid[:, 0]), report)
    for row, (block, genotype) in enumerate(plans):
        _draw_architecture(figure.add_subplot(grid[row, -2]), report, block, genotype)
    _draw_before_after(figure.add_subplot(grid[:, -1]), report)
    return figure


def save_all(report: "Report", directory: str | Path) -> list[Path]:
    """Write every figure that the report has data for as `directory`/NAME.png, and return the
    paths.

    Raises:
        OutputError: the directory cannot be written.
    """
    draw = [architecture, before_after, overview]
    draw += [suspiciousness] * bool(report.localization) + [trajectories] * bool(report.history)
    paths = [Path(directory) / f"{each.__name__}.png" for each in draw]
    try:
        Path(directory).mkdir(parents=True, exist_ok=True)
        for each, path in zip(draw, paths, strict=True):
            each(report).savefig(path, dpi=160)
    except OSError as error:
        raise OutputError(
            f"cannot write figures to {str(directory)!r} ({error}); give a directory you may"
            " write to"
        ) from error
    return paths


def _stacked(genotype: dict | None) -> tuple[list[tuple[dict, float, float, int]], int]:
    """(edge, start, end, level) per searched path, and how many levels; arcs that would meet
    differ.

    Layer t is the box at x = t. Left of it lie, in this order, the point X_t that paths start from,
    and the sum that paths end in; an edge t -> t is thus an arc over the gap alone.
    """
    arcs, taken = [], []
    edges = genotype["edges"] if genotype else []
    for edge in sorted(edges, key=lambda e: (e["target"] - e["source"], e["source"])):
        start, end = edge["source"] - 0.62, edge["target"] - 0.38
        middle, half = (start + end) / 2, max((end - start) / 2, 0.42)  # 0.42: half of a label
        span = middle - half, middle + half
        free = (
            i for i, row in enumerate(taken) if all(span[1] <= a or b <= span[0] for a, b in row)
        )
        level = next(free, len(taken))
        if level == len(taken):
            taken.append([])
        taken[level].append(span)
        arcs.append((edge, start, end, level))
    return arcs, len(taken)


def _plans(report: "Report") -> list[tuple[str | None, dict | None]]:
    """The blocks that have an architecture of their own, in network order, with it; one without
    both for a repair of weights alone.
    """
    order = [block["name"] for block in report.blocks]
    found = sorted(
        report.genotypes.items(),
        key=lambda item: order.index(item[0]) if item[0] in order else len(order),
    )
    return found or [(None, None)]


def _draw_architecture(
    ax: "Axes", report: "Report", block: str | None, genotype: dict | None
) -> None:
    ax.set_axis_off()
    if genotype is None:
        title(ax, "Architecture")
        words = f"unchanged: the method changes\nweights only ({clean(report.method, 30)})"
        write(ax, 0.5, 0.5, words, color=GREY)
        return
    arcs, levels = _stacked(genotype)
    name = tail(block, 44)
    title(
        ax,
        (
            f"What was built into {name}"
            if arcs
            else f"Nothing added to {name}: the raw architecture was kept"
        ),
    )
    layers = [clean(node["layer"], 24) for node in genotype["nodes"]]
    room = inches(ax)[0] / (len(layers) + 1)  # inches for one layer
    size = min(9.0, max(5.0, 11 * room))
    # font size at which the longest name fits into its box
    inside = 46 * room / max(map(len, layers))
    _draw_chain(ax, layers, size=size, inside=inside)
    others = list(
        dict.fromkeys(edge["operation"] for edge, *_ in arcs if edge["operation"] not in COLORS)
    )
    for edge, start, end, level in arcs:
        operation = edge["operation"]
        color = COLORS.get(operation) or OTHERS[others.index(operation) % len(OTHERS)]
        _draw_arc(ax, clean(operation, 16), start, end, level, color=color, size=size)
    ax.set_xlim(-1.4, len(layers) + 0.4)
    bottom = -0.6 if inside >= 6 else -1.5
    # no unit longer than an inch
    ax.set_ylim(bottom, max(0.75 + 0.5 * levels, inches(ax)[1] / 0.95 + bottom))


def _draw_chain(ax: "Axes", layers: list[str], *, size: float, inside: float) -> None:
    from matplotlib.patches import FancyBboxPatch

    end = len(layers) - 0.1
    ax.plot([-1.0, end], [0, 0], color=GREY, linewidth=1, zorder=1)
    ax.plot(end, 0, marker=">", color=GREY, markersize=5, zorder=1)
    write(ax, -1.05, 0, "in", ha="right", fontsize=size, color=GREY)
    write(ax, end + 0.1, 0, "out", ha="left", fontsize=size, color=GREY)
    style = {
        "boxstyle": "round,pad=0,rounding_size=0.08",
        "facecolor": PALE,
        "edgecolor": GREY,
        "linewidth": 0.8,
    }
    hanging = {
        "ha": "right",
        "va": "top",
        "rotation": 35,
        "rotation_mode": "anchor",
        "fontsize": max(size, 6),
    }
    for index, layer in enumerate(layers):
        ax.add_patch(FancyBboxPatch((index - 0.2, -0.22), 0.4, 0.44, zorder=3, **style))
        if inside >= 6:
            write(ax, index, 0, layer, fontsize=min(size, inside), zorder=4)
        else:
            write(ax, index + 0.1, -0.3, layer, **hanging)


def _draw_arc(
    ax: "Axes", label: str, start: float, end: float, level: int, *, color: str, size: float
) -> None:
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path as Curve

    # leaning outwards keeps paths with a common end apart
    top, lean = 0.75 + 0.5 * level, 0.09 * level
    bend = 4 / 3 * top  # the middle of a cubic Bézier curve is at 3/4 of its control points
    curve = Curve([(start, 0), (start - lean, bend), (end + lean, bend), (end, 0)], [1, 4, 4, 4])
    ax.add_patch(PathPatch(curve, fill=False, edgecolor=color, linewidth=0.2 * size, zorder=2))
    ax.plot(start, 0, marker="o", markersize=0.4 * size, color=INK, zorder=5)
    circle = {"markerfacecolor": "white", "markeredgewidth": 0.8}
    ax.plot(end, 0, marker="o", markersize=0.9 * size, color=INK, zorder=5, **circle)
    ax.plot(end, 0, marker="+", markersize=0.6 * size, color=INK, zorder=6)
    box = {"facecolor": "white", "edgecolor": "none", "pad": 1.0}
    write(ax, (start + end) / 2, top, label, fontsize=size, color=color, zorder=7, bbox=box)


def _draw_before_after(ax: "Axes", report: "Report") -> None:
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


def _draw_curve(ax: "Axes", history: tuple[dict, ...], key: str) -> None:
    title(ax, {"loss": "Training loss", "objective": "Selection objective"}[key])
    offset = 0
    colors = (BLUE, RED, GREEN, PURPLE, ORANGE, SKY)
    for index, (stage, rows) in enumerate(groupby(history, key=lambda row: row["stage"])):
        rows = list(rows)
        points = [(offset + i, row[key]) for i, row in enumerate(rows) if row.get(key) is not None]
        if points:
            marker = "o" if len(points) < 3 else None
            color = colors[index % len(colors)]
            ax.plot(
                *zip(*points, strict=True),
                color=color,
                label=clean(stage, 20),
                linewidth=1.4,
                marker=marker,
            )
        offset += len(rows)
    ax.set_xlabel("step (stages one after another)", fontsize=9)
    ax.legend(frameon=False, fontsize=9)


def _draw_alpha(
    figure: "Figure", ax: "Axes", alpha: list[list[float]], blocks: list[str], edges: list[int]
) -> None:
    title(ax, "Operation weights at the end of the search")
    weights = [[math.exp(value - max(row)) for value in row] for row in alpha]
    weights = [[value / sum(row) for value in row] for row in weights]
    image = ax.imshow(weights, aspect="auto", cmap="cividis", vmin=0, vmax=1)
    if len(weights[0]) == len(OPERATIONS):  # α's columns follow the search space
        ax.set_xticks(
            range(len(OPERATIONS)), OPERATIONS, rotation=30, ha="right", rotation_mode="anchor"
        )
    ax.yaxis.get_major_locator().set_params(integer=True)
    ax.set_ylabel("edge", fontsize=9)
    # the edges of several blocks, one after the other
    if len(edges) > 1 and len(edges) == len(blocks):
        ends = list(accumulate(edges))
        middles = [end - count / 2 - 0.5 for end, count in zip(ends, edges, strict=True)]
        ax.set_yticks(
            middles, [tail(name, 16) for name in blocks], rotation=90, va="center", parse_math=False
        )
        ax.set_ylabel("edges of", fontsize=9)
        for end in ends[:-1]:
            ax.axhline(end - 0.5, color="white", linewidth=2)
    figure.colorbar(image, ax=ax, label="softmax(α)")
