"""How training and search went, step by step."""

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate, groupby
from typing import Any

from timm_repair.errors import RepairError
from timm_repair.report.facts import Facts
from timm_repair.report.figures.drawing import (
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    RED,
    SKY,
    Axes,
    Figure,
    empty,
    title,
)
from timm_repair.report.versions import OPERATIONS
from timm_repair.report.wording import clean, tail


def trajectories(report: Facts) -> Figure:
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
            searched.get("operations") or OPERATIONS,
        )
    return figure


def _draw_curve(ax: Axes, history: Sequence[Mapping[str, Any]], key: str) -> None:
    title(ax, {"loss": "Training loss", "objective": "What states are chosen by"}[key])
    if key == "objective":
        ax.set_ylabel("accuracy on the selection split\n(0 to 1), less what limits take off")
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
    figure: Figure,
    ax: Axes,
    alpha: list[list[float | None]],
    blocks: list[str],
    edges: list[int],
    operations: Sequence[str],
) -> None:
    title(ax, "Operation weights at the end of the search")
    # None: another block's operation, of blocks that work on tokens of other kinds
    tops = [max(value for value in row if value is not None) for row in alpha]
    weights = [
        [0.0 if value is None else math.exp(value - top) for value in row]
        for row, top in zip(alpha, tops, strict=True)
    ]
    weights = [[value / sum(row) for value in row] for row in weights]
    image = ax.imshow(weights, aspect="auto", cmap="cividis", vmin=0, vmax=1)
    if len(weights[0]) == len(operations):
        ax.set_xticks(
            range(len(operations)), operations, rotation=30, ha="right", rotation_mode="anchor"
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
