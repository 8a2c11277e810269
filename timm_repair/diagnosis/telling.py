"""Can two populations be told apart? A classifier on statistics of images, judged on images that it
was not trained on.
"""

import math
from dataclasses import dataclass

import numpy as np
from torch import Tensor

FOLDS = 5


@dataclass(frozen=True)
class Told:
    """How often a classifier tells which of two populations an image is from.

    Args:
        right: balanced accuracy on images that it was not trained on: 0.5 means that they cannot
            be told apart.
        low, high: its 95 % interval.
    """

    right: float
    low: float
    high: float


def told_apart(one: Tensor, other: Tensor, seed: int) -> Told:
    """Cross-validated, of statistics (N, D) and (M, D)."""
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x = np.concatenate([one.cpu().numpy(), other.cpu().numpy()]).astype(float)
    y = np.repeat([0, 1], [len(one), len(other)])
    centre, scale = np.median(x, 0), x.std(0) + 1e-6
    x = ((x - centre) / scale).clip(-5, 5)
    x = np.concatenate([x, np.abs(x)], 1)  # populations may differ in spread alone
    judge = make_pipeline(
        StandardScaler(),
        LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto", priors=[0.5, 0.5]),
    )
    folds = StratifiedKFold(min(FOLDS, len(one), len(other)), shuffle=True, random_state=seed)
    answers = cross_val_predict(judge, x, y, cv=folds)
    shares = [float(np.mean(answers[y == k] == k)) for k in (0, 1)]
    right = sum(shares) / 2
    sizes = (len(one), len(other))
    # each share drawn to a half by two examples, so that 100 % has a width too
    near = [(s * n + 1) / (n + 2) for s, n in zip(shares, sizes, strict=True)]
    error = math.sqrt(sum(s * (1 - s) / (n + 2) for s, n in zip(near, sizes, strict=True))) / 2
    return Told(right, max(0.0, right - 1.96 * error), min(1.0, right + 1.96 * error))
