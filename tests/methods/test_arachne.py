"""Arachne: its scores, by hand and by slow references of the paper; its two optimizers; and one
weight that was spoilt, which both versions must find and mend.
"""

from dataclasses import replace

import numpy as np
import planted
import pytest
import torch
from networks import correlating
from torch import nn
from torch.nn import functional as F

import timm_repair
from timm_repair.data.preparing import prepare
from timm_repair.errors import DataError, OptionError
from timm_repair.gradient_free.evolution import DITHER, Evolution
from timm_repair.gradient_free.impact import (
    forward_impacts,
    forward_means,
    loss_gradients,
    weighted_layers,
)
from timm_repair.gradient_free.judging import Answers
from timm_repair.gradient_free.patching import Patch, front
from timm_repair.gradient_free.swarm import CONSTRICTION, constricted
from timm_repair.methods.arachne import Arachne, fitness
from timm_repair.runtime.runtime import Runtime
from timm_repair.training.job import Job
from timm_repair.training.options import Training


@pytest.fixture
def small() -> nn.Module:
    """A convolution with a stride and a border, SiLU, a linear layer; no batch norm."""
    torch.manual_seed(3)
    model = nn.Sequential(
        nn.Conv2d(1, 3, 5, stride=8, padding=2), nn.SiLU(), nn.Flatten(), nn.Linear(48, 4)
    )
    model.num_classes = 4
    model.pretrained_cfg = {
        "input_size": (1, 32, 32),
        "mean": (0.5,),
        "std": (0.25,),
        "crop_pct": 1.0,
    }
    return model.eval()


def job_of(model: nn.Module) -> Job:
    wrong = planted.mislabelled(model, planted.pictures(12, classes=4))
    right = [
        (image, (label - 1) % 4)
        for image, label in planted.mislabelled(model, planted.pictures(20, 1, classes=4))
    ]
    runtime = Runtime(progress=False, eval_batch_size=8)
    data = prepare(model, wrong, retain=right, holdout=None, runtime=runtime)
    return Job(model, data, Training(), runtime)


def patches(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """(n, positions, weights of a filter) what arrives at each weight of the convolution."""
    conv = model[0]
    return F.unfold(x, conv.kernel_size, padding=conv.padding, stride=conv.stride).transpose(1, 2)


def test_gradients_and_forward_means_by_hand(small):
    job = job_of(small)
    failing = job.data.failing
    x = job.data.preprocessing.normalize(failing.pixels(range(len(failing))))
    loss = F.cross_entropy(small(x), failing.labels, reduction="sum")
    expected = torch.autograd.grad(loss, [small[0].weight, small[3].weight])
    found = loss_gradients(job, ["0", "3"], [failing])
    for path, gradient in zip(("0", "3"), expected, strict=True):
        assert torch.allclose(found[path].float(), gradient.abs(), rtol=1e-4, atol=1e-6)
    with torch.no_grad():
        arrived = {"0": patches(small, x).mean(1), "3": small[:3](x)}
        sizes = {"0": patches(small, x).abs().mean(1), "3": small[:3](x).abs()}
        for path in ("0", "3"):
            weight = small[int(path)].weight.flatten(1)
            for given, absolute in ((arrived, False), (sizes, True)):
                means = forward_means(job, [path], [failing], absolute=absolute)[path].flatten(1)
                reference = (given[path].mean(0) * weight).abs().double()
                assert torch.allclose(means, reference, rtol=1e-4, atol=1e-7)
    assert all(parameter.grad is None for parameter in small.parameters())
    assert not any(module._forward_pre_hooks for module in small.modules())


def test_forward_impacts_by_a_slow_reference(small):
    """Front times behind, position by position, as the paper has them."""
    job = job_of(small)
    failing = job.data.failing
    x = job.data.preprocessing.normalize(failing.pixels(range(len(failing))))
    first = small[0](x)
    hidden = small[2](small[1](first))
    (gradient,) = torch.autograd.grad(small[3](hidden).sum(), first)
    shares = gradient.abs().flatten(1) / gradient.abs().flatten(1).sum(1, keepdim=True)
    behind = shares.mean(0).reshape(3, -1)  # (channels, positions)
    weight, impact = small[0].weight.flatten(1).detach(), torch.zeros(3, 25)
    for channel in range(3):
        for position in range(behind.shape[1]):
            pull = (patches(small, x)[:, position] * weight[channel]).abs()
            in_front = (pull / pull.sum(1, keepdim=True)).mean(0)
            impact[channel] += in_front * behind[channel, position]
    pulls = (hidden.detach()[:, None] * small[3].weight.detach()).abs()
    last = (pulls / pulls.sum(2, keepdim=True)).mean(0) / 4  # each logit counts the same
    found = forward_impacts(job, ["0", "3"], [failing])
    assert torch.allclose(found["0"].flatten(1).float(), impact, rtol=1e-3, atol=1e-7)
    assert torch.allclose(found["3"].float(), last, rtol=1e-3, atol=1e-7)


class Shifted(nn.Module):
    """A classifier whose answers are shifted by what a layer makes of a table: once for
    all images, as of relative positions.
    """

    def __init__(self, body: nn.Module):
        super().__init__()
        self.body, self.shift = body, nn.Linear(2, 1)
        self.table = nn.Buffer(torch.randn(4, 2))
        self.num_classes, self.pretrained_cfg = 4, body.pretrained_cfg

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x) + self.shift(self.table).flatten()


