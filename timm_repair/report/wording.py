"""Wording: what all texts about a repair share. Names made harmless, lines wrapped, numbers and
tables formatted.

What the user named (models, blocks, populations, notes) loses control characters, and is escaped
where it becomes markdown.
"""

import re
import textwrap
import unicodedata
from collections.abc import Iterable, Mapping, Sequence

WIDTH = 80  # columns of a terminal
UNHELD = "a limit on harm was not held"  # how the note of one begins


def clean(value: str, limit: int = 80) -> str:
    """One line without control or bidirectional characters, at most `limit` long."""
    value = value[: 20 * limit]  # a stranger's may be endless
    kept = " ".join(
        "".join(c for c in value if c.isspace() or unicodedata.category(c)[0] != "C").split()
    )
    return kept if len(kept) <= limit else kept[: limit - 1] + "…"


def escape(value: str, limit: int = 80) -> str:
    """`clean`, and without meaning in markdown or HTML."""
    value = clean(value, limit).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_{}\[\]()#!|~$@])", r"\\\1", value)


def tail(name: str, limit: int = 30) -> str:
    """The end of a long module path: its beginning is what all of them share."""
    name = clean(name, 200)
    return name if len(name) <= limit else "…" + name[1 - limit :]


def middle(value: str, limit: int = 30) -> str:
    """`clean`, shortened in its middle: names of a kind differ at their beginning or end."""
    value = clean(value, 200)
    end = limit // 2 - 1
    return value if len(value) <= limit else f"{value[: limit - end - 1]}…{value[-end:]}"


def listed(words: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def p_text(p: float) -> str:
    """A p-value, as precise as it deserves."""
    return "<1e-9" if p < 1e-9 else f"{p:.0e}" if p < 0.001 else f"{p:.3f}"


def table(rows: Iterable[Sequence[str]], *, indent: str = "  ", gap: str = "  ") -> list[str]:
    """Lines of aligned columns: the first to the left, numbers to the right."""
    rows = list(rows)
    first, *widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    numbers = (
        [cell.rjust(width) for cell, width in zip(row[1:], widths, strict=True)] for row in rows
    )
    return [
        indent + gap.join([row[0].ljust(first), *cells]).rstrip()
        for row, cells in zip(rows, numbers, strict=True)
    ]


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """The same in GitHub markdown; cells must be escaped."""
    head, *body = rows
    return "\n".join(
        f"| {' | '.join(row)} |" for row in (head, ["---", *["---:"] * (len(head) - 1)], *body)
    )


def wrap(line: str, indent: str = "", hanging: str | None = None) -> list[str]:
    return textwrap.wrap(
        line, WIDTH, initial_indent=indent, subsequent_indent=indent if hanging is None else hanging
    )


def signed(share: float) -> str:
    return f"{100 * share:+.1f}".replace("-0.0", "+0.0")


def points(change: float, bounds: tuple[float, float]) -> str:
    return f"{signed(change)} [{signed(bounds[0])}, {signed(bounds[1])}]"


def latency_words(change: float, bounds: tuple[float, float]) -> str:
    """A relative change of the latency, which is none by definition where the architecture is the
    same.
    """
    return "none" if change == bounds[0] == bounds[1] == 0 else f"{points(change, bounds)} %"


def replaced_layers(genotype: Mapping) -> list[str]:
    """Of each raw layer that an operation stands in the place of: "layer1.0 by sep_conv"."""
    return [
        f"{clean(genotype['nodes'][each['layer']]['layer'], 30)} by {clean(each['operation'], 16)}"
        for each in genotype.get("replacements", [])
    ]


def quantity(value: float | None) -> str:
    """A number in three or four digits with the prefix of its thousands; "-" where there is
    none.
    """
    if value is None:
        return "-"
    for factor, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{value / factor:.2f} {prefix}"
    return f"{value:.3g}"


def short_name(model: str) -> str:
    """A model's name without the folder or server it came from: "local-dir:/home/me/net" is
    "net".
    """
    return clean(model.rstrip("/").split("/")[-1].split(":")[-1].split("@")[0] or model)
