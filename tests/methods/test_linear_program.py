"""The linear program: minimal where one can say what minimal is, and honest about what cannot
be.
"""

import numpy as np
import planted
import pytest
import torch
from scipy import sparse

from timm_repair.data.predicting import predict
from timm_repair.data.preparing import prepare
from timm_repair.gradient_free.least_change import Constraints, solve
from timm_repair.methods import named
from timm_repair.runtime.runtime import Runtime


def test_the_smallest_change_by_hand():
    """One weight each: Δ_1 - Δ_0 must reach 1. Half each is least in the largest change, and equal
    in the sum.
    """
    constraints = Constraints(sparse.csr_matrix([[1.0, -1.0]]), np.array([-1.0]), 1)
    change, lost = solve(constraints, limit=3.0)
    assert lost == [] and np.allclose(change, [-0.5, 0.5])


def test_what_cannot_be_is_named():
    """The same features with two labels."""
    features, outputs = np.array([[1.0, 1.0], [1.0, 1.0], [5.0, 1.0]]), np.zeros((3, 2))
    constraints = Constraints.of(features, outputs, np.array([0, 1, 0]), 0.1)
    change, lost = solve(constraints, limit=3.0)
    assert len(lost) == 1 and lost[0] in (0, 1)
    weight = change.reshape(2, 2)
    kept = [i for i in range(3) if i not in lost]
    answers = (features @ weight.T)[kept].argmax(1)
    assert answers.tolist() == [[0, 1, 0][i] for i in kept]


@pytest.mark.parametrize("keep", [0, 60])
def test_given_failures_are_right_afterwards(keep):
    model = planted.confused(planted.classifier())
    wrong, right = planted.wrong_by(model, planted.pictures(300, seed=1))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    data, runtime = prepare(model, wrong, retain=right), Runtime(progress=False)
    outcome = named("linear_program", keep=keep).repair(model, data, runtime)
    # of those that it was given; it promises nothing of others
    given = data.train["failing"]
    answers = predict(outcome.model, given, data.preprocessing, runtime)
    assert len(given) == 36 and answers.right.all()
    changed = {n for n, p in outcome.model.state_dict().items() if not torch.equal(p, before[n])}
    assert changed <= {"fc.weight", "fc.bias"}
