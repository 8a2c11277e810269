"""A Report in words: terminal text, markdown, the Hugging Face model card (card.md). From the
Report alone, offline.
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.utils import yaml_dump

from timm_repair import licenses, suspects
from timm_repair.connection import check_repo_id
from timm_repair.errors import ConfigError, OptionError
from timm_repair.wording import (
    WIDTH,
    clean,
    escape,
    listed,
    markdown_table,
    p_text,
    points,
    quantity,
    signed,
    table,
    wrap,
)

if TYPE_CHECKING:
    from timm_repair.report import Comparison, Report

REFERENCE = "finetune network"  # the row of a Comparison whose time is the unit, if there is one
# between them the text is ours
START, END = "<!-- timm_repair:start -->", "<!-- timm_repair:end -->"
LEGEND = (
    "Measured on examples that the repair neither trained nor chose on. Fixed: wrong before, right"
    " after. Broken: right before, wrong after. NFR (negative flip rate): broken / n. Change: in"
    " percentage points, with its 95 % bootstrap interval. p: McNemar's exact test."
)


def text(report: "Report") -> str:
    """What `print(report)` shows: plain text, at most 80 columns."""
    sections = [
        wrap(
            f"Repair of {clean(report.model, 200)} with {clean(report.method)} (seed {report.seed})"
        )
    ]
    sections += [suspects.text(report), *_architectures(report), _scores(report)]
    if report.cost:
        sections.append(["Cost of the model", *table(_cost_rows(report))])
    if report.stages:
        sections.append(["Cost of the repair", *table(_stage_rows(report))])
    if report.notes:
        sections.append(
            [
                "Notes",
                *(
                    line
                    for each in report.notes
                    for line in wrap(clean(each, 1000), "  * ", "    ")
                ),
            ]
        )
    return "\n\n".join("\n".join(lines) for lines in sections)


def comparison_text(comparison: "Comparison") -> str:
    """What `print(comparison)` shows; populations that do not fit beside each other go into a table
    below.
    """
    reports = comparison.rows
    first = next(iter(reports.values()))
    unit = reports[REFERENCE].seconds if REFERENCE in reports else 0.0
    times = (
        f"{each.seconds / unit:.2f}x" if unit else f"{each.seconds:.1f}"
        for each in reports.values()
    )
    timed = [("time" if unit else "seconds", *times)]
    labels = [("method", *(clean(label, 26) for label in reports))]
    lines = wrap(f"Comparison of {len(reports)} repairs of {clean(first.model, 200)}")
    groups = [[]]
    for index, before in enumerate(first.scores):
        each, name = (
            [report.scores[index] for report in reports.values()],
            clean(before.population, 14),
        )
        columns = [
            (name, *(f"{100 * score.accuracy_after:.1f} {signed(score.change)}" for score in each)),
            ("fixed", *(str(score.fixed) for score in each)),
            ("broken", *(str(score.broken) for score in each)),
        ]
        if (
            groups[-1]
            and max(map(len, table(zip(*labels, *groups[-1], *columns, *timed, strict=True))))
            > WIDTH
        ):
            groups.append([])
        groups[-1] += columns
        lines.append(f"  {name}: {before.n} examples, {before.accuracy_before:.1%} right before")
    for columns in groups:
        lines += ["", *table(zip(*labels, *columns, *timed, strict=True))]
    note = f" time: relative to {REFERENCE!r} ({unit:.1f} s)." if unit else ""
    return "\n".join(
        [
            *lines,
            "",
            *wrap(f"Under a population: % right after the repair, change in points.{note}"),
        ]
    )


def scores_markdown(report: "Report") -> str:
    """The before/after table: accuracies and their change with 95 % intervals, flips, and McNemar's
    p.
    """
    rows = [
        ["population", "n", "before", "after", "change", "fixed", "broken", "negative flips", "p"]
    ]
    for each in report.scores:
        bounds = each.intervals(seed=report.seed)
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


def render(
    report: "Report",
    *,
    repo_id: str | None = None,
    base_model: str | None = None,
    license: str | None = None,
    dataset: str | None = None,
    tags: Sequence[str] = (),
    patch: bool = False,
    drawn: bool = True,
) -> str:
    """The model card (README.md) of a repaired model. No network; no disk but the template.

    Args:
        repo_id: "user/name" on the Hub the card is for; None for a local directory.
        base_model: Hub id of the original; None takes it from the report. Left out unless an id.
        license: of the original model, which the repaired one inherits; None takes it from the
            report. Left out if not known.
        dataset: Hub id of the data the holdout comes from, if there is one.
        tags: beside timm, timm_repair and image-classification.
        patch: the folder holds the repaired part alone.
        drawn: the figures lie beside the card, in figures/.

    Raises:
        OptionError: `repo_id` or `dataset` is no Hub id.
    """
    base_model, license = (
        base_model or report.base.get("id") or _hub_model(report.model),
        license or report.base.get("license"),
    )
    for name, value in (("repo_id", repo_id), ("dataset", dataset)):
        if value is not None and not is_hub_id(value):
            raise OptionError(f"{name}={value!r} is no Hub id; write it as 'user/name'")
    name = short_name(report.model)
    title = repo_id.split("/")[-1] if repo_id else f"{name}, repaired"
    content = {
        "patch": patch,
        "drawn": drawn,
        "base_model": base_model if base_model and is_hub_id(base_model) else None,
        "start": START,
        "end": END,
        "report": report,
        "escape": escape,
        "title": title,
        "name": name,
        "scores": scores_markdown(report),
        "label": _label,
        "listed": listed,
        "blocks": [escape(block) for block in report.repaired_blocks],
        "suspects": suspects.markdown(report),
        "changed": any(genotype["edges"] for genotype in report.genotypes.values()),
        "source": json.dumps(f"hf-hub:{repo_id}" if repo_id else "local-dir:PATH/TO/THIS/FOLDER"),
        "place": json.dumps(repo_id or "PATH/TO/THIS/FOLDER"),
        "cost": markdown_table(_cost_rows(report)) if report.cost else "",
        "stages": (
            markdown_table([[escape(name), *rest] for name, *rest in _stage_rows(report)])
            if report.stages
            else ""
        ),
    }
    metadata = ModelCardData(
        model_name=clean(title), **_metadata(report, base_model, license, dataset, tags)
    )
    card = ModelCard.from_template(
        metadata, template_path=str(Path(__file__).with_name("card.md")), **content
    )
    return re.sub(r"\n{3,}", "\n\n", str(card)).rstrip() + "\n"


def merged(existing: str | None, new: str, *, keep_license: bool = True) -> str:
    """`new` in the place of an earlier card, in which people may have written: text outside our
    marks and their metadata stay.

    Our metadata replaces what was there under the same names; lists are joined, and a licence that
    is there stays, unless `keep_license` is False.

    Raises:
        ConfigError: the existing card cannot be understood, so that nothing of it is overwritten.
    """
    if not existing or not existing.strip():
        return new
    (theirs, before), (ours, section) = _parted(existing), _parted(new)
    about_license = {"license", "license_name", "license_link"}
    if keep_license and "license" in theirs:
        ours = {k: v for k, v in ours.items() if k not in about_license}
    elif "license" in ours:
        theirs = {k: v for k, v in theirs.items() if k not in about_license - ours.keys()}
    metadata = theirs | ours
    for key, value in ours.items():
        if isinstance(value, list) and key in ("tags", "datasets", "metrics"):
            old = theirs.get(key) or []
            metadata[key] = list(
                dict.fromkeys([*(old if isinstance(old, list) else [old]), *value])
            )
    if (
        before.count(START) != before.count(END)
        or before.count(START) > 1
        or before.find(END) < before.find(START)
    ):
        raise ConfigError(
            f"the existing README.md has lost {START} or {END}: mend it, or pass"
            " replace_model_card=True"
        )
    if START in before:
        head, rest = before.split(START)
        body = f"{head}{section.strip()}{rest.split(END)[1]}"
    else:
        body = f"{before.rstrip()}\n\n{section.strip()}\n"
    return f"---\n{yaml_dump(metadata, sort_keys=False)}---\n{body}"


def _parted(card: str) -> tuple[dict, str]:
    """Metadata and body of a card."""
    found = re.match(r"\s*---\r?\n(.*?)\r?\n---[ \t]*(\r?\n|$)", card, re.DOTALL)
    if not found:
        return {}, card
    try:
        metadata = yaml.safe_load(found[1])
    except yaml.YAMLError as error:
        metadata = str(error)
    if metadata is not None and not isinstance(metadata, dict):
        raise ConfigError(
            f"the existing README.md has no readable metadata ({metadata!s:.200}): mend it, or pass"
            " replace_model_card=True"
        )
    return metadata or {}, card[found.end() :]


def _metadata(
    report: "Report",
    base_model: str | None,
    license: str | None,
    dataset: str | None,
    tags: Iterable,
):
    """The YAML front matter. Accuracies are those after the repair: a model-index describes this
    model only.
    """
    data = {
        "library_name": "timm_repair",
        "pipeline_tag": "image-classification",
        "metrics": ["accuracy"],
    }
    data["tags"] = list(dict.fromkeys(["timm", "timm_repair", "image-classification", *tags]))
    data |= licenses.metadata(license)
    # anything else, such as a path, makes the Hub refuse the whole push
    if base_model and is_hub_id(base_model):
        data |= {"base_model": base_model, "base_model_relation": "finetune"}
    if used := list(dict.fromkeys(filter(None, [dataset, *_datasets(report.provenance)]))):
        data["datasets"] = used
    measured = {
        name: next(_datasets(origin), dataset)
        for name, origin in report.provenance.get("holdout", {}).items()
    }
    data["eval_results"] = [
        EvalResult(
            task_type="image-classification",
            dataset_type=measured.get(each.population, dataset) or "unknown",
            dataset_name=measured.get(each.population, dataset) or "held-out data",
            metric_type="accuracy",
            # equal names would be merged
            metric_name=f"accuracy after repair, {clean(each.population)} (n={each.n})",
            metric_value=round(each.accuracy_after, 6),
        )
        for each in report.scores
    ]
    return data


def _datasets(origin) -> Iterator[str]:
    """Hub ids of datasets in a report's provenance."""
    for key, value in origin.items() if isinstance(origin, dict) else ():
        if key == "dataset" and isinstance(value, str) and is_hub_id(value):
            yield value
        yield from _datasets(value)


