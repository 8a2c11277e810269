"""Which classes fail: confused pairs and lost classes, against the errors on retained data; and
failures whose label is probably wrong.
"""

import warnings
from collections import Counter
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from scipy.stats import binomtest, fisher_exact
from torch import Tensor

from timm_repair.diagnosis.findings import Confusion, Suspect

LEAST = 3  # failures of a kind that are worth a word
SHOWN = 10
LEVEL = 0.05


def confusions(
    labels: Sequence[int],
    answers: Sequence[int],
    retained: tuple[Sequence[int], Sequence[int]],
    passing: Sequence[int] = (),
) -> list[Confusion]:
    """Pairs and classes with more failures than expected, the most significant first, at most
    `SHOWN`; p-values are after Holm's correction over all that were tested.

    Args:
        labels, answers: of the failures: the true classes, and what the model says.
        retained: the same of retained examples, right ones too.
        passing: classes of examples of the failing population that the model has right.
    """
    count, total = Counter(zip(labels, answers, strict=True)), len(labels)
    true, said = retained
    wrong = [(t, s) for t, s in zip(true, said, strict=True) if t != s]
    errors, by_class = Counter(wrong), Counter(t for t, _ in wrong)
    classes = sorted({*labels, *answers, *true})
    found = []
    of_class = Counter(labels)
    for (one, other), k in count.items():
        # of the failures of that class; an even spread over the others is worth one error each
        expected = (errors[one, other] + 1) / (by_class[one] + len(classes) - 1)
        found.append(_tested(one, other, k, of_class[one], expected, total))
    found += _lost(of_class, Counter(passing), retained, classes, total)
    return _holm([each for each in found if each.count >= LEAST])


def _tested(one: int, other: int | None, k: int, of: int, expected: float, total: int) -> Confusion:
    expected = min(expected, 1.0)
    p = binomtest(k, of, expected, alternative="greater").pvalue
    bounds = binomtest(k, total).proportion_ci(method="wilson")
    return Confusion(
        one, other, k, k / total, float(bounds.low), float(bounds.high),
        expected * of / total, float(p),
    )  # fmt: skip


def _lost(
    failed: Counter,
    passed: Counter,
    retained: tuple[Sequence[int], Sequence[int]],
    classes: Sequence[int],
    total: int,
) -> list[Confusion]:
    """Classes that fail more than others. With passing examples it is the error rate of each class
    that counts, and it must be above both that on retained data and that of all other classes.
    """
    true, said = retained
    seen, right = Counter(true), Counter(t for t, s in zip(true, said, strict=True) if t == s)
    found, given = [], passed.total()
    for one in classes:
        k = failed[one]
        if given:
            n = k + passed[one]
            others = total - k, given - passed[one]
            if not n or not sum(others):
                continue
            wrong = seen[one] - right[one]
            p = max(_more([k, passed[one]], each) for each in (others, (wrong, right[one])))
            bounds = binomtest(k, n).proportion_ci(method="wilson")
            expected = wrong / seen[one] if seen[one] else 0.0
            found.append(
                Confusion(one, None, k, k / n, float(bounds.low), float(bounds.high),
                          expected, float(p))
            )  # fmt: skip
        elif seen[one]:
            found.append(_tested(one, None, k, total, seen[one] / len(true), total))
    return found


def _more(one: Sequence[int], other: Sequence[int]) -> float:
    """p-value of Fisher's test that the first of `one` is a larger share of it than that of
    `other`, each (wrong, right).
    """
    _, p = cast(tuple[float, float], fisher_exact([one, other], "greater"))
    return float(p)


def _holm(found: list[Confusion]) -> list[Confusion]:
    """Those that remain significant, with corrected p-values."""
    found = sorted(found, key=lambda each: each.p)
    kept, worst = [], 0.0
    for place, each in enumerate(found):
        worst = max(worst, min(1.0, each.p * (len(found) - place)))
        if worst > LEVEL:
            break
        kept.append(Confusion(**{**vars(each), "p": worst}))
    return kept[:SHOWN]


def label_errors(
    ids: Sequence[Any],
    labels: Tensor,
    probabilities: Tensor,
    known: tuple[Tensor, Tensor],
) -> tuple[list[Suspect], float]:
    """Failures whose label may be wrong, by confident learning: the model is as sure of another
    class as it is, on average and in half of the cases, where that class is true. And how many
    there would be if failures were like the model's errors on retained examples: a model is sure of
    some of its own.

    Args:
        ids, labels: (N,) of the failures.
        probabilities: (N, classes) that the model gives.
        known: labels (M,) and probabilities (M, classes) of retained examples, to know how sure the
            model is of each class.
    """
    with warnings.catch_warnings():  # it changes what the program wants to be warned of
        from cleanlab.filter import find_label_issues

    every = np.concatenate([labels.numpy(), known[0].numpy()])
    sure = np.concatenate([probabilities.numpy(), known[1].numpy()]).astype(float)
    present = np.unique(every)  # cleanlab wants classes without gaps
    sure = sure[:, present]
    sure = np.where(sure.sum(1, keepdims=True) > 0, sure, 1.0)
    sure = sure / sure.sum(1, keepdims=True)
    if len(present) < 2:
        return [], 0.0
    usual = _usual(*known)
    order = find_label_issues(
        np.searchsorted(present, every),
        sure,
        filter_by="confident_learning",
        return_indices_ranked_by="self_confidence",
        n_jobs=1,
    )
    all_labels, all_sure = torch.cat([labels, known[0]]), torch.cat([probabilities, known[1]])
    most, answers = all_sure.max(1)
    chosen = [i for i in order.tolist() if most[i] >= usual[answers[i]]]
    ordinary = int((answers != all_labels)[len(labels) :].sum())
    expected = len(labels) * sum(i >= len(labels) for i in chosen) / max(ordinary, 1)
    return [
        Suspect(ids[i], int(labels[i]), int(answers[i]), float(probabilities[i, labels[i]]))
        for i in chosen
        if i < len(labels)
    ], min(expected, float(len(labels)))


def _usual(labels: Tensor, probabilities: Tensor) -> Tensor:
    """(classes,) the median probability of each class where it is true; 1 where it is not seen."""
    found = torch.ones(probabilities.shape[1])
    for label in labels.unique().tolist():
        found[label] = probabilities[labels == label, label].median()
    return found
