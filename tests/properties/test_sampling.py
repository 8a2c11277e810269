"""Inputs of a box, drawn and searched, and what they say of the rest of it."""

import math

import networks as made
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from states import unchanged

from timm_repair.properties import pac, vnnlib
from timm_repair.properties.property import Property
from timm_repair.properties.sampling import Sampling, ascend, explore, on_faces, outputs_of, uniform

FEW = Sampling(violations=100, draws=20_000, retained=300, ascent=10, epsilon=0.01, eta=0.01)
BUDGET = {"steps": 60, "batch_size": 32, "learning_rate": 0.05, "progress": False, "data": FEW}


def unsafe(answer: str = "highest", text: str = made.UNSAFE) -> Property:
    return vnnlib.parse(text, name="unsafe", answer=answer)


@settings(max_examples=30, deadline=None)
@given(st.floats(-1e3, 1e3), st.floats(1e-3, 10), st.integers(0, 99))
def test_every_draw_is_inside_its_box(lower, width, seed):
    prop = Property.allowing("box", [lower], [lower + width], [0], outputs=2)
    (region,) = prop.regions
    for draw in (uniform, on_faces):
        inputs = draw(region, 50, torch.Generator().manual_seed(seed)).double()
        assert (inputs >= region.lower).all() and (inputs <= region.upper).all()


@pytest.mark.parametrize("threshold", [0.5, 0.9])
def test_violations_are_those_of_the_closed_form(threshold):
    region, generator = unsafe().regions[0], torch.Generator().manual_seed(0)
    found = explore(made.ramp(threshold), region, 100, FEW, generator)
    assert len(found.violating) == 100 and (found.violating[:, 0] >= threshold - 1e-6).all()
    assert (found.behaved[:, 0] < threshold + 1e-6).all()
    low, high = pac.interval(found.hits, found.draws, level=1 - 1e-9)
    assert low <= 1 - threshold <= high


def test_ascent_finds_what_even_draws_do_not():
    """The violating strip is a millionth of the square."""
    network, region = made.ramp(1 - 1e-6), unsafe().regions[0]
    starts = uniform(region, 50, torch.Generator().manual_seed(0)) * 0.9
    with unchanged(network):
        climbed = ascend(network, region, starts, 60)
    assert (region.margin(outputs_of(network, climbed)) >= 0).all()
    assert explore(network, region, 20, FEW, torch.Generator().manual_seed(0)).violating.shape == (
        20,
        2,
    )


@pytest.mark.parametrize(("epsilon", "eta"), [(0.01, 0.01), (1e-3, 1e-3), (0.3, 0.5)])
def test_so_many_samples_are_needed_and_no_fewer(epsilon, eta):
    needed = pac.samples_needed(epsilon, eta)
    assert (1 - epsilon) ** needed <= eta < (1 - epsilon) ** (needed - 1)
    assert (
        pac.Statement(0, needed, epsilon, eta).holds
        and not pac.Statement(0, needed - 1, epsilon, eta).holds
    )
    assert math.isclose(pac.Statement(0, needed, epsilon, eta).bound, 1 - eta ** (1 / needed))
    assert "which is more than the" in str(pac.Statement(1, needed, epsilon, eta))


def test_the_bound_covers_as_often_as_it_says():
    """Exactly, over all outcomes of 50 draws at each share: the bound is below the share with
    probability at most η.
    """
    from scipy.stats import binom

    for share in (0.001, 0.02, 0.1, 0.5, 0.9):
        missed = sum(
            binom.pmf(k, 50, share)
            for k in range(51)
            if pac.Statement(k, 50, 0.1, 0.05).bound < share
        )
        assert missed <= 0.05
