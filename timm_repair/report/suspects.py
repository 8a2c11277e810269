"""Suspects: why a block was chosen, in words. Scores with their errors and predicted gains, ties,
the most suspicious neurons.

All from `Localization.to_dict()` as a report keeps it; what an older one does not say is left out.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence

from timm_repair.report.wording import (
    WIDTH,
    clean,
    escape,
    listed,
    markdown_table,
    quantity,
    table,
    tail,
    wrap,
)

SHOWN = 10  # neurons
BAR = 22  # columns at most
NEURONS = "Most suspicious neurons, and how many misclassified and correct examples activate them"
ERROR = "±: standard error of the distance from the most suspicious block."
GAIN = "Gain: by how much a repair of the block is expected to lower the failures' loss."


def text(found: Mapping | None, repaired: Sequence[str] | None) -> list[str]:
    """Lines for a terminal: a bar per block, the repaired ones marked, ties, the top neurons.

    Args:
        found: `Report.localization`.
        repaired: `Report.repaired_blocks`; None where nothing was to be repaired.
    """
    done, repaired = _done(repaired), repaired or ()
    if not found:
        return wrap(f"{done} (not localized)" if repaired else done)
    values, gains = found["suspiciousness"], found.get("gains") or {}
    columns = [
        ["", *(tail(name, 24 if gains else 34) for name in values)],
        ["score", *_scores(found)],
    ]
    columns += [["gain", *(number(gains.get(name)) for name in values)]] * bool(gains)
    rows = table(zip(*columns, strict=True))
    width = max(map(len, rows))
    top = max((value for value in values.values() if value is not None), default=0)
    longest = min(BAR, WIDTH - width - len("   <- repaired"))
    lines = wrap(f"How suspicious each block is (score: {clean(found['scorer'])})") + rows[
        :1
    ] * bool(gains)
    for row, (name, value) in zip(rows[1:], values.items(), strict=True):
        # no bar below zero (a probe that did harm)
        bar = "#" * round(longest * max(value or 0, 0) / top) if top > 0 else ""
        mark = "<- repaired" if name in repaired else "<- tied" if name in ties(found) else ""
        lines.append(f"{row.ljust(width)}  {bar} {mark}".rstrip())
    lines += wrap(" ".join(_legend(found))) + wrap(tie(found, repaired)) + wrap(places(found))
    lines += wrap(done)
    neurons = _neurons(found, tail)
    return [*lines, "", *wrap(f"{NEURONS}:"), *table(neurons)] if neurons else lines


def _done(repaired: Sequence[str] | None) -> str:
    if repaired is None:
        return ""
    if not repaired:
        return "No block in particular was repaired."
    names = ", ".join(clean(name) for name in repaired)
    return f"Repaired block{'s' * (len(repaired) > 1)}: {names}"


def markdown(found: Mapping | None, repaired: Sequence[str], blocks: Sequence[Mapping]) -> str:
    """The same as tables for the card; empty if nothing was localized.

    Args:
        blocks: `Report.blocks`, for their parameters.
    """
    if not found:
        return ""
    parameters = {block["name"]: block.get("num_params") for block in blocks}
    values, gains = found["suspiciousness"], found.get("gains") or {}
    columns = [["block", *map(escape, values)], ["suspiciousness", *_scores(found)]]
    columns += [["predicted gain", *(number(gains.get(name)) for name in values)]] * bool(gains)
    columns += [["parameters", *(quantity(parameters.get(name) or None) for name in values)]]
    columns += [["repaired", *("yes" if name in repaired else "" for name in values)]]
    parts = [markdown_table(list(zip(*columns, strict=True)))]
    told = [*_legend(found), tie(found, repaired, escape), places(found, escape)]
    parts += [" ".join(filter(None, told))]
    neurons = _neurons(found, lambda name, limit: escape(name))
    parts += [f"{NEURONS}:", markdown_table(neurons)] if neurons else []
    return "\n\n".join(filter(None, parts))


def places(localization: Mapping, shown: Callable[[str], str] = clean) -> str:
    """One sentence on which sets of blocks a trial compared; empty if there was none."""
    tried = (localization.get("details") or {}).get("places") or []
    if not tried:
        return ""
    names = [" with ".join(map(shown, each["blocks"])) for each in tried]
    if len(tried) == 1:
        return f"A corruption was found, and wants early blocks: {names[0]}."
    values = [
        f"{name} ({100 * each['objective']:.1f})" for name, each in zip(names, tried, strict=True)
    ]
    return (
        "Chosen by a short trial, by the estimated accuracy in % on the selection split, less what"
        f" is above the limits on harm: {listed(values)}."
    )


def ties(localization: Mapping) -> tuple[str, ...]:
    """The blocks that cannot be told from the most suspicious one, with it; empty if it stands
    alone.
    """
    names = tuple(localization.get("tied") or ())
    return names if len(names) > 1 else ()


def tie(
    localization: Mapping, repaired: Collection[str] = (), shown: Callable[[str], str] = clean
) -> str:
    """One sentence on `ties`, and what can be done about them; empty if there are none.

    Args:
        repaired: the repaired blocks.
        shown: makes a name fit for where the sentence goes.
    """
    names, errors = ties(localization), localization.get("errors") or {}
    if not names:
        return ""
    few = (
        [shown(name) for name in names[:4]]
        if len(names) < 5
        else [*map(shown, names[:3]), f"{len(names) - 3} more"]
    )
    how = (
        "within two standard errors"
        if any(errors.get(name) for name in names)
        else "their scores are equal"
    )
    both = "both" if len(names) == 2 else "all of them"
    advice = (
        f"{both} were repaired"
        if set(names) <= set(repaired)
        else f"`blocks={len(names)}` repairs {both}"
    )
    return f"{listed(few)} cannot be told apart on these examples ({how}); {advice}."


def number(value: float | None, error: float | None = None) -> str:
    """A score, with its standard error where there is one, both to the same decimal."""
    if value is None or not error:
        return "-" if value is None else f"{value:.4g}"
    decimals = max(1 - math.floor(math.log10(error)), 0)
    return (
        f"{value:.{decimals}f} ± {error:.{decimals}f}"
        if decimals < 6
        else f"{value:.3g} ± {error:.2g}"
    )


def _legend(localization: Mapping) -> list[str]:
    return [ERROR] * any((localization.get("errors") or {}).values()) + [GAIN] * bool(
        localization.get("gains")
    )


def _scores(localization: Mapping) -> list[str]:
    errors = localization.get("errors") or {}
    return [
        number(value, errors.get(name)) for name, value in localization["suspiciousness"].items()
    ]


def _neurons(localization: Mapping, shown: Callable[[str, int], str]) -> list[list[str]]:
    """Head and rows of the table of the top neurons; empty where the scorer knows none."""
    details = localization.get("details") or {}
    neurons = details.get("top_neurons") or []
    head = [
        "layer",
        "channel",
        "score",
        f"wrong (of {details.get('misclassified', '-')})",
        f"right (of {details.get('correct', '-')})",
    ]
    rows = [
        [
            shown(each["layer"], 30),
            *(str(each["channel"]), number(each["score"])),
            *(str(each[key]) for key in ("active_wrong", "active_right")),
        ]
        for each in neurons[:SHOWN]
    ]
    return [head, *rows] if rows else []
