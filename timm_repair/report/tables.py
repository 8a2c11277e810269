"""Tables of a report: scores, costs, architectures; for a terminal, and in markdown."""

from collections.abc import Mapping, Sequence

from timm_repair.report.scores import Scores
from timm_repair.report.wording import (
    clean,
    escape,
    latency_words,
    listed,
    markdown_table,
    p_text,
    points,
    quantity,
    replaced_layers,
    signed,
    table,
    wrap,
)

LEGEND = (
    "Measured on examples that the repair neither trained nor chose on. Fixed: wrong before, right"
    " after. Broken: right before, wrong after. NFR (negative flip rate): broken / n. Change: in"
    " percentage points, with its 95 % bootstrap interval. p: McNemar's exact test."
)


def scores_markdown(scores: Sequence[Scores], seed: int) -> str:
    """The before/after table: accuracies and their change with 95 % intervals, flips, and McNemar's
    p.

    Args:
        seed: of the bootstrap.
    """
    rows = [
        ["population", "n", "before", "after", "change", "fixed", "broken", "negative flips", "p"]
    ]
    for each in scores:
        bounds = each.intervals(seed=seed)
        accuracies = zip((each.accuracy_before, each.accuracy_after), bounds[:2], strict=True)
        before, after = (
            f"{value:.1%} [{low:.1%}, {high:.1%}]" for value, (low, high) in accuracies
        )
        flips = [
            str(each.fixed),
            str(each.broken),
            f"{each.negative_flip_rate:.1%}",
            escape(p_text(each.p_value)),
        ]
        rows.append(
            [
                escape(each.population),
                str(each.n),
                before,
                after,
                points(each.change, bounds.change),
                *flips,
            ]
        )
    return markdown_table(rows)


def read_lines(read: Mapping[str, Mapping]) -> list[str]:
    """What was read for each role, `Report.provenance["read"]`, and the original's accuracy on it:
    lines for a terminal.
    """
    lines = [
        line
        for role, found in read.items()
        for line in wrap(f"{clean(role, 40)}: {'; '.join(_read(found))}", "  ", "    ")
    ]
    prepared = dict.fromkeys(clean(f["preprocessing"], 300) for f in read.values())
    return lines + [
        line for how in prepared for line in wrap(f"preprocessing: {how}", "  ", "    ")
    ]


def read_markdown(read: Mapping[str, Mapping]) -> str:
    """The same as a list in markdown, for others: without the places on this machine."""
    roles = [
        f"- {escape(role)}: {escape('; '.join(_read(found, source=False)), 500)}"
        for role, found in read.items()
    ]
    prepared = dict.fromkeys(escape(f["preprocessing"], 300) for f in read.values())
    return "\n".join([*roles, *(f"- preprocessing: {how}" for how in prepared)])


def _read(found: Mapping, *, source: bool = True) -> list[str]:
    gone = [
        f"{count} {clean(kind, 40).replace('_', ' ')}" for kind, count in found["left_out"].items()
    ]
    right = found["accuracy"]
    of_stream = f" (of {found['stream']} of a stream)" if found["stream"] is not None else ""
    return [
        f"{found['n']} examples{of_stream}" + f" from {clean(found['source'], 100)}" * source,
        f"left out: {', '.join(gone) or 'none'}",
        f"labels by {clean(found['matched'], 60)}, {len(found['classes'])} classes",
        *([f"the original has {right:.1%} of {found['asked']} right"] if right is not None else []),
    ]


def cost_rows(cost: Mapping[str, Mapping]) -> list[list[str]]:
    """What the model costs to run, `Report.cost`; a latency's change with the range of its middle
    80 %.
    """
    before, after = cost.get("before", {}), cost.get("after", {})
    rows = [["", "before", "after", "change"]]
    for key, name in (
        ("parameters", "parameters"),
        ("flops", "FLOPs per image"),
        ("latency_ms", "latency (ms)"),
    ):
        old, new = before.get(key), after.get(key)
        if old is None and new is None:
            continue
        change = f"{signed(new / old - 1)} %" if old and new is not None else "-"
        rows.append([name, quantity(old), quantity(new), change])
    if "latency" in (timed := cost.get("change", {})):  # in turns: the change has a range
        rows[-1][-1] = latency_words(timed["latency"], timed["latency_range"])
    return rows


def stage_rows(stages: Sequence[Mapping]) -> list[list[str]]:
    """What the stages of the repair cost, `Report.stages`."""
    rows = [
        [clean(s["name"], 40), f"{s['seconds']:.1f}", f"{s['peak_memory'] / 2**30:.2f} GiB"]
        for s in stages
    ]
    peak = max((stage["peak_memory"] for stage in stages), default=0)
    seconds = sum(stage["seconds"] for stage in stages)
    return [
        ["stage", "seconds", "peak memory"],
        *rows,
        ["all", f"{seconds:.1f}", f"{peak / 2**30:.2f} GiB"],
    ]


def architectures(genotypes: Mapping[str, Mapping]) -> list[list[str]]:
    """A section a block, of `Report.genotypes`."""
    if not genotypes:
        return [["Architecture: unchanged, the method changes weights only."]]
    several = len(genotypes) > 1
    return [
        _architecture(genotype, f" in {clean(block, 50)}" * several)
        for block, genotype in genotypes.items()
    ]


def _architecture(genotype: Mapping, where: str) -> list[str]:
    layers = [clean(node["layer"], 30) for node in genotype["nodes"]]
    replaced = replaced_layers(genotype)
    kept = "raw layers" if replaced else "raw layers, kept"
    lines = [
        f"Architecture{where} ({genotype['level']} level)",
        *wrap(f"{kept}: {' -> '.join(layers)}", "  "),
        *(wrap(f"replaced: {', '.join(replaced)}", "  ") if replaced else []),
    ]
    if not genotype["edges"]:
        return lines if replaced else [*lines, "  no path was added, only weights differ"]
    added = [
        f"    input of {layers[edge['source']]} --{clean(edge['operation'], 16)}--> input of"
        f" {layers[edge['target']]}"
        for edge in genotype["edges"]
    ]
    return [
        *lines,
        f"  added paths (operations see {_seen(genotype['partial'])} of the channels):",
        *added,
    ]


def _seen(partial: int) -> str:
    return f"1/{partial}" if partial > 1 else "all"


def scores_table(scores: Sequence[Scores], seed: int) -> list[str]:
    """The before/after table for a terminal, with its legend."""
    rows = [["population", "n", "before", "after", "change [95 %]", "fixed", "broken", "NFR", "p"]]
    for each in scores:
        change = points(each.change, each.intervals(seed=seed).change)
        accuracies = (f"{100 * each.accuracy_before:.1f}", f"{100 * each.accuracy_after:.1f}")
        flips = (
            str(each.fixed),
            str(each.broken),
            f"{100 * each.negative_flip_rate:.1f}",
            p_text(each.p_value),
        )
        rows.append([clean(each.population, 12), str(each.n), *accuracies, change, *flips])
    # the gap of one column keeps six-digit counts within the terminal
    return [
        "Before and after (accuracy and NFR in %)",
        *table(rows, indent="", gap=" "),
        *wrap(" ".join([LEGEND, *_by_construction(scores)])),
    ]


def _by_construction(scores: Sequence[Scores]) -> list[str]:
    """Of populations that start at 0 %, because that is how they were collected."""
    names = [repr(clean(each.population, 30)) for each in scores if each.accuracy_before == 0]
    only = "only examples that the original had wrong: there the accuracy could only rise."
    return [f"{listed(names)}: {only}"] if names else []
