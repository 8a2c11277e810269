"""Places: which blocks are repaired together, by the score, by what is known of the failures, and by
a trial.
"""

from dataclasses import replace

import pytest
import torch
from making import quiet

from timm_repair.localization import places
from timm_repair.localization.localization import Localization
from timm_repair.localization.target import Target
from timm_repair.models import partition
from timm_repair.training.job import Job
from timm_repair.training.options import Training
from timm_repair.training.trials import brings

TRAINING = Training(steps=12, batch_size=16, evaluations=1, hflip=0.0, shift=0.0)


@pytest.fixture
def job(classifier, data) -> Job:
    return Job(classifier, data, TRAINING, quiet())


def blocks(job: Job):
    size = job.data.preprocessing.input_size
    return [b for b in partition.blocks(job.model, input_size=size) if b.repairable]


def found(worst: str) -> Localization:
    return Localization("rgn", {f"layer{i}": float(f"layer{i}" == worst) for i in range(1, 5)})


@pytest.fixture
def tried(monkeypatch) -> list:
    """The sets that a trial was made of; the last is the best of them."""
    seen = []

    def counted(job, some):
        seen.append([b.name for b in some])
        return float(len(seen))

    monkeypatch.setattr(places, "brings", counted)
    return seen


@pytest.mark.parametrize(
    ("corrupted", "worst", "expected"),
    [
        (True, "layer1", []),
        (True, "layer4", [["layer1", "layer2"], ["layer4"]]),
        (False, "layer3", [["layer3"], ["layer1", "layer2"], ["layer4"]]),
        (False, "layer2", [["layer1", "layer2"], ["layer4"]]),
        (False, "layer4", [["layer4"], ["layer1", "layer2"]]),
    ],
)
def test_what_is_tried_follows_from_what_is_known(job, tried, corrupted, worst, expected):
    data = replace(job.data, pattern=job.data.retained) if corrupted else job.data
    told = places.placed(replace(job, data=data), blocks(job), found(worst))
    assert tried == expected
    chosen = told.details["places"][0]["blocks"]
    assert chosen == (expected[-1] if expected else ["layer1", "layer2"])
    assert len(told.details["places"]) == max(len(expected), 1)
    assert told.ranking == found(worst).ranking


def test_a_model_of_one_block_has_one_place(job, tried):
    (only,) = blocks(job)[:1]
    scored = Localization("rgn", {only.name: 1.0})
    assert places.placed(job, [only], scored) is scored and not tried
    corrupted = replace(job, data=replace(job.data, pattern=job.data.retained))
    told = places.placed(corrupted, [only], scored).details["places"]
    assert [each["blocks"] for each in told] == [[only.name]] and not tried


def test_of_two_blocks_both_are_repaired(job, tried):
    two = blocks(job)[:2]
    for worst in ("layer1", "layer2"):
        told = places.placed(job, two, found(worst)).details["places"]
        assert [each["blocks"] for each in told] == [["layer1", "layer2"]] and not tried


def test_a_trial_leaves_the_model_as_it_was(job):
    before = {name: value.clone() for name, value in job.model.state_dict().items()}
    one, again = (brings(job, blocks(job)[:2]) for _ in range(2))
    assert one == again and not job.runtime.stages
    after = job.model.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        ({}, True),
        ({"block": "layer2"}, False),
        ({"blocks": 2}, False),
        ({"score": "rgn"}, False),
        ({"granularity": "layer"}, False),
    ],
)
def test_who_asks_for_blocks_or_a_score_gets_these(job, tried, options, asked):
    _, chosen, localization = Target(**options).choose(job.model, job.data, TRAINING, quiet())
    assert bool(tried) == asked
    if asked:
        assert localization is not None
        assert [b.name for b in chosen] == localization.details["places"][0]["blocks"]
