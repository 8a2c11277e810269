"""The page itself: values of a report put into page.html.

What is written into it comes from strangers as well (names of classes, files and models): Jinja
escapes all of it, and a content security policy lets the browser run our own script alone and load
nothing.
"""

import base64
import hashlib
from collections.abc import Callable, Iterator
from functools import cache
from html import escape
from importlib.util import find_spec
from typing import Any

from timm_repair.report import suspects, tables
from timm_repair.report.facts import Facts
from timm_repair.report.figures.accuracy import before_after
from timm_repair.report.figures.architecture import architecture
from timm_repair.report.figures.drawing import Figure
from timm_repair.report.figures.suspiciousness import suspiciousness
from timm_repair.report.figures.trajectories import trajectories
from timm_repair.report.gallery import MOST, Gallery
from timm_repair.report.page.charts import Chart, chart
from timm_repair.report.page.classes import by_class
from timm_repair.report.page.galleries import pattern_rows, shelves
from timm_repair.report.page.headline import numbers
from timm_repair.report.page.repeating import command
from timm_repair.report.page.templates import source, template
from timm_repair.report.properties import LEGEND, property_rows
from timm_repair.report.wording import clean, listed, replaced_layers, short_name, signed

_HERE = "timm_repair.report.page"
HEIGHT = 640  # pixels of a frame in a notebook
KINDS = {"harmful": "Harmful", "helpful": "Helpful", "unclear": "Unclear"}


def html(
    report: Facts, gallery: Gallery | None = None, *, charts: bool | None = None, most: int = MOST
) -> str:
    """The whole page.

    Args:
        gallery: pictures of examples; None shows none.
        charts: whether figures are drawn; None draws them where matplotlib is installed.
        most: examples of one kind and population.
    """
    gallery = gallery or Gallery()
    drawn = bool(find_spec("matplotlib")) if charts is None else charts
    style, script = source(_HERE, "page.css"), source(_HERE, "page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    verdict = report.verdict
    return _template().render(
        report=report,
        style=style,
        script=script,
        script_hash=digest,
        name=short_name(report.model),
        kind=verdict.kind,
        kind_name=KINDS[verdict.kind],
        verdict=[clean(sentence, 1000) for sentence in verdict.sentences],
        numbers=numbers(report),
        pictures=pattern_rows(gallery, _words(report)),
        shelves=shelves(report, gallery, most),
        has_images=bool(gallery.examples),
        told=all(each.examples is not None for each in report.scores),
        classes=by_class(report),
        labels=sorted(
            {label for each in report.scores for label in each.labels.unique().tolist()},
        ),
        charts={name: each for name, each in _charts(report) if each} if drawn else {},
        drawn=drawn,
        command=command(report),
        **_tables(report),
    )


def framed(page: str) -> str:
    """A page within another, as in a notebook: neither touches the other."""
    return (
        f'<iframe title="Report of a repair" sandbox="allow-scripts" loading="lazy"'
        f' style="width: 100%; height: {HEIGHT}px; border: 1px solid #8a8a8a"'
        f' srcdoc="{escape(page, quote=True)}"></iframe>'
    )


def _tables(report: Facts) -> dict[str, Any]:
    """Rows of cells."""
    found = report.localization or {}
    return {
        "blocks": [clean(block, 60) for block in report.repaired_blocks],
        "tied": suspects.tie(found, report.repaired_blocks) if found else "",
        "places": suspects.places(found) if found else "",
        "paths": list(_paths(report)),
        "cost": tables.cost_rows(report.cost) if report.cost else [],
        "stages": tables.stage_rows(report.stages) if report.stages else [],
        "properties": property_rows(report.properties) if report.properties else [],
        "properties_legend": LEGEND,
        "read": report.provenance.get("read", {}),
    }


def _paths(report: Facts) -> Iterator[tuple[str, list[str], list[str], int, bool]]:
    """For each block with an architecture its name, its added paths and its replaced layers in
    words, what share of the channels the paths see, and whether the flow of its data is known.
    """
    for block, plan in report.genotypes.items():
        layers = [clean(node["layer"], 40) for node in plan["nodes"]]
        words = [
            f"{clean(edge['operation'], 20)}: what arrives at {layers[edge['source']]}, added to"
            f" the input of {layers[edge['target']]}"
            for edge in plan["edges"]
        ]
        known = bool(report.flows.get(block))
        yield clean(block, 60), words, replaced_layers(plan), plan["partial"], known


def _words(report: Facts) -> list[str]:
    """Of each pattern of the diagnosis; older reports tell all in one line."""
    found = report.diagnosis or {}
    return found.get("words") or [found.get("headline", "")]


def _charts(report: Facts) -> Iterator[tuple[str, Chart | None]]:
    draw: list[tuple[str, str, Callable[[Facts], Figure]]] = []
    if report.scores:
        each = [
            f"{clean(s.population, 30)} {s.accuracy_before:.1%}, then {s.accuracy_after:.1%}"
            for s in report.scores
        ]
        words = f"Bars: share right before, and after. {'; '.join(each)}."
        draw.append(("accuracy", words, before_after))
    if report.localization:
        names = ", ".join(clean(block, 60) for block in report.repaired_blocks) or "none"
        words = f"Bars: how suspicious each block is. Repaired: {names}. The table has the numbers."
        draw.append(("blame", words, suspiciousness))
    if report.genotypes:
        words = "Diagram: the block's layers, their connections, and the added paths listed below."
        draw.append(("flow", words, architecture))
    if report.history:
        words = f"Curves: training loss and selection objective over {len(report.history)} steps."
        draw.append(("curves", words, trajectories))
    for name, words, figure in draw:
        yield name, chart(name, words, lambda figure=figure: figure(report))


@cache
def _template() -> Any:
    return template(_HERE, "page.html", {"clean": clean, "listed": listed, "signed": signed})
