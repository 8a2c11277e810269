"""Compared: the text of a comparison, for a terminal. What harms is said first."""

from collections.abc import Mapping, Sequence

from timm_repair.report import pairs
from timm_repair.report.facts import name_of
from timm_repair.report.properties import LEGEND, compared_rows
from timm_repair.report.repeats import Repeats
from timm_repair.report.report import Report
from timm_repair.report.rows import FAILED, Row, Rows
from timm_repair.report.verdict import HARMFUL, open_to_harm
from timm_repair.report.wording import (
    clean,
    latency_words,
    listed,
    middle,
    p_text,
    points,
    signed,
    table,
    wrap,
)

REFERENCE = "finetune network"  # the row whose time is the unit, if there is one
LABEL = 22  # columns for a row's name
ALL_PAIRS = 4  # of so many rows all pairs are shown, of more each against the reference
NOTE = 300  # characters


def text(rows: Rows, protocol: str) -> str:
    """All that a comparison has to say, at most 80 columns."""
    reports = {label: row.report for label, row in rows.items() if row.done}
    sections = [_harm(rows), _head(rows, reports, protocol)]
    sections += [_population(rows, name) for name in pairs.populations(rows)]
    if len(reports) > 1:
        sections += [_between(rows, name) for name in pairs.populations(rows)]
        sections.append(wrap(_pairs_legend(rows)))
    if reports:
        sections += [_worst_classes(rows), _costs(rows)]
    properties = {label: report.properties for label, report in reports.items()}
    if any(properties.values()):
        sections.append([*table(compared_rows(properties)), "", *wrap(LEGEND)])
    sections += [_failed(rows), _notes(rows)]
    return "\n\n".join("\n".join(lines) for lines in sections if lines)


def reference(rows: Rows) -> str:
    """The row that others are compared with where all pairs are too many."""
    done = [label for label, row in rows.items() if row.done]
    return REFERENCE if REFERENCE in done else done[0]


def _harm(rows: Rows) -> list[str]:
    lines = []
    for label, row in rows.items():
        if row.kind == HARMFUL:
            seed, verdict = next((s, v) for s, v in row.verdicts.items() if v.harmful)
            under = f", seed {seed}" if len(row.runs) > 1 else ""
            lines += wrap(f"{clean(label)}{under}: {verdict}")
    return lines


def _head(rows: Rows, reports: Mapping[str, Report], protocol: str) -> list[str]:
    seeds = list(dict.fromkeys(run.seed for row in rows.values() for run in row.runs))
    under = f"seed{'s' * (len(seeds) > 1)} {listed([str(seed) for seed in seeds])}"
    methods = f"{len(rows)} methods" if len(rows) > 1 else "one method"
    if not reports:
        return wrap(f"Comparison of {methods}, {under}: all of them failed.")
    some = next(iter(reports.values()))
    lines = wrap(f"Comparison of {methods} on {clean(some.model, 200)}, {under}")
    if (said := some.provenance.get("protocol")) is not None:
        lines += wrap(f"Protocol {protocol!r}: {clean(said['text'], 1000)}")
    return lines + wrap(_budget(reports))


def _budget(reports: Mapping[str, Report]) -> str:
    """Whether all rows had the same budget, as far as their options tell."""
    found: dict[str, list[str]] = {}
    for label, report in reports.items():
        training = report.options.get("training") or {}
        known = "steps" in training and "batch_size" in training
        words = f"{training['steps']} steps of {training['batch_size']}" if known else "unknown"
        if training.get("seconds") is not None:
            words += f" in {training['seconds']:g} s, or as many as were made by then"
        found.setdefault(words, []).append(clean(label, 40))
    if len(found) == 1:
        kinds = len({report.method for report in reports.values()}) > 1
        own = "; what one takes is the method's own, see the times" if kinds else ""
        return f"Budget of each: {next(iter(found))}{own}."
    parts = (f"{words} for {listed(labels)}" for words, labels in found.items())
    return f"The budgets differ, so that the rows are not on a par: {'; '.join(parts)}."


def _population(rows: Rows, name: str) -> list[str]:
    before = pairs.original(rows, name)
    several = len(before.seeds) > 1
    head = ["method", "after", "change [95 %]", "fixed", "broken", "NFR", "p"]
    body = [head]
    for label, row in rows.items():
        if not row.done:
            body.append([middle(label, LABEL), FAILED, *[""] * 5])
            continue
        found = row.population(name)
        body.append(
            [
                middle(label, LABEL),
                f"{100 * found.accuracy_after:.1f}",
                points(found.change, found.interval),
                *_counts(found, several),
                f"{100 * found.negative_flip_rate:.1f}",
                p_text(found.p_value),
            ]
        )
    about = f"{before.n:.0f} examples, {before.accuracy_before:.1%} right before"
    lines = wrap(f"{clean(name, 60)!r}: {about}" + " (mean over the seeds)" * several)
    if before.accuracy_before == 0:
        lines += wrap("Only examples that the original had wrong: here it could only get better.")
    return [*lines, *table(body, indent="", gap=" ")]


def _counts(found: Repeats, several: bool) -> list[str]:
    return [f"{value:.1f}" if several else f"{value:.0f}" for value in (found.fixed, found.broken)]


def _between(rows: Rows, name: str) -> list[str]:
    """Rows against each other on one population: all pairs, or each against the reference."""
    against = None if sum(_done(rows)) <= ALL_PAIRS else reference(rows)
    several, body = len(_seeds(rows)) > 1, [["", "difference [95 %]", "better", "worse", "p"]]
    found, group = pairs.pairs(rows, name, against), None
    for pair in found:
        if against is None and pair.row != group:
            group = pair.row
            body.append([f"{middle(group, LABEL)} against", "", "", "", ""])
        body.append(
            [
                f"  {middle(pair.other if against is None else pair.row, LABEL)}",
                points(pair.found.change, pair.found.interval),
                *_counts(pair.found, several),
                p_text(pair.p_value),
            ]
        )
    whom = "each other" if against is None else repr(clean(against, 40))
    title = f"Against {whom} on {clean(name, 40)!r}"
    return [title, *table(body, indent="", gap=" ")] if found else []


