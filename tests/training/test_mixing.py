"""What a batch is made of, population by population, and what selection maximizes for it."""

from dataclasses import replace

import pytest
import torch
from making import quiet

from timm_repair.data.predicting import Prediction
from timm_repair.data.repair_data import RepairData
from timm_repair.errors import OptionError
from timm_repair.images.preprocessing import Preprocessing
from timm_repair.training.batches import Batches
from timm_repair.training.mixing import counts, rarer, wrong_class_weight
from timm_repair.training.objective import objective
from timm_repair.training.options import Choosing, Mixing, Training

PREPROCESSING = Preprocessing((3, 8, 8), (0.5,) * 3, (0.5,) * 3, {})


class Many:
    """As many examples as asked for; of Images only their number matters here."""

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count


def known(*, passing=None, retained=None, pattern=None, classes=10) -> RepairData:
    others = {"passing": passing, "pattern": pattern}
    return RepairData(
        Many(60),
        retained and Many(retained),
        {},
        {},
        PREPROCESSING,
        classes,
        None,
        None if passing is None else 60 / (60 + passing),
        {},
        **{name: count and Many(count) for name, count in others.items()},
    )


# of 48 places; 60 failures
MIXTURES = {
    "failures alone": ({}, {}, {"failing": 48}),
    "failures alone have no share": ({}, {"failing_share": 0.25}, {"failing": 48}),
    "half": ({"retained": 900}, {}, {"failing": 24, "retained": 24}),
    "a quarter": ({"retained": 900}, {"failing_share": 0.25}, {"failing": 12, "retained": 36}),
    "no failure seen": ({"retained": 900}, {"failing_share": 0.0}, {"failing": 0, "retained": 48}),
    "natural proportion": (
        {"retained": 900, "passing": 180},
        {},
        {"failing": 6, "passing": 18, "retained": 24},
    ),
    "the population alone": ({"passing": 60}, {}, {"failing": 24, "passing": 24}),
    "half of it the pattern": (
        {"retained": 900, "pattern": 900},
        {},
        {"failing": 12, "retained": 24, "pattern": 12},
    ),
    "thirds": (
        {"retained": 900, "pattern": 900},
        {"failing_share": 2 / 3},
        {"failing": 16, "retained": 16, "pattern": 16},
    ),
    "all four": (
        {"retained": 900, "passing": 60, "pattern": 900},
        {"pattern_share": 0.5, "failing_share": 0.5},
        {"failing": 6, "passing": 6, "retained": 24, "pattern": 12},
    ),
    "the pattern and no failure": (
        {"retained": 900, "passing": 60, "pattern": 900},
        {"pattern_share": 1.0},
        {"failing": 0, "passing": 0, "retained": 24, "pattern": 24},
    ),
    "retained examples alone": (
        {"retained": 900, "passing": 60, "pattern": 900},
        {"failing_share": 0.0},
        {"failing": 0, "passing": 0, "retained": 48, "pattern": 0},
    ),
    "rounding silences none": (
        {"retained": 900, "passing": 6000},
        {"failing_share": 0.05},
        {"failing": 1, "passing": 1, "retained": 46},
    ),
}


@pytest.mark.parametrize("name", MIXTURES)
def test_the_places_of_a_batch(name):
    populations, options, expected = MIXTURES[name]
    training = Training(batch_size=48, max_repeats=None, **options)
    assert counts(training, known(**populations)) == expected


# 60 failures, in 100 steps of 48: 24 of each batch would repeat them 40 times
@pytest.mark.parametrize(
    ("populations", "repeats", "expected"),
    [
        ({"retained": 900}, 20.0, {"failing": 12, "retained": 36}),
        ({"retained": 900}, 50.0, {"failing": 24, "retained": 24}),
        ({"retained": 900, "passing": 60}, 10.0, {"failing": 6, "passing": 6, "retained": 36}),
        ({"retained": 900}, 1.0, {"failing": 10, "retained": 38}),  # a fifth in any case
        ({"retained": 900, "pattern": 900}, 10.0, {"failing": 6, "retained": 30, "pattern": 12}),
        ({"retained": 900, "pattern": 900}, 0.01, {"failing": 2, "retained": 34, "pattern": 12}),
        ({}, 10.0, {"failing": 48}),  # nothing else is there to take the places
    ],
)
def test_few_failures_are_not_repeated_too_often(populations, repeats, expected):
    training, data = Training(steps=100, batch_size=48, max_repeats=repeats), known(**populations)
    assert counts(training, data) == expected
    asked = counts(replace(training, max_repeats=None), data)
    assert bool(rarer(training, data)) == (asked != expected)


def test_points_of_a_property_are_as_many_as_one_likes():
    data = replace(known(retained=900), violation_rate=0.1)
    assert rarer(Training(max_repeats=0.1), data) == ()


@pytest.mark.parametrize(
    ("populations", "given", "expected"),
    [
        ({"retained": 9}, None, 0.0),
        ({"retained": 9, "classes": 2}, None, 1.0),
        ({"passing": 9}, None, 1.0),
        ({"passing": 9}, 0.25, 0.25),
    ],
)
def test_the_weight_of_the_wrong_class(populations, given, expected):
    assert wrong_class_weight(Training(wrong_class_weight=given), known(**populations)) == expected


def test_a_pattern_that_explains_half_has_half_of_its_share():
    data = replace(known(retained=900, pattern=900), pattern_explains=0.5)
    mixed = counts(Training(batch_size=48, max_repeats=None), data)
    assert mixed == {"failing": 18, "retained": 24, "pattern": 6}


@pytest.mark.parametrize("name", ["failing_share", "pattern_share", "wrong_class_weight"])
def test_shares_are_shares(name):
    with pytest.raises(OptionError, match=f"{name} is a share from 0 to 1"):
        Mixing(**{name: 1.5})


def test_batches_have_every_population_and_answers_of_failures_only(data):
    more = replace(data, passing=data.retained.subset(torch.arange(20)), pattern=data.retained)
    batches = Batches(more, Training(batch_size=24), quiet(), "test")
    batch = batches.take()
    assert {part.name: len(part.rows) for part in batch.parts} == counts(batches.training, more)
    answers = dict(
        zip(
            [part.name for part in batch.parts],
            batch.answers.split([len(part.rows) for part in batch.parts]),
            strict=True,
        )
    )
    assert (answers.pop("failing") >= 0).all() and len(answers) == 3
    assert all((each == -1).all() for each in answers.values())


@pytest.mark.parametrize("right", ["failing", "passing", "retained"])
def test_selection_estimates_the_accuracy_of_the_population(data, right):
    """Failing and passing examples count in their natural proportion, retained ones as much as
    both."""
    passing = data.retained.subset(torch.arange(60))
    selection = dict(data.selection) | {"passing": passing}
    failing = data.failing.subset(torch.arange(20))
    more = replace(data, failing=failing, passing=passing, selection=selection, error_rate=0.25)
    shares = {"failing": 0.25 / 2, "passing": 0.75 / 2, "retained": 0.5}

    class Answers:
        """Right on one population, and as sure as can be."""

        def predict(self, name):
            labels = selection[name].labels
            answers = labels if name == right else labels + 1
            return Prediction(answers, torch.zeros(len(labels)), answers == labels)

    assert more.natural_rate == 0.25
    anything = Choosing(max_clean_loss=None, max_class_loss=None)
    assert objective(Answers(), more, anything) == pytest.approx(shares[right])
