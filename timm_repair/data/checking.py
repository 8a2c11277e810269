"""Checking labels: the model's own answers, against what the labels were taken for.

A model that is worth a repair has most of what it must not forget right. Where it does not, and
another reading of the labels fits its answers far better, the labels were misread.
"""

import logging
from collections.abc import Mapping

import torch
from scipy.optimize import linear_sum_assignment
from scipy.stats import binomtest
from torch import Tensor

from timm_repair.errors import LabelError
from timm_repair.images.classes import fold
from timm_repair.images.images import Images
from timm_repair.images.labels import BY_MAP, BY_ORDER, GUESSED

logger = logging.getLogger(__name__)

ASKED = 1000  # examples of a role, at most, that the model is asked about
_LEAST = 20  # examples; fewer tell nothing
_CHANCE = 1e-3  # that a better fit is luck
_POOR = 0.5  # accuracy below which retained examples are not what they seem


def sample(images: Images, generator: torch.Generator) -> Images:
    """Some of the images, drawn at random: as many as the model is asked about."""
    if len(images) <= ASKED:
        return images
    return images.subset(torch.randperm(len(images), generator=generator)[:ASKED].sort().values)


def check_answers(
    images: Images, labels: Tensor, answers: Tensor, *, retained: bool = False
) -> None:
    """Compare `labels` (N,), read as those of `images` were, with the model's `answers` (N,).

    Args:
        retained: they are what the model must not forget, so it should have most of them right.

    Raises:
        LabelError: another reading of the labels fits the answers far better. Both are shown.
    """
    told = _rule(images).startswith(BY_MAP)
    if len(labels) < _LEAST:
        return
    right = answers == labels
    share = float(right.float().mean())
    for rule, table in _others(images).items():
        other = answers == table[labels]
        if _far_better(right, other):
            raise LabelError(_two_readings(images, share, float(other.float().mean()), rule, table))
    if share >= _POOR:
        return
    table, half = _assignment(labels, answers)
    other = (answers == table[labels])[half]
    fits = _far_better(right[half], other)
    # numbers are numbers: that one class is taken for another there is what a failure looks like
    if fits and not told and (retained or _rule(images) == BY_ORDER):
        rule = "the classes that the model answers for them"
        raise LabelError(_two_readings(images, share, float(other.float().mean()), rule, table))
    if retained or fits:
        logger.warning(
            "%s: the model has only %.1f%% of %d examples right%s%s; check that their labels are"
            " true and matched to the right classes, and the preprocessing",
            images.name,
            100 * share,
            len(labels),
            ", and another order of the classes fits its answers far better" if fits else "",
            ". What it gets wrong cannot be kept" if retained else "",
        )


def check_failures(images: Images, answers: Tensor) -> None:
    """Raise LabelError for failures some of which the model has right as the labels were read, and
    none as they could be read too: failures are what it gets wrong.
    """
    right = answers == images.labels
    for rule, table in _others(images).items():
        other = answers == table[images.labels]
        if int(right.sum()) >= 7 and not other.any():
            raise LabelError(
                _two_readings(images, float(right.float().mean()), 0.0, rule, table)
                + ". As failures all of them should be wrong"
            )


def require_one_vocabulary(roles: Mapping[str, Images]) -> None:
    """Raise LabelError where classes were told by their order in each source, and the sources do
    not call them the same.
    """
    first: dict[int, tuple[str, str]] = {}
    classes: dict[str, tuple[str, int]] = {}
    for role, images in roles.items():
        if _rule(images) not in GUESSED:
            continue
        for name, index in images.origin["label_mapping"]["table"].items():
            said, where = first.setdefault(index, (name, role))
            at, other = classes.setdefault(fold(name), (role, index))
            if fold(said) != fold(name) or index != other:
                here = f"{role} class {index} {name!r}"
                there = f"{where} {said!r}" if fold(said) != fold(name) else f"{at} class {other}"
                raise LabelError(
                    f"the sources name their classes differently: {here}, {there}; the model has"
                    " no names that would tell which is which. Give label_map={name: index} for"
                    " all names"
                )


def _rule(images: Images) -> str:
    return images.origin.get("label_mapping", {}).get("by", "")


def _others(images: Images) -> dict[str, Tensor]:
    """Rule to a table: class as the labels were read, to the class by that rule."""
    mapping = images.origin.get("label_mapping", {})
    tables = {}
    for rule, other in mapping.get("others", {}).items():
        table = torch.full((max(mapping["table"].values()) + 1,), -1)
        for name, index in mapping["table"].items():
            table[index] = other[name]
        tables[rule] = table
    return tables


def _far_better(right: Tensor, other: Tensor) -> bool:
    """Whether the `other` reading has many more right, beyond chance."""
    won, lost = int((other & ~right).sum()), int((right & ~other).sum())
    if won - lost < 0.2 * len(right) or int(other.sum()) < 1.5 * int(right.sum()):
        return False
    return bool(binomtest(lost, won + lost, alternative="less").pvalue < _CHANCE)


def _assignment(labels: Tensor, answers: Tensor) -> tuple[Tensor, Tensor]:
    """The assignment of labels to classes that fits the answers best, found on one half of each
    class; and (N,) bool, the other half.
    """
    count = int(max(labels.max(), answers.max())) + 1
    order = labels.argsort(stable=True)
    half = torch.zeros(len(labels), dtype=torch.bool)
    half[order[1::2]] = True
    seen = torch.zeros(count, count)
    pairs = labels[~half] * count + answers[~half]
    seen += pairs.bincount(minlength=count * count).reshape(count, count)
    rows, columns = linear_sum_assignment(-seen.numpy())
    table = torch.full((count,), -1)
    table[torch.from_numpy(rows)] = torch.from_numpy(columns)
    return table, half


def _two_readings(images: Images, share: float, other: float, rule: str, table: Tensor) -> str:
    """What the labels were taken for, and what they could be."""
    mapping, names = images.origin.get("label_mapping", {}), images.class_names

    def shown(index: int) -> str:
        return f"{index} ({names[index]})" if names and 0 <= index < len(names) else str(index)

    occurring = set(images.labels.tolist())
    known = {name: i for name, i in mapping.get("table", {}).items() if i in occurring}
    listed = [
        f"{name!r} is {shown(index)}, or {shown(int(table[index]))}"
        for name, index in known.items()
        if int(table[index]) != index
    ]
    return (
        f"{images.name}: the labels were taken for {mapping.get('by', 'indices')}, of which the"
        f" model has {share:.1%} right; by another reading, {rule}, it has {other:.1%}:"
        f" {'; '.join(listed[:8])}{'; …' if len(listed) > 8 else ''}. Say which is true with"
        " label_map={name: index}"
    )
