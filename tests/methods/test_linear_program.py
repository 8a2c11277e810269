"""The linear program: minimal where one can say what minimal is, and honest about what cannot
be.
"""

import numpy as np
import planted
import pytest
import torch
from scipy.optimize import linprog

import timm_repair
from timm_repair.data.predicting import predict
from timm_repair.data.preparing import prepare
from timm_repair.errors import OptionError
from timm_repair.gradient_free import least_change
from timm_repair.gradient_free.least_change import Constraints, solve
from timm_repair.methods import named
from timm_repair.runtime.runtime import Runtime


def constraints(features, outputs, labels, margin: float = 0.0) -> Constraints:
    return Constraints(
        np.array(features), np.array(outputs), np.array(labels), np.full(len(labels), margin)
    )


def test_the_smallest_change_by_hand():
    """One weight each: Δ_0 - Δ_1 must reach 1. Half each is least in the largest change, and equal
    in the sum.
    """
    change, lost = solve(constraints([[1.0]], [[0.0, 1.0]], [0]), limit=3.0)
    assert lost == [] and np.allclose(change, [[0.5], [-0.5]])


def test_the_smallest_change_of_a_layer_by_hand():
    """One example with features 2 and 1 (the bias), outputs 0 and 1, label 0, margin 0.2: 2 x (2a +
    b) = 1.2 with a on the weights and b on the biases. (2a + 2b) / 4 + max(a, b) is least where a
    = b = 0.2.
    """
    change, lost = solve(constraints([[2.0, 1.0]], [[0.0, 1.0]], [0], 0.2), limit=3.0)
    assert lost == [] and np.allclose(change, [[0.2, 0.2], [-0.2, -0.2]])


def test_what_cannot_be_is_named():
    """The same features with two labels."""
    features, labels = np.array([[1.0, 1.0], [1.0, 1.0], [5.0, 1.0]]), [0, 1, 0]
    change, lost = solve(constraints(features, np.zeros((3, 2)), labels, 0.1), limit=3.0)
    assert len(lost) == 1 and lost[0] in (0, 1)
    kept = [i for i in range(3) if i not in lost]
    assert (features @ change.T)[kept].argmax(1).tolist() == [labels[i] for i in kept]


def test_no_smaller_change_meets_all_constraints():
    """What is found with the constraints that are broken costs what all of them at once cost."""
    random = np.random.default_rng(0)
    classes, size, count, margin = 6, 4, 12, 0.1
    features = np.concatenate([random.normal(size=(count, size)), np.ones((count, 1))], 1)
    outputs, labels = random.normal(size=(count, classes)), random.integers(0, classes, count)
    change, lost = solve(constraints(features, outputs, labels, margin), limit=9.0)
    assert lost == []
    rows, bounds = [], []
    for phi, y, label in zip(features, outputs, labels, strict=True):
        for other in set(range(classes)) - {label}:
            row = np.zeros((classes, size + 1))
            row[other], row[label] = phi, -phi
            rows.append(row.reshape(-1))
            bounds.append(y[label] - y[other] - margin)
    wide, eye = np.array(rows), np.eye(classes * (size + 1))
    every = np.block([[wide, -wide, np.zeros((len(wide), 1))], [eye, eye, -np.ones((len(eye), 1))]])
    costs = np.append(np.full(2 * len(eye), 1 / len(eye)), 1.0)
    reference = linprog(costs, every, np.append(bounds, np.zeros(len(eye))), bounds=(0, 9.0))
    assert np.abs(change).mean() + np.abs(change).max() == pytest.approx(reference.fun, rel=1e-6)
    assert (wide @ change.reshape(-1) <= np.array(bounds) + 1e-6).all()


def test_constraints_that_are_missed_by_less_than_the_solver_tells_end(monkeypatch):
    """One example is given up for each time that all are called met and impossible at once."""
    given = constraints([[1.0], [1.0]], [[0.0, 1.0], [0.0, 2.0]], [0, 0])
    solved = iter([None, None, np.array([[0.5], [-0.5]])])
    monkeypatch.setattr(least_change, "_smallest", lambda *_: next(solved))
    monkeypatch.setattr(least_change, "_slack", lambda _, pairs, *__: np.zeros(pairs.shape[1]))
    change, lost = solve(given, limit=3.0)
    assert lost == [0, 1] and change.tolist() == [[0.5], [-0.5]]


def test_a_program_that_takes_too_long_says_what_to_give():
    random = np.random.default_rng(0)
    features, outputs = random.normal(size=(60, 40)), random.normal(size=(60, 8))
    given = constraints(features, outputs, random.integers(0, 8, 60), 0.1)
    with pytest.raises(OptionError, match="give fewer failures= or keep="):
        solve(given, limit=9.0, seconds=1e-9)


@pytest.mark.parametrize("keep", [0, 60])
def test_given_failures_are_right_afterwards(keep):
    """Those that were constraints, each of them; of others nothing is promised."""
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


def test_failures_that_no_allowed_change_mends_are_named():
    model = planted.confused(planted.classifier())
    wrong, right = planted.wrong_by(model, planted.pictures(200, seed=1))
    given = {"retain": right, "method": "linear_program", "limit": 1e-6, "progress": False}
    given["diagnose"] = False
    with pytest.warns(timm_repair.NoEffectWarning):
        report = timm_repair.repair(model, wrong, **given).report
    count = report.notes[0].split()[0]
    assert report.notes[1].startswith(f"{count} of the constraints' examples cannot be right")


def test_what_it_breaks_beyond_the_limits_is_the_first_note():
    model = planted.classifier()
    wrong = planted.mislabelled(model, planted.pictures(60, seed=1))
    data = prepare(model, wrong, retain=planted.pictures(300, seed=2))
    outcome = named("linear_program").repair(model, data, Runtime(progress=False))
    assert outcome.notes[0].startswith("a limit on harm was not held")


@pytest.mark.parametrize(
    "options", [{"margin": 0.0}, {"failures": 0}, {"limit": 0.0}, {"keep": -1}]
)
def test_what_is_refused(options):
    with pytest.raises(OptionError, match="must be positive"):
        named("linear_program", **options)
