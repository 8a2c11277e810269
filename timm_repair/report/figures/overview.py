"""All figures in one row, for a README; and every figure of a report as a file."""

from pathlib import Path

from timm_repair.errors import OutputError
from timm_repair.report.facts import Facts
from timm_repair.report.figures.accuracy import before_after, draw_before_after
from timm_repair.report.figures.architecture import (
    architecture,
    draw_architecture,
    flow_of,
    plans_of,
    stacked,
)
from timm_repair.report.figures.drawing import Figure, empty
from timm_repair.report.figures.suspiciousness import draw_blocks, suspiciousness
from timm_repair.report.figures.trajectories import trajectories


def overview(report: Facts) -> Figure:
    """Suspiciousness, architecture and before/after in one row; without the first two where the
    method has neither.
    """
    plans = plans_of(report) if report.genotypes else []
    heights = [2.4 + 0.4 * stacked(plan, flow_of(report, block))[1] for block, plan in plans]
    heights = heights or [3.6]
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
        draw_architecture(figure.add_subplot(grid[row, -2]), report, block, genotype)
    draw_before_after(figure.add_subplot(grid[:, -1]), report)
    return figure


def save_all(report: Facts, directory: str | Path) -> list[Path]:
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
