"""Limits on harm: what of the retained examples may be lost, all in all and of each class."""

from dataclasses import replace

import pytest
import torch
from making import quiet

from timm_repair.methods import named
from timm_repair.training.limits import ENOUGH, Loss
from timm_repair.training.objective import objective
from timm_repair.training.options import Choosing, Training
from timm_repair.training.populations import Populations
from timm_repair.training.prefix.forward import Forward


class Known:
    """Examples of ten classes in turn, all of which the original has right."""

    def __init__(self, count: int):
        self.labels = torch.arange(count) % 10
        self.answers = self.labels.clone()


def right(images: Known, *, lost: dict[int, int]) -> torch.Tensor:
    """All but so many of each class."""
    found = torch.ones(len(images.labels), dtype=torch.bool)
    for label, count in lost.items():
        found[(images.labels == label).nonzero().flatten()[:count]] = False
    return found


def test_what_was_lost_is_counted_in_points():
    images = Known(1000)
    loss = Loss.of(right(images, lost={3: 30, 4: 2}), images)
    assert loss is not None and loss.worst is not None
    assert loss.all == pytest.approx(3.2 - 100 * (0.032 * 0.968 / 999) ** 0.5)
    # 30 points, less 1.64 standard errors of 100 draws
    error = (0.3 * 0.7 * 100 / 99 / 100) ** 0.5
    assert loss.worst == (pytest.approx(30 - 164 * error), 3)
    assert loss.excess(Choosing()) == pytest.approx(max(loss.all - 0.5, loss.worst[0] - 5))
    assert loss.excess(Choosing(max_class_loss=None)) == pytest.approx(loss.all - 0.5)
    assert loss.excess(Choosing(max_class_loss=None, max_clean_loss=4.0)) == 0
    told = loss.told(Choosing())
    assert told and f"{loss.all:.1f} points" in told and "class 3" in told
    assert loss.told(Choosing(max_clean_loss=None, max_class_loss=None)) is None


def test_what_was_won_makes_up_for_what_was_lost():
    images = Known(400)
    images.answers[:40] = (images.answers[:40] + 1) % 10  # wrong, and mended
    loss = Loss.of(right(images, lost={9: 4}), images)
    assert loss is not None and loss.all < -9.0


def test_of_a_class_with_few_examples_nothing_is_said():
    images = Known(10 * ENOUGH - 10)
    loss = Loss.of(right(images, lost={0: 10}), images)
    assert loss is not None and loss.worst is None


@pytest.mark.parametrize("name", ["max_clean_loss", "max_class_loss"])
@pytest.mark.parametrize("value", [-1.0, 101.0])
def test_limits_are_points(name, value):
    from timm_repair.errors import OptionError

    with pytest.raises(OptionError, match=f"{name} is in percentage points"):
        Training(**{name: value})


def test_above_a_limit_each_point_must_bring_much(classifier, data, runtime):
    """An answer that is right on all failures, and wrong on three retained examples of ten, is
    worse than the original; one that is wrong on one of ten is not.
    """
    selection = data.selection

    class Answers:
        def __init__(self, fixed: bool, spared: float):
            self.fixed, self.spared = fixed, spared

        def predict(self, name):
            from timm_repair.data.predicting import Prediction

            labels = selection[name].labels
            good = torch.full((len(labels),), self.fixed)
            if name == "retained":
                good = torch.arange(len(labels)) < self.spared * len(labels)
                good &= selection[name].answers == labels
            return Prediction(torch.where(good, labels, -1), torch.zeros(len(labels)), good)

    free = Choosing(max_clean_loss=None, max_class_loss=None)
    untouched = Answers(False, 1.0)
    asked = (0.7, Choosing(), False), (0.9, Choosing(), True), (0.7, free, True)
    for spared, choosing, better in asked:
        answers = Answers(True, spared), untouched
        values = [objective(each, data, choosing) for each in answers]  # type: ignore
        assert (values[0] > values[1]) == better


def test_a_repair_holds_its_limits_or_says_so(classifier, data):
    """A rate at which everything is forgotten: the original remains."""
    options = {"steps": 12, "batch_size": 16, "evaluations": 2, "learning_rate": 0.5}
    only = replace(data, retained=data.retained.subset(range(4)))
    before = {name: value.clone() for name, value in classifier.state_dict().items()}
    outcome = named("finetune", failing_share=1.0, **options).repair(classifier, only, quiet())
    forward = Forward(classifier, Populations(only, Training(), quiet()), quiet())
    loss = Loss.of(forward.predict("retained").right, only.selection["retained"])
    assert loss is not None
    told = any("limit on harm" in note for note in outcome.notes)
    assert (loss.excess(Choosing()) > 0) == told
    assert told or loss.all <= 0.5
    assert before.keys() == classifier.state_dict().keys()
