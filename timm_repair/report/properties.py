"""Properties in reports and comparisons, as rows of tables."""

from collections.abc import Mapping, Sequence

from timm_repair.report.wording import clean

_MEASURED = ["before", "after", "at most", "changed", "found"]
LEGEND = (
    "Under a property: share of even draws from the box that violate it, before and after; at most:"
    " bound on the share of the whole box, with the confidence in the notes; changed: share of the"
    " draws that violated nothing and are answered otherwise now; found: violations that a search"
    " finds besides."
)


def property_rows(results: Sequence[Mapping]) -> list[list[str]]:
    """A header and one row per box, `Report.properties`; see LEGEND."""
    return [["property", "box", *_MEASURED], *([*_place(e), *_measured(e)] for e in results)]


def compared_rows(reports: Mapping[str, Sequence[Mapping]]) -> list[list[str]]:
    """The same for several reports, by label: one row per box and report."""
    rows = [
        [*_place(each), clean(label, 26), *_measured(each)]
        for label, results in reports.items()
        for each in results
    ]
    return [["property", "box", "method", *_MEASURED], *sorted(rows, key=lambda row: row[:2])]


def _place(result: Mapping) -> list[str]:
    return [clean(str(result["property"]), 24), str(result["box"])]


def _measured(result: Mapping) -> list[str]:
    before, after = (f"{result[when]['rate']:.2%}" for when in ("before", "after"))
    changed = result["drawdown"]["changed_answers"] / max(result["drawdown"]["samples"], 1)
    bound, found = result["pac"]["bound"], result["after"]["searched"]
    return [before, after, f"{bound:.2%}", f"{changed:.2%}", str(found)]
