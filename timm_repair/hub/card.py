"""The Hugging Face model card of a repair (card.md). From the Report alone, offline."""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.utils import yaml_dump

from timm_repair.errors import ConfigError, OptionError
from timm_repair.hub import licenses
from timm_repair.hub.connection import is_hub_id
from timm_repair.report import suspects
from timm_repair.report.report import Report
from timm_repair.report.tables import cost_rows, read_markdown, scores_markdown, stage_rows
from timm_repair.report.wording import (
    clean,
    escape,
    listed,
    markdown_table,
    replaced_layers,
    short_name,
)

# between them the text is ours
START, END = "<!-- timm_repair:start -->", "<!-- timm_repair:end -->"


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
    base_model = base_model or report.base.get("id") or _hub_model(report.model)
    license = license or report.base.get("license")
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
        "verdict": report.verdict,
        "read": read_markdown(report.provenance.get("read", {})),
        "escape": escape,
        "title": title,
        "name": name,
        "scores": scores_markdown(report.scores, report.seed),
        "label": _label,
        "listed": listed,
        "blocks": [escape(block) for block in report.repaired_blocks],
        "suspects": suspects.markdown(report.localization, report.repaired_blocks, report.blocks),
        "changed": any(
            genotype["edges"] or genotype.get("replacements")
            for genotype in report.genotypes.values()
        ),
        "replaced": lambda genotype: [escape(each) for each in replaced_layers(genotype)],
        "source": json.dumps(f"hf-hub:{repo_id}" if repo_id else "local-dir:PATH/TO/THIS/FOLDER"),
        "place": json.dumps(repo_id or "PATH/TO/THIS/FOLDER"),
        "cost": markdown_table(cost_rows(report.cost)) if report.cost else "",
        "stages": (
            markdown_table([[escape(name), *rest] for name, *rest in stage_rows(report.stages)])
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


def _label(name: str) -> str:
    return re.sub(r"[^\w.-]", "_", clean(name))  # mermaid has no escape for quotes and brackets
