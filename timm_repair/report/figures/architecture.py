"""What was built: the raw layers in the order of execution, how data flow through them, and the
searched paths as arcs over them.
"""

from collections.abc import Mapping, Sequence

from timm_repair.report.facts import Facts
from timm_repair.report.figures.drawing import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    PALE,
    PURPLE,
    RED,
    SKY,
    Axes,
    Figure,
    empty,
    inches,
    title,
    write,
)
from timm_repair.report.wording import clean, tail

COLORS = {"skip": PURPLE, "avg_pool": SKY, "max_pool": BLUE, "sep_conv": RED, "dil_conv": GREEN}
OTHERS = (ORANGE, INK)  # for operations of the user's own, by order of appearance


def architecture(report: Facts) -> Figure:
    """The raw layers with their connections, the searched paths as labelled arcs over them; one
    below the other for several blocks.
    """
    plans = plans_of(report)
    heights = [1.8 + 0.48 * stacked(plan, flow_of(report, block))[1] for block, plan in plans]
    layers = max(len(genotype["nodes"]) if genotype else 1 for _, genotype in plans)
    figure = empty(min(max(6.0, 1.4 * layers), 20.0), sum(heights))
    axes = figure.subplots(len(plans), squeeze=False, height_ratios=heights)[:, 0]
    for ax, (block, genotype) in zip(axes, plans, strict=True):
        draw_architecture(ax, report, block, genotype)
    return figure


def flow_of(report: Facts, block: str | None) -> list[list]:
    """How data flow in a block, `Report.flows`; empty where that is not known."""
    return report.flows.get(block) or []


def chained(genotype: Mapping, flow: Sequence[Sequence]) -> list[int]:
    """Which layers read what the one before gives; -1 stands for the block's input. The number
    after the last is the block's output.
    """
    count = len(genotype["nodes"])
    if not flow:
        return list(range(count + 1))
    straight = {
        target for what, layer, target in flow if layer == target - 1 and _leaves(what, layer)
    }
    return sorted(straight)


def _leaves(what: str, layer: int) -> bool:
    return what == "leaves" or layer < 0


def stacked(
    genotype: Mapping | None, flow: Sequence[Sequence] = ()
) -> tuple[list[tuple[dict, float, float, int]], int]:
    """(edge, start, end, level) per searched path, and per connection of `flow` that leads past a
    layer (its operation is None); and how many levels. Arcs that would meet differ.

    Layer t is the box at x = t. Left of it lie, in this order, the point X_t that paths start from,
    and the sum that paths end in; an edge t -> t is thus an arc over the gap alone.
    """
    arcs, taken = [], []
    edges = [
        (edge, edge["source"] - 0.62, edge["target"] - 0.38)
        for edge in (genotype["edges"] if genotype else [])
    ]
    edges += [
        (
            {"operation": None},
            layer + (0.3 if what == "leaves" else -0.62 + (layer < 0)),
            target - 0.38,
        )
        for what, layer, target in flow
        if not (layer == target - 1 and _leaves(what, layer))
    ]
    for edge, start, end in sorted(edges, key=lambda e: (round(e[2] - e[1]), e[1])):
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


def plans_of(report: Facts) -> list[tuple[str | None, dict | None]]:
    """The blocks that have an architecture of their own, in network order, with it; one without
    both for a repair of weights alone.
    """
    order = [block["name"] for block in report.blocks]
    found = sorted(
        report.genotypes.items(),
        key=lambda item: order.index(item[0]) if item[0] in order else len(order),
    )
    return found or [(None, None)]


def draw_architecture(ax: Axes, report: Facts, block: str | None, genotype: dict | None) -> None:
    """One block: its raw layers with their connections, its searched paths as arcs."""
    ax.set_axis_off()
    if genotype is None or block is None:
        title(ax, "Architecture")
        words = f"unchanged: the method changes\nweights only ({clean(report.method, 30)})"
        write(ax, 0.5, 0.5, words, color=GREY)
        return
    flow = flow_of(report, block)
    arcs, levels = stacked(genotype, flow)
    name = tail(block, 44)
    replaced = {
        each["layer"]: clean(each["operation"], 16) for each in genotype.get("replacements", [])
    }
    title(
        ax,
        (
            f"What was built into {name}"
            if genotype["edges"] or replaced
            else f"Nothing added to {name}: the raw architecture was kept"
        ),
    )
    layers = [clean(node["layer"], 24) for node in genotype["nodes"]]
    for index, operation in replaced.items():
        layers[index] = f"{operation} for {layers[index]}"
    room = inches(ax)[0] / (len(layers) + 1)  # inches for one layer
    size = min(9.0, max(5.0, 11 * room))
    # font size at which the longest name fits into its box
    inside = 46 * room / max(map(len, layers))
    _draw_chain(ax, layers, chained(genotype, flow), size=size, inside=inside)
    others = list(
        dict.fromkeys(
            edge["operation"] for edge in genotype["edges"] if edge["operation"] not in COLORS
        )
    )
    for edge, start, end, level in arcs:
        operation = edge["operation"]
        if operation is None:
            _draw_arc(ax, "", start, end, level, color=GREY, size=0.55 * size)
            continue
        color = COLORS.get(operation) or OTHERS[others.index(operation) % len(OTHERS)]
        _draw_arc(ax, clean(operation, 16), start, end, level, color=color, size=size)
    ax.set_xlim(-1.4, len(layers) + 0.4)
    bottom = -0.6 if inside >= 6 else -1.5
    # no unit longer than an inch
    ax.set_ylim(bottom, max(0.75 + 0.5 * levels, inches(ax)[1] / 0.95 + bottom))


def _draw_chain(
    ax: Axes, layers: list[str], straight: Sequence[int], *, size: float, inside: float
) -> None:
    """The layers; a line leads to those of number `straight` from the one before."""
    from matplotlib.patches import FancyBboxPatch

    end = len(layers) - 0.1
    for index in range(len(layers) + 1):
        start = index - 1.0 if index in straight else index - 0.38
        ax.plot([start, min(index, end)], [0, 0], color=GREY, linewidth=1, zorder=1)
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
    ax: Axes, label: str, start: float, end: float, level: int, *, color: str, size: float
) -> None:
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path as Curve

    # leaning outwards keeps paths with a common end apart
    top, lean = 0.75 + 0.5 * level, 0.09 * level
    bend = 4 / 3 * top  # the middle of a cubic Bézier curve is at 3/4 of its control points
    curve = Curve([(start, 0), (start - lean, bend), (end + lean, bend), (end, 0)], [1, 4, 4, 4])
    ax.add_patch(PathPatch(curve, fill=False, edgecolor=color, linewidth=0.2 * size, zorder=2))
    if not label:  # a connection of the block itself
        return
    ax.plot(start, 0, marker="o", markersize=0.4 * size, color=INK, zorder=5)
    circle = {"markerfacecolor": "white", "markeredgewidth": 0.8}
    ax.plot(end, 0, marker="o", markersize=0.9 * size, color=INK, zorder=5, **circle)
    ax.plot(end, 0, marker="+", markersize=0.6 * size, color=INK, zorder=6)
    box = {"facecolor": "white", "edgecolor": "none", "pad": 1.0}
    write(ax, (start + end) / 2, top, label, fontsize=size, color=color, zorder=7, bbox=box)