def test_a_layer_that_runs_for_no_image_has_no_weights_to_blame(small):
    job = job_of(small)
    job = replace(job, model=Shifted(small).eval())
    paths = weighted_layers(job)
    assert paths == ["body.0", "body.3"]
    forward_impacts(job, paths, [job.data.failing])


def test_the_pareto_front():
    one = torch.tensor([1.0, 3.0, 2.0, 3.0, 0.0, 2.0])
    other = torch.tensor([5.0, 1.0, 3.0, 0.5, 4.0, 3.0])
    assert front(one, other).tolist() == [0, 1, 2], "of equal pairs the first"
    generator = torch.Generator().manual_seed(0)
    one, other = torch.rand(2, 200, generator=generator)
    beaten = (one[:, None] < one) & (other[:, None] < other)
    assert front(one, other).tolist() == (~beaten.any(1)).nonzero().flatten().tolist()


def test_fitness_by_hand():
    """Two failures, of which one is right now; four others, of which one is broken."""
    failing = Answers(torch.tensor([True, False]), torch.zeros(2), torch.tensor([1.0, 3.0]))
    losses = torch.tensor([0.0, 0.5, 0.5, 1.0])
    right = Answers(torch.tensor([True, True, True, False]), torch.zeros(4), losses)
    assert float(fitness(failing, right)) == pytest.approx(-(2 / 3 + 4 / 1.5))
    assert float(Arachne()._fitness(failing, right)) == pytest.approx(-(3 + 0.5 + 10 * (1 + 0.25)))


def test_a_patch_changes_its_weights_and_nothing_else(small):
    before = {name: tensor.clone() for name, tensor in small.state_dict().items()}
    patch = Patch(small, {"0.weight": torch.tensor([7, 74]), "3.weight": torch.tensor([50])})
    patch.apply(torch.tensor([1.0, 2.0, 3.0]))
    before["0.weight"].view(-1)[[7, 74]] = torch.tensor([1.0, 2.0])
    before["3.weight"].view(-1)[50] = 3.0
    assert all(torch.equal(small.state_dict()[name], before[name]) for name in before)
    weight = small[3].weight.detach().double().numpy()
    expected = [3.0, weight.mean(), weight.std(), weight.min(), weight.max()]
    assert np.allclose(patch.siblings()[:, 2], expected)


SIBLINGS = np.array([[0.3, 0.4], [0.5, 0.0], [0.1, 0.2], [0.2, -1.0], [0.8, 0.5]])


def test_evolution_makes_its_candidates_as_the_paper_says():
    """y = clip(a + F (b - c)) with one F a generation, whatever pymoo does inside."""
    evolution = Evolution.of_weights(SIBLINGS, population=12, crossover=0.7, seed=1)
    low, high = np.array([0.1, -2.0]), np.array([1.6, 1.0])
    parents = evolution.ask().numpy()
    assert (parents >= low).all() and (parents <= high).all()
    evolution.tell(torch.zeros(12))
    children = evolution.ask().numpy()
    assert (children >= low).all() and (children <= high).all()
    factor = float(np.random.default_rng(1).uniform(*DITHER, size=2)[1])
    a, b, c = np.meshgrid(*[range(12)] * 3, indexing="ij")
    donors = np.clip(parents[a] + factor * (parents[b] - parents[c]), low, high).reshape(-1, 2)
    for child, parent in zip(children, parents, strict=True):
        changed = child != parent
        assert changed.any(), "one coordinate is forced"
        assert (np.abs(donors - child)[:, changed] < 1e-12).all(1).any()