def _done(rows: Rows) -> Sequence[bool]:
    return [bool(row.done) for row in rows.values()]


def _seeds(rows: Rows) -> set[int]:
    return {run.seed for row in rows.values() for run in row.runs}


def _pairs_legend(rows: Rows) -> str:
    seeds = (
        " Of several seeds: means; intervals cover both other seeds (Student's t) and other"
        " examples; p is the largest of the seeds, 1 where they disagree which is better."
        if len(_seeds(rows)) > 1
        else ""
    )
    more = " All pairs: comparison.pairs(population)." if sum(_done(rows)) > ALL_PAIRS else ""
    return (
        "Accuracies and NFR (negative flip rate, broken / n) in %, changes and differences in"
        " percentage points. p against the original: McNemar's exact test. p against each other:"
        f" the same, corrected for the number of pairs (Holm).{seeds}{more}"
    )


def _worst_classes(rows: Rows) -> list[str]:
    """Of each row the class that lost most of its right answers, on all populations that could get
    worse and under all seeds.
    """
    body = [["method", "class", "on", "n", "recall", "change [95 %]"]]
    for label, row in rows.items():
        found = [
            (classed.change, classed, report, number)
            for report in row.reports.values()
            for scores in open_to_harm(report.scores, report.provenance.get("error_rate"))
            for number, classed in scores.by_class().items()
        ]
        if not found:
            continue
        change, worst, report, number = min(found, key=lambda each: each[0])
        if change >= 0:
            body.append([middle(label, 18), "none", *["-"] * 4])
            continue
        bounds = worst.intervals(seed=report.seed, level=1 - 0.05 / len(found)).change
        body.append(
            [
                middle(label, 18),
                middle(name_of(report, number), 10),
                middle(worst.population, 8),
                str(worst.n),
                f"{100 * worst.accuracy_before:.1f} -> {100 * worst.accuracy_after:.1f}",
                points(change, bounds),
            ]
        )
    about = "Intervals are wide: each is of the worst of all classes, populations and seeds."
    shown = ["Class that lost most", *table(body, indent="", gap=" "), *wrap(about)]
    return shown if len(body) > 1 else []


def _costs(rows: Rows) -> list[str]:
    unit = rows[REFERENCE].seconds if REFERENCE in rows else None
    body = [["method", "verdict", "time" if unit else "seconds", "parameters", "latency"]]
    for label, row in rows.items():
        if not row.done:
            body.append([middle(label, LABEL), FAILED, "-", "-", "-"])
            continue
        seconds = row.seconds or 0.0
        body.append(
            [
                middle(label, LABEL),
                _verdict(row),
                f"{seconds / unit:.2f}x" if unit else f"{seconds:.1f}",
                _relative(row.mean(_added)[0]),
                _latency(row),
            ]
        )
    note = f"time: relative to {REFERENCE!r} ({unit:.1f} s). " if unit else ""
    return [
        "Verdict and cost",
        *table(body, indent="", gap="  "),
        *wrap(
            f"{note}parameters, latency (of one image, with the range of the middle 80 %): change"
            " from the original."
        ),
    ]


def _verdict(row: Row) -> str:
    """With how many of the seeds it is of, where it is not of all."""
    count = [each.kind for each in row.verdicts.values()].count(row.kind)
    return row.kind if count == len(row.runs) else f"{row.kind} {count}/{len(row.runs)}"


def _added(report: Report) -> float | None:
    before, after = (report.cost.get(w, {}).get("parameters") for w in ("before", "after"))
    return after / before - 1 if before and after is not None else None


def latency_change(report: Report) -> float | None:
    """Relative change of the latency, where it was measured."""
    return report.cost.get("change", {}).get("latency")


def _latency(row: Row) -> str:
    value, _ = row.mean(latency_change)
    timed = [r.cost["change"] for r in row.reports.values() if latency_change(r) is not None]
    ranges = [each["latency_range"] for each in timed if "latency_range" in each]
    if value is None or not ranges:
        return _relative(value)
    low, high = min(low for low, _ in ranges), max(high for _, high in ranges)
    return latency_words(value, (low, high))


def _relative(value: float | None) -> str:
    return "-" if value is None else f"{signed(value)} %"


def _failed(rows: Rows) -> list[str]:
    several = len(_seeds(rows)) > 1
    lines = [
        line
        for label, row in rows.items()
        for seed, error in row.errors.items()
        for line in wrap(
            f"{clean(label, 60)}{f' (seed {seed})' if several else ''}: {clean(error, 600)}",
            "  ",
            "    ",
        )
    ]
    return ["Failed", *lines] if lines else []


def _notes(rows: Rows) -> list[str]:
    """Notes that all rows have are told once."""
    by_label = {
        label: list(dict.fromkeys(n for r in row.reports.values() for n in r.notes))
        for label, row in rows.items()
        if row.done
    }
    if not by_label:
        return []
    first, *others = by_label.values()
    common = [note for note in first if all(note in each for each in others)]
    said = [("", note) for note in common] + [
        (f"{clean(label, 40)}: ", note)
        for label, notes in by_label.items()
        for note in notes
        if note not in common
    ]
    lines = [
        line for who, note in said for line in wrap(f"{who}{clean(note, NOTE)}", "  * ", "    ")
    ]
    return ["Notes", *lines] if lines else []
