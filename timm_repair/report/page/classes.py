"""Class by class: how many are found, how many of the answers are true; and what is taken for
what.
"""

import math
from collections import Counter
from dataclasses import dataclass

import torch

from timm_repair.report.facts import Facts, name_of
from timm_repair.report.scores import Scores
from timm_repair.report.wording import clean, points

ROWS = 1000  # classes in all tables of a page
TAKEN = 12  # pairs of classes
SQUARE = 20  # classes, of more no matrix can be read; nor of more populations than
MATRICES = 4
SHADES = 5  # of its cells


@dataclass(frozen=True)
class ClassRow:
    """One class of one population: recall and precision, as texts.

    Args:
        kind: "bad" or "good" where its change is that beyond its interval, else "".
    """

    name: str
    n: int
    recall: tuple[str, str]
    change: str
    precision: tuple[str, str]
    fixed: int
    broken: int
    kind: str


@dataclass(frozen=True)
class Taken:
    """How many of a class were called another."""

    true: str
    answer: str
    before: int
    after: int


@dataclass(frozen=True)
class Matrix:
    """What was answered how often, before or after.

    Args:
        names: of the classes.
        rows: for each true class the counts of the answers, and how dark each is to be, from 0 to
            SHADES.
    """

    when: str
    names: tuple[str, ...]
    rows: tuple[tuple[tuple[int, int], ...], ...]


@dataclass(frozen=True)
class ByClass:
    """One population, class by class.

    Args:
        rows: those that lost most first; `left_out` how many more there are.
        taken: the pairs that changed most.
        matrices: before and after; empty where there are too many classes or populations.
    """

    number: int
    population: str
    rows: tuple[ClassRow, ...]
    left_out: int
    taken: tuple[Taken, ...]
    matrices: tuple[Matrix, ...]


def by_class(report: Facts) -> list[ByClass]:
    """Of each population."""
    most = max(10, ROWS // max(len(report.scores), 1))
    return [_population(report, i, each, most) for i, each in enumerate(report.scores)]


def _population(report: Facts, number: int, scores: Scores, most: int) -> ByClass:
    classes = sorted(scores.by_class().items(), key=lambda item: item[1].change)
    rows = tuple(_row(report, scores, label, each) for label, each in classes[:most])
    name = clean(scores.population, 40)
    matrices = _matrices(report, scores) if number < MATRICES else ()
    left_out = len(classes) - len(rows)
    return ByClass(number, name, rows, left_out, tuple(_taken(report, scores)), matrices)


def _row(report: Facts, scores: Scores, label: int, each: Scores) -> ClassRow:
    change = each.intervals(seed=report.seed, resamples=500).change
    sides = [(scores.before, each.before), (scores.after, each.after)]
    precision = []
    for answers, of_class in sides:
        said, true = int((answers == label).sum()), int((of_class == label).sum())
        precision.append(f"{100 * true / said:.1f}" if said else "-")
    return ClassRow(
        name=name_of(report, label),
        n=each.n,
        recall=(f"{100 * each.accuracy_before:.1f}", f"{100 * each.accuracy_after:.1f}"),
        change=points(each.change, change),
        precision=(precision[0], precision[1]),
        fixed=each.fixed,
        broken=each.broken,
        kind="bad" if change[1] < 0 else "good" if change[0] > 0 else "",
    )


def _matrices(report: Facts, scores: Scores) -> tuple[Matrix, ...]:
    labels = torch.cat([scores.labels, scores.before, scores.after]).unique()
    if len(labels) > SQUARE:
        return ()
    names = tuple(name_of(report, label) for label in labels.tolist())
    counts = [
        [[int(((scores.labels == i) & (said == j)).sum()) for j in labels] for i in labels]
        for said in (scores.before, scores.after)
    ]
    most = max(max(map(max, each)) for each in counts)
    return tuple(
        Matrix(
            when,
            names,
            tuple(tuple((n, math.ceil(SHADES * (n / most) ** 0.5)) for n in row) for row in each),
        )
        for when, each in zip(("before", "after"), counts, strict=True)
    )


def _taken(report: Facts, scores: Scores) -> list[Taken]:
    counts = [
        Counter(
            (label, answer)
            for label, answer in zip(scores.labels.tolist(), answers.tolist(), strict=True)
            if label != answer
        )
        for answers in (scores.before, scores.after)
    ]
    pairs = sorted(
        counts[0].keys() | counts[1].keys(),
        key=lambda pair: (-abs(counts[1][pair] - counts[0][pair]), -counts[1][pair], pair),
    )
    return [
        Taken(name_of(report, pair[0]), name_of(report, pair[1]), counts[0][pair], counts[1][pair])
        for pair in pairs[:TAKEN]
    ]
