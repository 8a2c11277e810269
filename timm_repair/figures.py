"""Figures of a Report: where the fault was suspected, what was built, what it changed, how the search went.

Each returns a `matplotlib.figure.Figure` of its own, drawn without pyplot: nothing global changes, no screen is
needed. `overview` is the one for a README. matplotlib is an optional extra: `pip install timm_repair[figures]`.
"""

import math
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from timm_repair.card import clean
from timm_repair.errors import OutputError, RepairError
from timm_repair.space import OPERATIONS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from timm_repair.report import Report

# Okabe and Ito's palette: told apart with every common kind of colour vision
BLUE, ORANGE, GREEN, RED, PURPLE, SKY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9"
GREY, PALE, MUTED, INK = "#8A8A8A", "#E4E7EB", "#B8C4CE", "#222222"
COLORS = {"skip": PURPLE, "avg_pool": SKY, "max_pool": BLUE, "sep_conv": RED, "dil_conv": GREEN}
OTHERS = (ORANGE, INK)  # for operations of the user's own, by order of appearance


def suspiciousness(report: "Report") -> "Figure":
    """One bar per block, the repaired one in colour.

    Raises:
        RepairError: the report holds no localization.
    """
    if not report.localization:
        raise RepairError("this report holds no localization: its method did not look for a block; draw another figure")
    figure = _figure(6.0, max(1.8, 0.9 + 0.32 * len(report.localization["suspiciousness"])))
    _draw_suspiciousness(figure.subplots(), report)
    return figure


def architecture(report: "Report") -> "Figure":
    """The raw layers as a chain, the searched paths as labelled arcs over it."""
    _, levels = _stacked(report.genotype)
    layers = len(report.genotype["nodes"]) if report.genotype else 1
    figure = _figure(min(max(6.0, 1.4 * layers), 20.0), 2.2 + 0.45 * levels)
    _draw_architecture(figure.subplots(), report)
    return figure


def before_after(report: "Report") -> "Figure":
    """Accuracy before and after per population, with 95 % intervals and the counts of fixed and broken examples."""
    figure = _figure(max(4.5, 1.8 + 1.7 * len(report.scores)), 3.8)
    _draw_before_after(figure.subplots(), report)
    return figure


def trajectories(report: "Report") -> "Figure":
    """Loss per step and stage; the search's objective and the final operation weights where the history has them.

    Raises:
        RepairError: the report holds no history.
    """
    if not report.history:
        raise RepairError("this report holds no history: its method has no training steps; draw another figure")
    alpha = next((row["alpha"] for row in reversed(report.history) if row.get("alpha")), None)
    shown = [key for key in ("loss", "objective") if any(row.get(key) is not None for row in report.history)]
    figure = _figure(4.6 * (len(shown) + (alpha is not None)), 3.4)
    axes = figure.subplots(1, len(shown) + (alpha is not None), squeeze=False)[0]
    for ax, key in zip(axes, shown, strict=False):
        _draw_curve(ax, report.history, key)
    if alpha is not None:
        _draw_alpha(figure, axes[-1], alpha)
    return figure


def overview(report: "Report") -> "Figure":
    """Suspiciousness, architecture and before/after in one row; without the first two where the method has neither."""
    panels = [(_draw_suspiciousness, 1.0, 4.0)] * bool(report.localization)
    panels += [(_draw_architecture, 2.0, 7.5)] * (report.genotype is not None)
    panels += [(_draw_before_after, 1.0, 4.0)]
    draws, ratios, widths = zip(*panels, strict=True)
    _, levels = _stacked(report.genotype)
    figure = _figure(sum(widths), min(max(3.6, 2.4 + 0.4 * levels), 7.0))
    axes = figure.subplots(1, len(panels), squeeze=False, gridspec_kw={"width_ratios": ratios})[0]
    for draw, ax in zip(draws, axes, strict=True):
        draw(ax, report)
    return figure


def save_all(report: "Report", directory: str | Path) -> list[Path]:
    """Write every figure that the report has data for as `directory`/NAME.png, and return the paths.

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
            f"cannot write figures to {str(directory)!r} ({error}); give a directory you may write to"
        ) from error
    return paths


def _figure(width: float, height: float) -> "Figure":
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise RepairError("figures need matplotlib, not installed here: pip install timm_repair[figures]") from error
    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def _title(ax: "Axes", title: str) -> None:
    ax.set_title(title, loc="left", fontsize=11, color=INK, parse_math=False)
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(labelsize=9, colors=INK)


def _write(ax: "Axes", x: float, y: float, words: str, *, shift: tuple[float, float] = (0, 0), **style) -> None:
    """Text at a point of the data, `shift` points away; `style` goes to matplotlib's Text. No math mode."""
    style = {"ha": "center", "va": "center", "fontsize": 9, "color": INK, "parse_math": False} | style
    ax.annotate(words, (x, y), shift, textcoords="offset points", **style)


