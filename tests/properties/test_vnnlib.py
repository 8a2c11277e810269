"""Properties from VNN-LIB, which end of the outputs they look at, and what is refused."""

import networks as made
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from states import unchanged

from timm_repair.errors import OptionError, PropertyError
from timm_repair.properties import answers, vnnlib
from timm_repair.properties.property import Property


def unsafe(answer: str = "highest", text: str = made.UNSAFE) -> Property:
    return vnnlib.parse(text, name="unsafe", answer=answer)


def test_a_file_says_what_a_violation_is():
    prop = unsafe()
    (region,) = prop.regions
    assert (prop.inputs, prop.outputs) == (2, 2)
    assert region.lower.tolist() == [0, 0] and region.upper.tolist() == [1, 1]
    outputs = torch.tensor([[2.0, 1.0], [1.0, 1.0], [0.0, 1.0]])
    assert prop.margin(outputs, torch.zeros(3, dtype=torch.long)).tolist() == [1, 0, -1]
    assert prop.violated(outputs, torch.zeros(3, dtype=torch.long)).tolist() == [True, True, False]


def test_or_and_and_are_multiplied_out():
    """Two boxes, in each of which one of two clauses is enough."""
    boxes = "(assert (or (and (>= X_0 0) (<= X_0 1)) (and (>= X_0 3) (<= X_0 4))))"
    clauses = "(assert (or (and (<= Y_0 Y_1) (<= Y_0 Y_2)) (>= (+ Y_0 (* 2 Y_1)) (- 5 Y_2))))"
    prop = vnnlib.parse(f"{made.declared(1, 3)}\n{boxes}\n{clauses}", name="two")
    assert [(r.lower.item(), r.upper.item(), len(r.clauses)) for r in prop.regions] == [
        (0, 1, 2),
        (3, 4, 2),
    ]
    margin = prop.regions[0].margin(
        torch.tensor([[0.0, 1.0, 2.0], [3.0, 1.0, 2.0], [1.0, 0.0, 0.0]])
    )
    assert margin.tolist() == [1, 2, -1]


BAD = {
    "an open bracket": (
        "(declare-const X_0 Real)\n(assert (<= X_0 1)",
        r"line 2: this '\(' is never closed",
    ),
    "a bracket too many": ("(declare-const X_0 Real)\n)", r"line 2: a '\)' too many"),
    "a word outside": ("hello", "line 1: 'hello' stands outside"),
    "an unknown command": ("\n(push 1)", "line 2: .* not 'push'"),
    "an undeclared variable": (
        f"{made.declared()}\n(assert (<= Y_7 Y_0))",
        "line 5: Y_7 was not declared",
    ),
    "no number": (f"{made.declared()}\n(assert (<= Y_1 abc))", "line 5: 'abc' is neither"),
    "not linear": (f"{made.declared()}\n(assert (<= (* Y_0 Y_1) 1))", "line 5: .* linear"),
    "not finite": (f"{made.declared()}\n(assert (<= Y_0 inf))", "line 5: inf is not finite"),
    "a gap": (
        "(declare-const X_0 Real)\n(declare-const X_2 Real)\n(declare-const Y_0 Real)",
        "without a gap",
    ),
    "another type": ("(declare-const X_0 Int)", "line 1: declare"),
    "inputs and outputs": (
        f"{made.declared()}\n{made.box()}\n(assert (<= X_0 Y_0))",
        "line 9: .* one input",
    ),
    "an unbounded box": (
        f"{made.declared()}\n(assert (<= X_0 1))\n(assert (<= Y_0 Y_1))",
        "box 1 of 1: X_0 is unbounded",
    ),
    "an empty box": (
        made.UNSAFE + "(assert (>= X_1 2))",
        "it is empty, X_1 is at least 2.0 and at most 1.0",
    ),
    "no outputs": (f"{made.declared()}\n{made.box()}", "nothing of the outputs"),
    "too deep": ("(" * 60, "nested more than"),
    "too many cases": (
        f"{made.declared()}\n" + "(assert (or (<= Y_0 1) (<= Y_1 1)))\n" * 14,
        "more than 10000 cases",
    ),
}


@pytest.mark.parametrize("label", BAD)
def test_a_malformed_file_is_refused_with_the_line(label):
    text, message = BAD[label]
    with pytest.raises(PropertyError, match=message):
        vnnlib.parse(text, name="bad.vnnlib")


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="()<=>+-*XYas_0123 \n;.orandetc", max_size=200))
def test_no_text_does_anything_else_than_to_be_read_or_refused(text):
    try:
        vnnlib.parse(text, name="fuzz")
    except PropertyError as error:
        assert str(error).startswith("fuzz")


def test_the_answer_is_read_from_the_comparisons_and_never_guessed():
    def clause(text: str, answer: str | None = None) -> Property:
        return vnnlib.parse(
            f"{made.declared(1, 3)}\n{made.box(axes=1)}\n(assert {text})", name="it", answer=answer
        )

    assert answers.of([clause("(and (<= Y_1 Y_0) (<= Y_2 Y_0))")]) == "highest"
    assert answers.of([clause("(and (<= Y_0 Y_1) (<= Y_0 Y_2))")]) == "lowest"
    assert answers.of([clause("(or (<= Y_1 Y_0) (<= Y_2 Y_0))")]) == "lowest", (
        "y_0 is not the lowest"
    )
    assert answers.of([clause("(or (<= Y_0 Y_1) (<= Y_0 Y_2))")]) == "highest", (
        "y_0 is not the highest"
    )
    for unclear in ("(<= Y_1 Y_0)", "(>= Y_0 3)"):
        with pytest.raises(PropertyError, match="does not follow"):
            answers.of([clause(unclear)])
        assert answers.of([clause(unclear, "lowest")]) == "lowest"
    with pytest.raises(PropertyError, match="does not follow"):
        answers.of([unsafe("highest"), unsafe("lowest")])
    with pytest.raises(OptionError, match="did you mean 'lowest'"):
        unsafe("lowst")


def test_negated_outputs_leave_no_trace():
    network, inputs = made.ramp(), torch.rand(5, 2)
    outputs = network(inputs)
    with unchanged(network):
        answers.negate(network)
        assert torch.equal(network(inputs), -outputs)
        with answers.raw(network):
            assert torch.equal(network(inputs), outputs)
        answers.restore(network)
