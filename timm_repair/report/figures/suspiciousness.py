"""Why a block was chosen: a bar per block with its error, and a bar per layer in network order."""

import math
from itertools import groupby

from timm_repair.errors import RepairError
from timm_repair.report.facts import Facts
from timm_repair.report.figures.drawing import (
    DIM,
    INK,
    MUTED,
    RED,
    Axes,
    Figure,
    empty,
    inches,
    title,
    write,
)
from timm_repair.report.suspects import number, ties
from timm_repair.report.wording import clean, tail

GAP = 0.6  # between the layers of two blocks; 1 is the distance of two layers


def suspiciousness(report: Facts) -> Figure:
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


def layer_scores(localization: dict) -> tuple[dict[str, float | None], str]:
    """Layer to its score in network order, and what the score is; empty where nothing is known of
    layers beyond their blocks.
    """
    layers, given = localization.get("layers") or {}, localization.get("layer_scores") or {}
    if all(layer == block for layer, block in layers.items()):  # layers are the blocks
        return {}, ""
    if given:
        return {
            layer: given[layer] for layer in layers if layer in given
        }, f"score ({clean(localization['scorer'], 30)})"
    vulnerable = (localization.get("details") or {}).get("vulnerable")
    if vulnerable is None:
        return {}, ""
    return {layer: len(vulnerable.get(layer, ())) for layer in layers}, "vulnerable neurons"


def draw_blocks(ax: Axes, report: Facts, *, most: int = 24, brief: bool = True) -> None:
    """A bar per block with its standard error, the repaired ones in red.

    Args:
        most: of many blocks, draw so many: the most suspicious.
        brief: leave out the predicted gains, and the beginnings of long names.
    """
    found = report.localization or {}
    values, errors = found["suspiciousness"], found.get("errors") or {}
    title(ax, "Where the fault is suspected")
    first = sorted(
        values, key=lambda name: (name not in report.repaired_blocks, -(values[name] or 0))
    )[:most]
    names = [name for name in values if name in first]
    heights = [values[name] or 0.0 for name in names]
    spread = [errors.get(name) or 0.0 for name in names]
    colors = [RED if name in report.repaired_blocks else MUTED for name in names]
    ax.barh(range(len(names)), heights, color=colors, height=0.72)
    known = [
        (height, place, error)
        for place, (height, error) in enumerate(zip(heights, spread, strict=True))
        if error
    ]
    for height, place, error in known:
        ax.errorbar(height, place, xerr=error, fmt="none", ecolor=INK, elinewidth=0.9, capsize=2.5)
    width, height = inches(ax)
    size = max(5.0, min(9.0, 50 * height / max(len(names), 1)))
    ax.set_yticks(
        range(len(names)),
        [tail(name, 30 if brief else 44) for name in names],
        fontsize=size,
        parse_math=False,
    )
    words = {name: _words(report, name, brief) for name in names}
    for position, (tick, name) in enumerate(zip(ax.get_yticklabels(), names, strict=True)):
        repaired = name in report.repaired_blocks
        tick.set_fontweight("bold" if repaired else "normal")
        end = max(heights[position], 0) + spread[position]
        write(
            ax,
            end,
            position,
            words[name],
            shift=(5, 0),
            ha="left",
            fontsize=size,
            color=RED if repaired else INK,
        )
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.tick_params(axis="y", length=0)
    # inches for the words behind the bars
    room = min(0.0072 * size * max(map(len, words.values()), default=0), 0.7 * width)
    top = max((end + error for end, error in zip(heights, spread, strict=True)), default=0)
    ax.set_xlim(
        1.1 * min([0.0, *heights]), (top if top > 0 else 1.0) * (1.05 + room / (width - room))
    )
    what = f"suspiciousness ({clean(found['scorer'], 30)})"
    what += "\n±: standard error of the distance from the highest" if known and not brief else ""
    what += (
        f"\nthe {len(names)} highest of {len(values)} blocks" if len(names) < len(values) else ""
    )
    ax.set_xlabel(what, fontsize=9, parse_math=False)


def draw_layers(ax: Axes, report: Facts) -> None:
    """A bar per layer, in network order, in the colour of its block; where there are many, only
    some are labelled.
    """
    found = report.localization or {}
    values, what = layer_scores(found)
    layers, colors = found["layers"], _colors(report)
    title(ax, "Layer by layer, in network order")
    positions, groups = [], []
    for block, members in groupby(values, key=layers.get):
        start = positions[-1] + 1 + GAP if positions else 0.0
        positions += [start + index for index in range(len(list(members)))]
        groups.append((block, start, positions[-1]))
    heights = [value or 0.0 for value in values.values()]
    ax.bar(
        positions, heights, color=[colors.get(layers[layer], MUTED) for layer in values], width=0.8
    )
    ax.set_xlim(-1, positions[-1] + 1)
    # room for the names of the blocks
    ax.set_ylim(1.05 * min([0.0, *heights]), 1.18 * max([*heights, 1e-12]))
    unit = inches(ax)[0] / (positions[-1] + 2)  # inches from one layer to the next
    every = max(math.ceil(0.125 / unit), 1)
    letters = [int((end - start + 1 + GAP) * unit / 0.064) for _, start, end in groups]
    named = all(
        count >= min(len(block), 9) for count, (block, *_) in zip(letters, groups, strict=True)
    )
    labels = [
        tail(layer.removeprefix(f"{layers[layer]}.") if named else layer, 22) for layer in values
    ]
    style = {
        "rotation": 60,
        "ha": "right",
        "rotation_mode": "anchor",
        "fontsize": 7,
        "parse_math": False,
    }
    ax.set_xticks(positions[::every], labels[::every], **style)
    ax.set_xticks(positions, minor=True)
    ax.tick_params(axis="x", which="both", length=2)
    for count, (block, start, end) in zip(letters, groups, strict=True) if named else ():
        color = RED if block in report.repaired_blocks else INK
        write(
            ax,
            (start + end) / 2,
            ax.get_ylim()[1],
            tail(block, count),
            va="top",
            fontsize=8,
            color=color,
        )
    ax.set_ylabel(what, fontsize=9, parse_math=False)


def _words(report: Facts, name: str, brief: bool) -> str:
    found = report.localization or {}
    errors, gains = found.get("errors") or {}, found.get("gains") or {}
    score = number(found["suspiciousness"][name], None if brief else errors.get(name))
    gain = "" if brief or gains.get(name) is None else f"gain {gains[name]:.2g}"
    mark = "repaired" if name in report.repaired_blocks else "tied" if name in ties(found) else ""
    return "  ".join(filter(None, [score, gain, mark]))


def _colors(report: Facts) -> dict[str, str]:
    """Red for repaired blocks; the others in turns, so that neighbours differ."""
    names = (report.localization or {})["suspiciousness"]
    return {
        name: RED if name in report.repaired_blocks else (MUTED, DIM)[index % 2]
        for index, name in enumerate(names)
    }