def _draw_suspiciousness(ax: "Axes", report: "Report") -> None:
    _title(ax, "Where the fault is suspected")
    values = report.localization["suspiciousness"]
    heights = [value or 0.0 for value in values.values()]
    colors = [RED if name == report.block else MUTED for name in values]
    ax.barh(range(len(values)), heights, color=colors, height=0.72)
    size = min(9, 200 / max(len(values), 1))  # DenseNet has dozens of blocks
    ax.set_yticks(range(len(values)), [_tail(name) for name in values], fontsize=size, parse_math=False)
    for tick, name in zip(ax.get_yticklabels(), values, strict=True):
        tick.set_fontweight("bold" if name == report.block else "normal")
    for position, (value, name) in enumerate(zip(values.values(), values, strict=True)):
        shown = "-" if value is None else f"{value:.3g}"
        words, color = (f"{shown}  repaired", RED) if name == report.block else (shown, INK)
        _write(ax, max(value or 0, 0), position, words, shift=(4, 0), ha="left", fontsize=size, color=color)
    ax.invert_yaxis()
    ax.tick_params(axis="y", length=0)
    ax.margins(x=0.3)
    ax.set_xlabel(f"suspiciousness ({clean(report.localization['scorer'], 30)})", fontsize=9, parse_math=False)


def _stacked(genotype: dict | None) -> tuple[list[tuple[dict, float, float, int]], int]:
    """(edge, start, end, level) per searched path, and how many levels; arcs that would meet differ.

    Layer t is the box at x = t. Left of it lie, in this order, the point X_t that paths start from, and the sum
    that paths end in; an edge t -> t is thus an arc over the gap alone.
    """
    arcs, taken = [], []
    edges = genotype["edges"] if genotype else []
    for edge in sorted(edges, key=lambda e: (e["target"] - e["source"], e["source"])):
        start, end = edge["source"] - 0.62, edge["target"] - 0.38
        middle, half = (start + end) / 2, max((end - start) / 2, 0.42)  # 0.42: half of a label
        span = middle - half, middle + half
        free = (i for i, row in enumerate(taken) if all(span[1] <= a or b <= span[0] for a, b in row))
        level = next(free, len(taken))
        if level == len(taken):
            taken.append([])
        taken[level].append(span)
        arcs.append((edge, start, end, level))
    return arcs, len(taken)


def _draw_architecture(ax: "Axes", report: "Report") -> None:
    ax.set_axis_off()
    if report.genotype is None:
        _title(ax, "Architecture")
        words = f"unchanged: the method changes\nweights only ({clean(report.method, 30)})"
        _write(ax, 0.5, 0.5, words, color=GREY)
        return
    arcs, levels = _stacked(report.genotype)
    block = _tail(report.block) if report.block else "the network"
    _title(ax, f"What was built into {block}" if arcs else f"Nothing added to {block}: the raw architecture was kept")
    layers = [clean(node["layer"], 24) for node in report.genotype["nodes"]]
    inches = ax.get_figure().get_figwidth() * ax.get_position().width / (len(layers) + 1)  # room for one layer
    size = min(9.0, max(5.0, 11 * inches))
    inside = 46 * inches / max(map(len, layers))  # font size at which the longest name fits into its box
    _draw_chain(ax, layers, size=size, inside=inside)
    others = list(dict.fromkeys(edge["operation"] for edge, *_ in arcs if edge["operation"] not in COLORS))
    for edge, start, end, level in arcs:
        operation = edge["operation"]
        color = COLORS.get(operation) or OTHERS[others.index(operation) % len(OTHERS)]
        _draw_arc(ax, clean(operation, 16), start, end, level, color=color, size=size)
    ax.set_xlim(-1.4, len(layers) + 0.4)
    ax.set_ylim(-0.6 if inside >= 6 else -1.5, max(0.75 + 0.5 * levels, 2.0))


def _draw_chain(ax: "Axes", layers: list[str], *, size: float, inside: float) -> None:
    from matplotlib.patches import FancyBboxPatch

    end = len(layers) - 0.1
    ax.plot([-1.0, end], [0, 0], color=GREY, linewidth=1, zorder=1)
    ax.plot(end, 0, marker=">", color=GREY, markersize=5, zorder=1)
    _write(ax, -1.05, 0, "in", ha="right", fontsize=size, color=GREY)
    _write(ax, end + 0.1, 0, "out", ha="left", fontsize=size, color=GREY)
    style = {"boxstyle": "round,pad=0,rounding_size=0.08", "facecolor": PALE, "edgecolor": GREY, "linewidth": 0.8}
    hanging = {"ha": "right", "va": "top", "rotation": 35, "rotation_mode": "anchor", "fontsize": max(size, 6)}
    for index, layer in enumerate(layers):
        ax.add_patch(FancyBboxPatch((index - 0.2, -0.22), 0.4, 0.44, zorder=3, **style))
        if inside >= 6:
            _write(ax, index, 0, layer, fontsize=min(size, inside), zorder=4)
        else:
            _write(ax, index + 0.1, -0.3, layer, **hanging)