def _hub_model(name: str) -> str | None:
    return name.split(":", 1)[1].split("@")[0] if name.startswith(("hf-hub:", "hf_hub:")) else None


def is_hub_id(value: str) -> bool:
    """Whether `value` is shaped like "user/name"."""
    try:
        return bool(check_repo_id(value, owner=True))
    except OptionError:
        return False


def short_name(model: str) -> str:
    """A model's name without the folder or server it came from: "local-dir:/home/me/net" is
    "net".
    """
    return clean(model.rstrip("/").split("/")[-1].split(":")[-1].split("@")[0] or model)


def _label(name: str) -> str:
    return re.sub(r"[^\w.-]", "_", clean(name))  # mermaid has no escape for quotes and brackets


def _cost_rows(report: "Report") -> list[list[str]]:
    before, after = report.cost.get("before", {}), report.cost.get("after", {})
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
    return rows


def _stage_rows(report: "Report") -> list[list[str]]:
    rows = [
        [clean(s["name"], 40), f"{s['seconds']:.1f}", f"{s['peak_memory'] / 2**30:.2f} GiB"]
        for s in report.stages
    ]
    peak = max((stage["peak_memory"] for stage in report.stages), default=0)
    seconds = sum(stage["seconds"] for stage in report.stages)
    return [
        ["stage", "seconds", "peak memory"],
        *rows,
        ["all", f"{seconds:.1f}", f"{peak / 2**30:.2f} GiB"],
    ]


