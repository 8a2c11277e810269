"""The smallest change of a linear layer after which given examples are right: a linear program.

An example has as many constraints as it has wrong classes, and few of them matter. So they are
added where they are broken, until none is: what solves those and breaks no other solves all.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from scipy import sparse
from scipy.optimize import OptimizeResult, linprog

from timm_repair.errors import OptionError

ROUNDING = 1e-7  # HiGHS calls a constraint met that is missed by this
_SOLVED, _IMPOSSIBLE = 0, 2  # of SciPy's statuses


@dataclass(frozen=True)
class Constraints:
    """That each example's label is above every other class by its margin, once the layer's weights
    and biases have changed by Δ (classes, size): (Δ_class - Δ_label) · φ <= y_label - y_class -
    margin.

    Args:
        features: φ (n, size), what arrives at the layer, with a 1 for the bias; float64.
        outputs: y (n, classes), what leaves it.
        labels: (n,).
        margins: (n,).
    """

    features: np.ndarray
    outputs: np.ndarray
    labels: np.ndarray
    margins: np.ndarray

    @classmethod
    def joined(cls, parts: Sequence["Constraints"]) -> "Constraints":
        """All of them together."""
        names = "features", "outputs", "labels", "margins"
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))

    def __getitem__(self, examples: np.ndarray) -> "Constraints":
        return Constraints(
            self.features[examples],
            self.outputs[examples],
            self.labels[examples],
            self.margins[examples],
        )

    def worst(self, change: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of each example the class that is highest beside its label once Δ is added, and by how
        much it breaks its constraint, negative where it does not.
        """
        outputs, everyone = self.outputs + self.features @ change.T, np.arange(len(self.labels))
        own = outputs[everyone, self.labels].copy()
        outputs[everyone, self.labels] = -np.inf
        others = outputs.argmax(1)
        return others, outputs[everyone, others] - own + self.margins

    def rows(
        self, examples: np.ndarray, others: np.ndarray
    ) -> tuple[sparse.csr_matrix, np.ndarray, np.ndarray]:
        """A, b of A Δ <= b for these pairs of an example and a class, and the classes that A's
        columns are about: of no other does any of them say anything.
        """
        labels, size = self.labels[examples], self.features.shape[1]
        classes, places = np.unique(np.concatenate([others, labels]), return_inverse=True)
        columns = (places.reshape(2, -1).T[:, :, None] * size + np.arange(size)).reshape(-1)
        values = np.stack([self.features[examples], -self.features[examples]], 1).reshape(-1)
        starts = np.arange(len(examples) + 1) * 2 * size
        shape = len(examples), len(classes) * size
        matrix = sparse.csr_matrix((values, columns, starts), shape=shape)
        bounds = self.outputs[examples, labels] - self.outputs[examples, others]
        return matrix, bounds - self.margins[examples], classes


def solve(
    constraints: Constraints, limit: float, seconds: float | None = None
) -> tuple[np.ndarray, list[int]]:
    """The Δ (classes, size) with the smallest ||Δ||_1 / entries + ||Δ||_inf that meets all, and
    which examples cannot be met; those are then left out.

    Args:
        limit: no entry of Δ is larger.
        seconds: of all solutions, of which there are several: constraints are added where they are
            broken. None takes as many as it needs.

    Raises:
        OptionError: the solver gave up, for the time or for numbers that it cannot handle.
    """
    pairs = np.stack(
        [np.arange(len(constraints.labels)), constraints.worst(_nothing(constraints))[0]]
    )
    lost: set[int] = set()
    end = math.inf if seconds is None else time.monotonic() + seconds
    while True:
        change = _smallest(constraints, pairs, limit, end)
        if change is None:  # nor then do all constraints together have a solution
            slack = _slack(constraints, pairs, limit, end)
            missed = pairs[0][slack > ROUNDING]
            if not len(missed):  # by less than the solver can tell: the one that is missed most
                missed = pairs[0][[slack.argmax()]]
            lost |= set(missed.tolist())
            pairs = pairs[:, ~np.isin(pairs[0], missed)]
            continue
        others, broken = constraints.worst(change)
        new = [i for i in np.flatnonzero(broken > 2 * ROUNDING) if i not in lost]
        known = set(zip(*pairs.tolist(), strict=True))
        new = [i for i in new if (i, others[i]) not in known]
        if not new:
            return change, sorted(lost)
        pairs = np.concatenate([pairs, np.stack([new, others[new]])], 1)


def _nothing(constraints: Constraints) -> np.ndarray:
    return np.zeros((constraints.outputs.shape[1], constraints.features.shape[1]))


def _smallest(
    constraints: Constraints, pairs: np.ndarray, limit: float, end: float
) -> np.ndarray | None:
    """min mean(p + m) + u over Δ = p - m with p + m <= u <= limit; None if no Δ meets the
    constraints. Classes that none of them is about do not change.
    """
    change = _nothing(constraints)
    if not pairs.shape[1]:
        return change
    matrix, bounds, classes = constraints.rows(*pairs)
    rows, size = cast(tuple[int, int], matrix.shape)
    eye, column = sparse.identity(size, format="csr"), sparse.csr_matrix(np.ones((size, 1)))
    nothing = sparse.csr_matrix((rows, 1))
    wide = sparse.bmat([[matrix, -matrix, nothing], [eye, eye, -column]], format="csr")
    costs = np.concatenate([np.full(2 * size, 1 / change.size), [1.0]])
    bounds = np.concatenate([bounds, np.zeros(size)])
    found = _solved(costs, wide, bounds, (0, limit), end)
    if found.status == _IMPOSSIBLE:
        return None
    change[classes] = (found.x[:size] - found.x[size : 2 * size]).reshape(len(classes), -1)
    return change


def _slack(constraints: Constraints, pairs: np.ndarray, limit: float, end: float) -> np.ndarray:
    """(pairs,) by how much each constraint is missed, where the sum of that is as small as can
    be.
    """
    matrix, bounds, _ = constraints.rows(*pairs)
    rows, size = cast(tuple[int, int], matrix.shape)
    wide = sparse.hstack([matrix, -sparse.identity(rows)], format="csr")
    costs = np.concatenate([np.zeros(size), np.ones(rows)])
    ranges = [(-limit, limit)] * size + [(0, None)] * rows
    found = _solved(costs, wide, bounds, ranges, end)
    return found.x[size:] if found.status == _SOLVED else np.full(rows, np.inf)


def _solved(costs, matrix, bounds, ranges, end: float) -> OptimizeResult:
    """Raises OptionError where there is no answer before `end`, of `time.monotonic`."""
    options = {} if math.isinf(end) else {"time_limit": max(end - time.monotonic(), 1e-9)}
    # the interior point method: the same optimum, many times sooner than the simplex here
    found = linprog(
        costs, A_ub=matrix, b_ub=bounds, bounds=ranges, method="highs-ipm", options=options
    )
    if found.status not in (_SOLVED, _IMPOSSIBLE):
        raise OptionError(
            f"a linear program of {matrix.shape[0]:,} rows and {matrix.shape[1]:,} columns was not"
            f" solved ({found.message}): give fewer failures= or keep=, or more seconds= where it"
            " was the time"
        )
    return found
