"""What a batch is made of, what it minimizes, and that its parts are it."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from cases import BUDGET
from training.batching import PLAIN, batches, plain

from timm_repair import methods
from timm_repair.errors import OptionError
from timm_repair.training.batches import Batches
from timm_repair.training.descent import Descent
from timm_repair.training.losses import batch_loss, batch_losses

# ---- batches


def test_two_classes_need_the_wrong_class(data, runtime):
    binary = replace(data, num_classes=2)
    assert Batches(binary, PLAIN, runtime, "test").wrong_class_weight == 1
    assert (
        Batches(data, replace(PLAIN, wrong_class_weight=None), runtime, "test").wrong_class_weight
        == 0
    )
    with pytest.raises(OptionError, match="two classes"):
        Batches(binary, replace(PLAIN, wrong_class_weight=0.0), runtime, "test")


@pytest.mark.parametrize(
    ("share", "expected"), [(0.5, 8), (0.25, 4), (0.0, 0), (1.0, 16), (0.1, 2)]
)
def test_the_share_of_failures(data, runtime, share, expected):
    images, labels, answers = batches(data, runtime, failing_share=share).draw()
    assert len(images) == len(labels) == len(answers) == 16
    assert (answers >= 0).sum() == expected
    failing = answers >= 0
    assert torch.equal(answers[failing], 1 - labels[failing]), (
        "it takes classes 0 and 1 for each other"
    )


def test_without_retained_examples_all_are_failures(data, runtime):
    assert (batches(data, runtime, retained=False, failing_share=0.25).draw()[2] >= 0).all()


def test_every_example_once_an_epoch(data, runtime):
    supply, seen = batches(data, runtime), []
    (_, _, count, order), _ = supply.supplies
    epoch, several = len(data.failing), 3
    for _ in range(several * epoch):
        (index,), (number,) = order.take(1).tolist()
        assert number == len(seen) // epoch
        seen.append(index)
    for start in range(0, several * epoch, epoch):
        assert sorted(seen[start : start + epoch]) == list(range(epoch))
    assert seen[:epoch] != seen[epoch : 2 * epoch] and count == 8


def test_pixels_labels_and_answers_belong_together(data, runtime):
    supply = batches(data, runtime, batch_size=4, failing_share=1.0)
    indices = torch.randperm(len(data.failing), generator=runtime.generator("test"))[:4]
    images, labels, answers = supply.draw()
    assert torch.equal(images, data.preprocessing.normalize(data.failing.pixels(indices)))
    assert torch.equal(labels, data.failing.labels[indices]) and torch.equal(
        answers, data.failing.answers[indices]
    )


def test_purposes_draw_independently(data, runtime):
    one, same, other = (batches(data, runtime, purpose=p).draw()[:2] for p in ("a", "a", "b"))
    assert all(map(torch.equal, one, same)) and not any(map(torch.equal, one, other))


@pytest.mark.parametrize("weight", [1.0, 0.5, 0.0])
def test_the_loss_by_hand(deployed, data, runtime, weight):
    with torch.no_grad():
        found = batch_loss(
            batches(data, runtime, wrong_class_weight=weight), plain(deployed, data, runtime)
        ).item()
        images, labels, answers = batches(data, runtime).draw()
        logits = deployed(images).double().tolist()
    expected = 0.0
    for row, label, answer in zip(logits, labels.tolist(), answers.tolist(), strict=True):
        # retained examples have the answer -1: no class
        weights = [weight if c == answer else 1.0 for c in range(10)]
        total = sum(w * math.exp(value) for w, value in zip(weights, row, strict=True))
        expected -= (row[label] - math.log(total)) / len(logits)
    assert found == pytest.approx(expected, rel=1e-4)


def test_weight_0_gives_the_wrong_class_no_gradient(classifier, data, runtime):
    logits = {}
    classifier.fc.register_forward_hook(
        lambda module, inputs, output: logits.update(kept=output) or output.retain_grad()
    )
    supply = batches(data, runtime, wrong_class_weight=0.0, failing_share=1.0)
    answers = batches(data, runtime, failing_share=1.0).draw()[2]
    batch_loss(supply, plain(classifier, data, runtime)).backward()
    gradient = logits["kept"].grad
    assert gradient.isfinite().all() and gradient.any()
    assert (gradient[torch.arange(len(answers)), answers].abs() < 1e-12).all()


@pytest.fixture
def accumulating(runtime):
    """Lets the accelerator accumulate gradients over so many parts of a batch."""
    yield lambda steps: setattr(runtime.accelerator, "gradient_accumulation_steps", steps)
    runtime.accelerator.gradient_accumulation_steps = 1


@pytest.mark.parametrize("pieces", [2, 5, 16])
def test_accumulated_gradients_are_those_of_the_batch(
    deployed, data, runtime, accumulating, pieces
):
    found, sizes = [], []
    for steps in (1, pieces):
        accumulating(steps)
        model = copy.deepcopy(deployed).eval()
        model.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
        descent = Descent(model.parameters(), PLAIN, runtime)
        row = descent.step(batch_losses(batches(data, runtime), plain(model, data, runtime)))
        found.append((row["loss"], [parameter.grad.clone() for parameter in model.parameters()]))
    (loss, gradients), (sum_of_losses, accumulated) = found
    assert (
        sizes[0] == 16
        and len(sizes) == 1 + pieces
        and sum(sizes[1:]) == 16
        and max(sizes[1:]) - min(sizes[1:]) <= 1
    )
    assert sum_of_losses == pytest.approx(loss, rel=1e-5)
    for one, other in zip(gradients, accumulated, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-3, atol=1e-5 * one.abs().max().item() + 1e-8)


def test_a_repair_with_accumulated_gradients(classifier, data, runtime, accumulating):
    accumulating(3)
    outcome = methods.named("archrepair", block="layer3", **BUDGET).repair(
        classifier, data, runtime
    )
    assert (
        all(math.isfinite(row["loss"]) for row in outcome.history)
        and len(outcome.history) == BUDGET["steps"]
    )


def test_each_part_of_a_batch_needs_an_example(data, runtime, accumulating):
    accumulating(17)
    with pytest.raises(OptionError, match="17 accumulated parts"):
        batches(data, runtime)