def test_the_swarm_moves_as_the_paper_says():
    assert CONSTRICTION == pytest.approx(2 / (2.1 + 0.41**0.5))
    swarm = constricted(SIBLINGS, particles=50, attraction=4.1, seed=0)
    first = swarm.ask()
    assert first[0].tolist() == [0.3, 0.4], "the weights as they are"
    assert (first.mean(0) - torch.tensor([0.5, 0.0])).abs().max() < 0.1
    assert first.std(0).tolist() == pytest.approx([0.1, 0.2], rel=0.3)
    costs = (first - torch.tensor([0.6, 0.1])).square().sum(1)
    swarm.tell(costs)
    # from rest: x + χ r2 (best - x), since each is its own best so far
    pull = (swarm.ask() - first) / (first[costs.argmin()] - first)
    pull = pull[costs.argsort()[1:]] / CONSTRICTION
    assert (pull >= -1e-9).all() and (pull <= 4.1 + 1e-9).all() and pull.max() > 3


def spoilt(model: nn.Module, label: int = 3) -> tuple[nn.Module, int]:
    """A copy with one weight of the head so low that no picture of a class gets its label; and which
    weight that is, counted as if it were flat.
    """
    head = model.get_classifier()
    examples = [pair for pair in planted.pictures(100, 5) if pair[1] == label]
    with torch.no_grad():
        arrived = model.forward_head(
            model.forward_features(planted.inputs(model, examples)), pre_logits=True
        )
        column = int(arrived.amin(0).argmax())
        drop = (planted.margins(model, examples).max() + 5) / arrived[:, column].min()
        head.weight[label, column] -= drop
    return model, label * head.weight.shape[1] + column


def test_one_spoilt_weight_of_the_last_layer_is_found_and_mended():
    model, place = spoilt(planted.classifier())
    wrong, right = planted.wrong_by(model, planted.pictures(300, seed=1))
    assert {label for _, label in wrong} == {3}
    given = {"retain": right, "method": "arachne", "version": 1, "progress": False}
    repaired = timm_repair.repair(model, wrong, **given, steps=20, population=20)
    after, before = (m.state_dict() for m in (repaired.model, model))
    changed = after["fc.weight"].flatten() != before["fc.weight"].flatten()
    assert changed[place]
    unseen = [pair for pair in planted.pictures(200, seed=7) if pair[1] == 3]
    assert (planted.margins(repaired.model, unseen) > 0).all()
    assert (planted.margins(repaired.model, right) > 0).float().mean() > 0.98
    rows = [row["loss"] for row in repaired.report.history]
    assert rows == sorted(rows, reverse=True), "the best so far"
    assert "fc.weight" in repaired.report.notes[0]


def test_of_all_layers_the_spoilt_weight_is_found_and_mended():
    model = correlating()
    with torch.no_grad():
        model[4].weight[3, 3] = -1.0
    wrong, right = planted.wrong_by(model, planted.pictures(300, seed=1))
    assert {label for _, label in wrong} == {3} and len(right) == 270
    given = {"retain": right, "method": "arachne", "version": 2, "progress": False}
    repaired = timm_repair.repair(model, wrong, **given, steps=12, population=20)
    expected = model[4].weight.detach().clone()
    expected[3, 3] = repaired.model[4].weight[3, 3]
    assert torch.equal(repaired.model[4].weight, expected), "one weight on the front"
    assert torch.equal(repaired.model[2].weight, model[2].weight)
    unseen = planted.pictures(200, seed=7)
    assert (planted.margins(repaired.model, unseen) > 0).all()


def test_what_is_before_the_patch_is_computed_once(monkeypatch):
    model, _ = spoilt(planted.classifier())
    wrong, right = planted.wrong_by(model, planted.pictures(200, seed=1))
    given = {"retain": right, "method": "arachne", "version": 1, "population": 8, "steps": 4}
    runs: list[int] = []
    models = []

    def count(module, inputs):
        runs.append(len(inputs[0]))

    for cache in ("auto", "never"):
        runs.clear()
        with torch.no_grad():
            handle = (
                model.conv1.register_forward_pre_hook(count) if hasattr(model, "conv1") else None
            )
        try:
            models.append(
                timm_repair.repair(model, wrong, **given, cache=cache, progress=False).model
            )
        finally:
            if handle:
                handle.remove()
    one, other = (m.state_dict() for m in models)
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"version": 3}, "versions 1 and 2"),
        ({"population": 3}, "at least 4"),
        ({"attraction": 0.0}, "attraction must be positive"),
        ({"blocks": 2}, "blocks= is not used by arachne"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(OptionError, match=message):
        timm_repair.methods.named("arachne", **options)


def test_without_anything_right_it_says_what_to_give():
    model, _ = spoilt(planted.classifier())
    wrong, _ = planted.wrong_by(model, planted.pictures(200, seed=1))
    with pytest.raises(DataError, match="give retain="):
        timm_repair.repair(model, wrong, method="arachne", steps=2, progress=False)
