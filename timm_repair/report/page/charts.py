"""A figure as SVG within a page: its text stays text, and its ink is the page's, light or dark."""

import io
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from xml.etree import ElementTree

from timm_repair.report.figures.drawing import (
    BLUE,
    GREEN,
    INK,
    ORANGE,
    PURPLE,
    RED,
    SKY,
    Figure,
)

logger = logging.getLogger(__name__)

# a colour of ours to what it is in the page
_COLORS = {
    INK: "currentColor",
    "#000000": "currentColor",
    "#ffffff": "var(--paper)",
    "#e4e7eb": "var(--pale)",
    "#cccccc": "var(--line)",
    BLUE: "var(--blue)",
    ORANGE: "var(--orange)",
    GREEN: "var(--green)",
    RED: "var(--red)",
    PURPLE: "var(--purple)",
    SKY: "var(--sky)",
}


@dataclass(frozen=True)
class Chart:
    """What the page shows of a figure.

    Args:
        svg: markup.
        alt: what is to be seen, in words.
        width: in pixels, where there is room.
    """

    svg: str
    alt: str
    width: int


def chart(name: str, alt: str, draw: Callable[[], Figure]) -> Chart | None:
    """The figure that `draw` gives; None where it cannot be drawn, which costs the page a picture
    alone.

    Args:
        name: of letters, another for each chart of a page.
    """
    try:
        svg, width = _svg(draw(), name)
    except Exception as error:  # noqa: BLE001  whatever matplotlib makes of fonts and numbers
        logger.warning("no chart %s (%s: %.200s)", name, type(error).__name__, error)
        return None
    return Chart(svg, alt, width)


def _svg(figure: Figure, name: str) -> tuple[str, int]:
    import matplotlib

    file = io.BytesIO()
    # text as text, and the same names of clips each time; nothing stays changed
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(file, format="svg", transparent=True, metadata=metadata)
    root = ElementTree.fromstring(file.getvalue())
    _simplify(root, name)
    width, height = (float(each) for each in root.attrib["viewBox"].split()[2:])
    root.attrib.clear()
    root.attrib |= {"viewBox": f"0 0 {width:g} {height:g}", "aria-hidden": "true"}
    return ElementTree.tostring(root, encoding="unicode"), round(1.25 * width)


def _simplify(element: ElementTree.Element, name: str) -> None:
    """Without namespaces, metadata and styles of its own, which would be the whole page's; ids that
    are no other chart's.
    """
    element.tag = _local(element.tag)
    for key, value in list(element.attrib.items()):
        del element.attrib[key]
        key = _local(key)
        if key == "id":
            value = f"{name}-{value}"
        elif key == "href" and value.startswith("#"):
            value = f"#{name}-{value[1:]}"
        else:
            value = re.sub(r"url\(#", f"url(#{name}-", value)
        if key == "style":
            value = _recolored(value)
        element.attrib[key] = value
    for child in list(element):
        if not isinstance(child.tag, str) or _local(child.tag) in ("metadata", "style"):
            element.remove(child)
        else:
            _simplify(child, name)


def _local(name: str) -> str:
    return name.rpartition("}")[2]


def _recolored(style: str) -> str:
    for color, ours in _COLORS.items():
        style = re.sub(f"{color}(?![0-9a-f])", ours, style, flags=re.IGNORECASE)
    # the page's font; older versions of matplotlib say it in one
    style = re.sub(r"font: (?:(\w+) )?([\d.]+)px [^;]*", r"font-weight: \1; font-size: \2px", style)
    return re.sub(r"font-weight: ;|font-family: [^;]*;?", "", style)
