"""The smallest change of a linear layer after which given examples are right: a linear program."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from scipy import sparse
from scipy.optimize import linprog

ROUNDING = 1e-7  # HiGHS calls a constraint met that is missed by this


@dataclass(frozen=True)
class Constraints:
    """A Δ <= b, as many rows for each example as it has wrong classes.

    Args:
        matrix: (rows, classes * size); Δ is the change of a layer's weights and biases, class by
            class.
        bounds: (rows,) float64.
        examples: how many there are.
    """

    matrix: sparse.csr_matrix
    bounds: np.ndarray
    examples: int

    @property
    def size(self) -> int:
        """Of Δ."""
        return cast(tuple[int, int], self.matrix.shape)[1]

    @classmethod
    def of(
        cls, features: np.ndarray, outputs: np.ndarray, labels: np.ndarray, margin: float
    ) -> "Constraints":
        """That each example's label is above every other class by `margin`:
        (Δ_class - Δ_label) · φ <= y_label - y_class - margin.

        Args:
            features: (n, size) what arrives at the layer, with a 1 for the bias.
            outputs: (n, classes) what leaves it.
            labels: (n,).
        """
        (count, size), classes = features.shape, outputs.shape[1]
        others = np.array([[c for c in range(classes) if c != label] for label in labels])
        example, other = np.repeat(np.arange(count), classes - 1), others.reshape(-1)
        within = np.arange(size)
        columns = np.concatenate(
            [other[:, None] * size + within, labels[example][:, None] * size + within], 1
        )
        values = np.concatenate([features[example], -features[example]], 1)
        starts = np.arange(len(other) + 1) * 2 * size
        matrix = sparse.csr_matrix(
            (values.reshape(-1), columns.reshape(-1), starts), shape=(len(other), classes * size)
        )
        bounds = outputs[example, labels[example]] - outputs[example, other] - margin
        return cls(matrix, bounds, count)

    @classmethod
    def joined(cls, parts: Sequence["Constraints"]) -> "Constraints":
        """All of them together."""
        matrix = sparse.csr_matrix(sparse.vstack([part.matrix for part in parts]))
        bounds = np.concatenate([part.bounds for part in parts])
        return cls(matrix, bounds, sum(part.examples for part in parts))

    def without(self, missed: np.ndarray) -> "Constraints":
        """Those of the examples that are not `missed` (examples,) bool, each loosened by what the
        solver calls met.
        """
        kept = np.flatnonzero(np.repeat(~missed, len(self.bounds) // max(self.examples, 1)))
        return Constraints(
            sparse.csr_matrix(self.matrix[kept]), self.bounds[kept] + ROUNDING, int((~missed).sum())
        )


def solve(constraints: Constraints, limit: float) -> tuple[np.ndarray, list[int]]:
    """The smallest Δ that meets all, and which examples cannot be met; those are then left out.

    Args:
        limit: no entry of Δ is larger.
    """
    found = _smallest(constraints, limit)
    if found is not None:
        return found, []
    slack = _least_slack(constraints, limit)
    missed = np.array((slack > ROUNDING).reshape(constraints.examples, -1).any(1))
    found = _smallest(constraints.without(missed), limit)
    if found is None:
        return np.zeros(constraints.size), list(range(constraints.examples))
    return found, np.flatnonzero(missed).tolist()


def _smallest(constraints: Constraints, limit: float) -> np.ndarray | None:
    """min mean(p + m) + u over Δ = p - m with p + m <= u <= limit; None if no Δ meets the
    constraints.
    """
    rows, size = len(constraints.bounds), constraints.size
    eye, column = sparse.identity(size, format="csr"), sparse.csr_matrix(np.ones((size, 1)))
    nothing = sparse.csr_matrix((rows, 1))
    matrix = constraints.matrix
    wide = sparse.bmat([[matrix, -matrix, nothing], [eye, eye, -column]], format="csr")
    costs = np.concatenate([np.full(2 * size, 1 / size), [1.0]])
    bounds = np.concatenate([constraints.bounds, np.zeros(size)])
    found = linprog(costs, A_ub=wide, b_ub=bounds, bounds=(0, limit), method="highs")
    return found.x[:size] - found.x[size : 2 * size] if found.status == 0 else None


def _least_slack(constraints: Constraints, limit: float) -> np.ndarray:
    """(rows,) by how much each constraint is missed, where the sum of that is as small as can
    be.
    """
    rows, size = len(constraints.bounds), constraints.size
    wide = sparse.hstack([constraints.matrix, -sparse.identity(rows)], format="csr")
    costs = np.concatenate([np.zeros(size), np.ones(rows)])
    ranges = [(-limit, limit)] * size + [(0, None)] * rows
    found = linprog(costs, A_ub=wide, b_ub=constraints.bounds, bounds=ranges, method="highs")
    return found.x[size:] if found.status == 0 else np.full(rows, np.inf)