def _draw_arc(ax: "Axes", label: str, start: float, end: float, level: int, *, color: str, size: float) -> None:
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path as Curve

    top, lean = 0.75 + 0.5 * level, 0.09 * level  # leaning outwards keeps paths with a common end apart
    bend = 4 / 3 * top  # the middle of a cubic Bézier curve is at 3/4 of its control points
    curve = Curve([(start, 0), (start - lean, bend), (end + lean, bend), (end, 0)], [1, 4, 4, 4])
    ax.add_patch(PathPatch(curve, fill=False, edgecolor=color, linewidth=0.2 * size, zorder=2))
    ax.plot(start, 0, marker="o", markersize=0.4 * size, color=INK, zorder=5)
    circle = {"markerfacecolor": "white", "markeredgewidth": 0.8}
    ax.plot(end, 0, marker="o", markersize=0.9 * size, color=INK, zorder=5, **circle)
    ax.plot(end, 0, marker="+", markersize=0.6 * size, color=INK, zorder=6)
    box = {"facecolor": "white", "edgecolor": "none", "pad": 1.0}
    _write(ax, (start + end) / 2, top, label, fontsize=size, color=color, zorder=7, bbox=box)


def _draw_before_after(ax: "Axes", report: "Report") -> None:
    _title(ax, "Held-out accuracy")
    for index, each in enumerate(report.scores):
        bounds = each.intervals(seed=report.seed)
        bars = (-0.19, each.accuracy_before, bounds.before, MUTED), (0.19, each.accuracy_after, bounds.after, BLUE)
        for side, value, (low, high), color in bars:
            label = ("before" if side < 0 else "after") if index == 0 else None
            error = [[100 * max(value - low, 0)], [100 * max(high - value, 0)]]
            ax.bar(index + side, 100 * value, 0.36, color=color, label=label, yerr=error, capsize=3, ecolor=INK)
            _write(ax, index + side, 100 * high, f"{100 * value:.1f}", shift=(0, 3), va="bottom")
        top = 100 * max(bounds.before[1], bounds.after[1])
        _write(ax, index, top, f"+{each.fixed} fixed\n−{each.broken} broken", shift=(0, 16), va="bottom", fontsize=8.5)
    names = [f"{clean(each.population, 16)}\nn = {each.n}" for each in report.scores]
    ax.set_xticks(range(len(names)), names, parse_math=False)
    ax.set_xlim(-0.6, len(report.scores) - 0.4)
    ax.set_ylim(0, 150)  # room for the words above a bar of 100 %
    ax.set_yticks(range(0, 101, 20))
    ax.set_ylabel("% right", fontsize=9)
    ax.legend(frameon=False, fontsize=9, ncols=2, loc="upper left", borderaxespad=0)


def _draw_curve(ax: "Axes", history: tuple[dict, ...], key: str) -> None:
    _title(ax, {"loss": "Training loss", "objective": "Selection objective"}[key])
    offset = 0
    colors = (BLUE, RED, GREEN, PURPLE, ORANGE, SKY)
    for index, (stage, rows) in enumerate(groupby(history, key=lambda row: row["stage"])):
        rows = list(rows)
        points = [(offset + i, row[key]) for i, row in enumerate(rows) if row.get(key) is not None]
        if points:
            marker = "o" if len(points) < 3 else None
            color = colors[index % len(colors)]
            ax.plot(*zip(*points, strict=True), color=color, label=clean(stage, 20), linewidth=1.4, marker=marker)
        offset += len(rows)
    ax.set_xlabel("step (stages one after another)", fontsize=9)
    ax.legend(frameon=False, fontsize=9)


def _draw_alpha(figure: "Figure", ax: "Axes", alpha: list[list[float]]) -> None:
    _title(ax, "Operation weights at the end of the search")
    weights = [[math.exp(value - max(row)) for value in row] for row in alpha]
    weights = [[value / sum(row) for value in row] for row in weights]
    image = ax.imshow(weights, aspect="auto", cmap="cividis", vmin=0, vmax=1)
    if len(weights[0]) == len(OPERATIONS):  # α's columns follow the search space
        ax.set_xticks(range(len(OPERATIONS)), OPERATIONS, rotation=30, ha="right", rotation_mode="anchor")
    ax.yaxis.get_major_locator().set_params(integer=True)
    ax.set_ylabel("edge", fontsize=9)
    figure.colorbar(image, ax=ax, label="softmax(α)")


def _tail(name: str, limit: int = 30) -> str:
    """The end of a long module path: its beginning is what all of them share."""
    name = clean(name, 200)
    return name if len(name) <= limit else "…" + name[1 - limit :]
