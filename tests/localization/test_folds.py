"""Gradients by parts of the failures: equal to autograd's, and without the bias of a squared
norm.
"""

import planted
import pytest
import torch
from making import quiet, repair_data
from torch.nn import functional as F

from timm_repair.localization.folds import FOLDS, agreed_norm, folded_gradients, jackknife
from timm_repair.localization.scorers.gain import gain
from timm_repair.models.partition import blocks
from timm_repair.training.job import Job
from timm_repair.training.options import Training


@pytest.fixture(scope="module")
def failing():
    model = planted.network()
    return model, planted.mislabelled(model, planted.pictures(60))


def mean_gradient(model, examples, names, loss) -> dict[str, torch.Tensor]:
    data = repair_data(model, examples, None)
    inputs = data.preprocessing.normalize(data.failing.pixels(torch.arange(len(examples))))
    found = torch.autograd.grad(
        loss(model(inputs), data.failing.labels), [model.get_parameter(name) for name in names]
    )
    return dict(zip(names, found, strict=True))


def test_norms_and_products_are_those_of_autograd(failing):
    model, examples = failing
    names = ["layer1.0.conv1.weight", "layer3.0.bn1.weight"]
    found = folded_gradients(
        model, names, repair_data(model, examples, None), quiet(), wrong_class_weight=1.0
    )
    whole = mean_gradient(model, examples, names, F.cross_entropy)
    parts = [
        mean_gradient(model, examples[part::FOLDS], names, F.cross_entropy) for part in range(FOLDS)
    ]
    for name in names:
        assert found.norm(name) == pytest.approx(whole[name].norm().item(), rel=1e-4)
        expected = torch.tensor([[(a[name] * b[name]).sum().item() for b in parts] for a in parts])
        torch.testing.assert_close(found.grams[name].float(), expected, rtol=1e-4, atol=1e-7)


def test_the_gain_is_what_a_small_step_does_to_the_loss_of_other_failures(failing):
    """First order: at a rate that goes to zero, the mean over pairs of parts of what a step along
    one does for another.
    """
    model, examples = failing
    rate = 1e-4
    training = Training(learning_rate=rate, wrong_class_weight=1.0)
    found = gain(Job(model, repair_data(model, examples, None), training, quiet()), blocks(model))
    block = next(block for block in blocks(model) if block.name == "layer2")
    parts = [
        mean_gradient(model, examples[part::FOLDS], block.parameters, F.cross_entropy)
        for part in range(FOLDS)
    ]
    decreases = []
    for i, gradient in enumerate(parts):
        for j in range(FOLDS):
            if i != j:
                data = repair_data(model, examples[j::FOLDS], None)
                inputs = data.preprocessing.normalize(
                    data.failing.pixels(torch.arange(len(data.failing)))
                ).double()
                stepped = {
                    name: tensor.double()
                    for name, tensor in model.state_dict().items()
                    if tensor.is_floating_point()
                }
                moved = stepped | {name: stepped[name] - rate * g for name, g in gradient.items()}
                logits = [
                    torch.func.functional_call(model, state, (inputs,))
                    for state in (stepped, moved)
                ]
                losses = [F.cross_entropy(each, data.failing.labels) for each in logits]
                decreases.append((losses[0] - losses[1]).item())
    assert found.gains["layer2"] == pytest.approx(sum(decreases) / len(decreases), rel=0.05)


def test_noise_counts_for_nothing():
    """Gradients that agree on nothing have a large norm and no gain: products of different parts
    average to zero.
    """
    generator = torch.Generator().manual_seed(0)
    values, errors = [], []
    for _ in range(300):
        noise = torch.randn(FOLDS, 50, generator=generator, dtype=torch.float64)
        signal = torch.zeros(50, dtype=torch.float64)
        signal[0] = 2.0
        gram = (signal + noise) @ (signal + noise).T
        values.append(agreed_norm(gram))
        errors.append(jackknife(gram))
    values = torch.tensor(values)
    assert values.mean().item() == pytest.approx(4.0, abs=0.6)
    # of a statistic of pairs the jackknife errs on the safe side
    assert 1.0 < sum(errors) / len(errors) / values.std().item() < 1.7


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_failures(failing, count):
    model, examples = failing
    found = gain(
        Job(model, repair_data(model, examples[:count], None), Training(), quiet()),
        blocks(model)[1:3],
    )
    assert all(torch.tensor(list(found.suspiciousness.values())).isfinite())
    assert set(found.errors.values()) == {0.0} or count == 3


def test_leaving_out_a_part_is_the_norm_of_the_others(failing):
    model, examples = failing
    name = "layer1.0.conv1.weight"
    found = folded_gradients(
        model, [name], repair_data(model, examples, None), quiet(), wrong_class_weight=1.0
    )
    others = [example for i, example in enumerate(examples) if i % FOLDS != 1]
    assert found.norm(name, without=1) == pytest.approx(
        mean_gradient(model, others, [name], F.cross_entropy)[name].norm().item(), rel=1e-4
    )
