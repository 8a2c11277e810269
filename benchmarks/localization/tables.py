"""The table "regret" of docs/results.md, from what regrets.py reads; table.py writes it."""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.localization import regrets
from benchmarks.localization.regrets import Case
from benchmarks.markdown import MISSING, markdown, span, title, verdict
from timm_repair.localization.localizing import DEFAULT_SCORER


def regret_table(directory: Path) -> str:
    """Scorers by what is lost by following them, and the targets of the default."""
    cases = regrets.read(directory)
    if not cases:
        return MISSING
    models = list(dict.fromkeys(case.model for case in cases))
    found = regrets.rows(cases, regrets.costs(directory))
    default = next(row for row in found if row["scorer"] == DEFAULT_SCORER)
    header = [
        "score",
        "mean regret",
        "worst regret",
        "against the best of other seeds",
        "rank correlation",
        "cost",
        *map(short, models),
    ]
    table = markdown(header, [cells(row, models) for row in found])
    tasks = "; ".join(measured(cases, model) for model in models)
    return (
        f"{table}\n\nRegret in points of held-out accuracy on the failing population, mean over"
        f" tasks ({tasks}). Cost in sweeps: the time of one forward and backward pass over the"
        " failures and twice as many retained examples. Targets of the default:"
        f" {targets(default)}."
    )


def cells(row: dict, models: Sequence[str]) -> list[str]:
    """The row of one scorer."""
    scorer, (model, task) = row["scorer"], row["worst_case"]
    if scorer == DEFAULT_SCORER:
        name = f"**`{scorer}`** (default)"
    else:
        name = scorer if scorer.startswith("*") else f"`{scorer}`"
    optional = (row[what] for what in ("honest", "rank", "cost"))
    return [
        name,
        f"{row['mean']:.2f}",
        f"{row['worst']:.1f} ({short(model)}, {title(task)})",
        *("" if value is None else f"{value:.2f}" for value in optional),
        *(f"{row['by_model'][m]:.2f}" for m in models),
    ]


def measured(cases: Sequence[Case], model: str) -> str:
    """How many tasks and seeds there are of a model."""
    its = [case for case in cases if case.model == model]
    repairs = span([len(case.held) for case in its])
    scores = span([len(case.scores) for case in its])
    return (
        f"{short(model)}: {len(its)} tasks, seeds: {repairs} of the repairs, {scores} of the scores"
    )


def targets(default: dict) -> str:
    limits = {
        "mean": regrets.MEAN_REGRET,
        "worst": regrets.WORST_REGRET,
        "cost": regrets.COST,
    }
    return ", ".join(
        f"{what} at most {limit}: {verdict(default[what] <= limit)}"
        for what, limit in limits.items()
        if default[what] is not None
    )


def short(model: str) -> str:
    return model.removesuffix("_cifar10")
