"""A fault planted in a stage of a trained classifier of digits is found, and mended."""

import planted
import pytest
from cases import SCORER_CASES
from torch import nn

from timm_repair import localize, repair
from timm_repair.localization.localizing import DEFAULT_SCORER

STEPS = {"steps": 40, "batch_size": 32, "evaluations": 2, "hflip": 0.0, "shift": 0.0}


def failures(model: nn.Module, digits: dict) -> list[planted.Pair]:
    """What it gets wrong by a margin; more than a fifth of the pool."""
    wrong, right = planted.wrong_by(model, digits["pool"], at_least=30)
    assert len(wrong) > 0.2 * (len(wrong) + len(right))
    return wrong


@pytest.mark.parametrize(
    ("stage", "genotype"), [("layer1", "search"), ("layer2", "random"), ("layer3", "search")]
)
def test_a_scrambled_stage_is_repaired(stage, genotype, trained, digits):
    model = planted.scrambled(trained, stage)
    report = repair(
        model,
        failures(model, digits),
        retain=digits["train"],
        holdout=digits["unseen"],
        block=stage,
        genotype=genotype,
        progress=False,
        diagnose=False,
        **STEPS,
    ).report
    failing, population = report.population("failing"), report.population("holdout")
    assert failing.accuracy_before == 0 and failing.fixed >= failing.n / 2
    wrong = population.n - round(population.accuracy_before * population.n)
    assert population.fixed >= wrong / 2 and population.change > 0 and population.p_value < 0.01
    assert report.block == stage


@pytest.mark.parametrize("stage", ["layer1", "layer2", "layer3"])
@pytest.mark.parametrize("score", [score for score, claims in SCORER_CASES.items() if claims])
def test_who_claims_to_localize_names_the_faulty_stage(score, stage, trained, digits):
    model = planted.deadened(trained, stage)
    found = localize(model, failures(model, digits), digits["train"], score=score, progress=False)
    assert found.worst == stage, found.suspiciousness


def test_repairing_with_the_default_scorer_repairs_the_faulty_stage(trained, digits):
    model = planted.deadened(trained, "layer2")
    report = repair(
        model,
        failures(model, digits),
        retain=digits["train"],
        holdout=digits["unseen"],
        score=DEFAULT_SCORER,  # said, or a trial may decide
        diagnose=False,
        progress=False,
        **STEPS,
    ).report
    assert report.block == "layer2" == report.localization["ranking"][0]
    assert report.population("failing").fixed >= report.population("failing").n / 2