def _architectures(report: "Report") -> list[list[str]]:
    if not report.genotypes:
        return [["Architecture: unchanged, the method changes weights only."]]
    several = len(report.genotypes) > 1
    return [
        _architecture(genotype, f" in {clean(block, 50)}" * several)
        for block, genotype in report.genotypes.items()
    ]


def _architecture(genotype: dict, where: str) -> list[str]:
    layers = [clean(node["layer"], 30) for node in genotype["nodes"]]
    lines = [
        f"Architecture found{where} ({genotype['level']} level)",
        *wrap(f"raw layers, kept: {' -> '.join(layers)}", "  "),
    ]
    if not genotype["edges"]:
        return [*lines, "  nothing added: the raw architecture was kept"]
    added = [
        f"    input of {layers[edge['source']]} --{clean(edge['operation'], 16)}--> input of"
        f" {layers[edge['target']]}"
        for edge in genotype["edges"]
    ]
    return [
        *lines,
        f"  added paths (operations see 1/{genotype['partial']} of the channels):",
        *added,
    ]


def _scores(report: "Report") -> list[str]:
    rows = [["population", "n", "before", "after", "change [95 %]", "fixed", "broken", "NFR", "p"]]
    for each in report.scores:
        change = points(each.change, each.intervals(seed=report.seed).change)
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
        *wrap(LEGEND),
    ]
