"""Drawing: what all figures share. A figure without pyplot, colours, titles and words; the style of
the figures is decided here.
"""

from typing import Any, TypeAlias

from timm_repair.errors import require_packages

# what is drawn on; matplotlib is an optional extra, so that its own types cannot be named here
Axes: TypeAlias = Any
Figure: TypeAlias = Any

# Okabe and Ito's palette: told apart with every common kind of colour vision
BLUE, ORANGE, GREEN, RED, PURPLE, SKY = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#CC79A7",
    "#56B4E9",
)
GREY, PALE, MUTED, DIM, INK = "#8A8A8A", "#E4E7EB", "#B8C4CE", "#7D90A0", "#222222"


def empty(width: float, height: float) -> Figure:
    """A figure of so many inches with nothing on it.

    Raises:
        MissingPackageError: matplotlib is not installed.
    """
    require_packages("figures", "drawing", "matplotlib")
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def title(ax: Axes, words: str) -> None:
    """The title of a panel, and the style of its axes."""
    ax.set_title(words, loc="left", fontsize=11, color=INK, parse_math=False)
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(labelsize=9, colors=INK)


def write(
    ax: Axes, x: float, y: float, words: str, *, shift: tuple[float, float] = (0, 0), **style
) -> None:
    """Text at a point of the data, `shift` points away; `style` goes to matplotlib's Text. No math
    mode.
    """
    style = {
        "ha": "center",
        "va": "center",
        "fontsize": 9,
        "color": INK,
        "parse_math": False,
    } | style
    ax.annotate(words, (x, y), shift, textcoords="offset points", **style)


def inches(ax: Axes) -> tuple[float, float]:
    """Width and height of a panel, roughly: before the layout knows how much room its labels
    take.
    """
    box, size = ax.get_position(), ax.get_figure().get_size_inches()
    return float(box.width * size[0]), float(box.height * size[1])
