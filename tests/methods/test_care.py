"""CARE: effects by hand, where the outputs are linear in the neurons; and a neuron that is too weak,
which it must find and strengthen.
"""

from dataclasses import replace

import planted
import pytest
import torch
from networks import correlating

import timm_repair
from timm_repair.data.preparing import prepare
from timm_repair.errors import OptionError
from timm_repair.gradient_free.causes import effects, hidden_layer, most_responsible, watched
from timm_repair.gradient_free.neurons import doing
from timm_repair.gradient_free.scaling import judges_of
from timm_repair.methods.care import Care
from timm_repair.models.weights import owners
from timm_repair.runtime.runtime import Runtime
from timm_repair.training.job import Job
from timm_repair.training.options import Training


@pytest.fixture
def weak() -> torch.nn.Module:
    """The outgoing weights of the fourth hidden unit are a tenth of what they were, and a bias is
    above what they give: pictures of the fourth class are taken for the first.
    """
    model = correlating()
    with torch.no_grad():
        model[4].weight[3, 3] = 0.1
        model[4].bias[0] = 2.0
    return model


def test_effects_by_hand(weak):
    wrong, right = planted.wrong_by(weak, planted.pictures(120, seed=1))
    assert {label for _, label in wrong} == {3}
    runtime = Runtime(progress=False)
    data = prepare(weak, wrong, retain=right, holdout=None, runtime=runtime)
    job, options = Job(weak, data, Training(), runtime), Care()
    site = hidden_layer(job, None)
    assert (site.tap.layer, site.tap.channels) == ("2", 10), "not the outputs"
    judges = judges_of(job, owners(weak, ["2.weight", "4.weight"]), options, rounds=1)
    outputs = watched(judges, 5)
    assert sorted(outputs.tolist()) == [0, 3], "failures are of the one, and taken for the other"
    images = torch.cat([each.pixels(range(len(each))) for each in judges.sets.values()])
    hidden = weak[:4](data.preprocessing.normalize(images)).detach().double()
    slopes = weak[4].weight[outputs].detach().double()
    spread = slopes.abs() * (hidden.amax(0) - hidden.amin(0))
    found = effects(judges, site, outputs, values=4)
    assert torch.allclose(found, spread, rtol=1e-3, atol=1e-5)
    found = effects(judges, site, outputs, values=None)
    assert torch.allclose(found, slopes.abs(), rtol=1e-3, atol=1e-5)
    assert most_responsible(spread, 2).tolist() == [0, 3], "the first of either list"
    assert not any(module._forward_hooks for module in weak.modules())


def test_lists_are_merged_in_turn():
    found = torch.tensor([[9.0, 8.0, 7.0, 0.0, 1.0], [0.0, 9.0, 1.0, 8.0, 2.0]])
    assert most_responsible(found, 2).tolist() == [0, 1]
    assert most_responsible(found, 3).tolist() == [0, 1, 3], "the second has one of them already"


def test_a_neuron_of_a_convolution_is_set_at_all_positions():
    model = planted.classifier()
    x = planted.inputs(model, planted.pictures(4))
    runtime = Runtime(progress=False)
    wrong = planted.mislabelled(model, planted.pictures(40))
    data = prepare(model, wrong, retain=planted.pictures(40, 1), holdout=None, runtime=runtime)
    site = hidden_layer(Job(model, data, Training(), runtime), ["layer2"])
    assert site.tap.layer.startswith("layer2.")
    module, seen = model.get_submodule(site.tap.path), []
    with torch.no_grad(), doing(model, site.tap, 3, lambda state: torch.full_like(state, 0.25)):
        hook = (
            module.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
            if site.tap.before
            else module.register_forward_hook(lambda _, __, output: seen.append(output.clone()))
        )
        model(x)
        hook.remove()
    assert (seen[0][:, 3] == 0.25).all() and (seen[0][:, 2] != 0.25).any()


@pytest.mark.parametrize("effect", ["values", "step"])
def test_a_neuron_that_is_too_weak_is_strengthened(weak, effect):
    wrong, right = planted.wrong_by(weak, planted.pictures(300, seed=1))
    given = {"retain": right, "method": "care", "effect": effect, "neurons": 2, "reach": 3.0}
    repaired = timm_repair.repair(weak, wrong, **given, particles=10, steps=20, progress=False)
    assert "outputs 0, 3 are 0, 3" in repaired.report.notes[0]
    assert "2 of 10 neurons were scaled" in repaired.report.notes[1]
    expected = weak[4].weight.detach().clone()
    expected[:, [0, 3]] = repaired.model[4].weight.detach()[:, [0, 3]]
    assert torch.equal(repaired.model[4].weight, expected)
    assert (planted.margins(repaired.model, planted.pictures(200, seed=7)) > 0).all()


def of_classifier() -> Job:
    model, runtime = planted.classifier(), Runtime(progress=False)
    wrong = planted.mislabelled(model, planted.pictures(40))
    data = prepare(model, wrong, retain=planted.pictures(40, 1), holdout=None, runtime=runtime)
    return Job(model, data, Training(), runtime)


class NamedBackwards(torch.nn.Module):
    """Its layers are named in another order than they are run in."""

    def __init__(self, body: torch.nn.Module):
        super().__init__()
        self.pretrained_cfg, self.num_classes = body.pretrained_cfg, body.num_classes
        self.outputs = torch.nn.Linear(5, 10)
        self.second, self.first = torch.nn.Conv2d(4, 5, 3), torch.nn.Conv2d(1, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.outputs(self.second(self.first(x).relu()).relu().mean((2, 3)))


def test_the_last_layer_is_the_one_that_is_run_last():
    job = of_classifier()
    job = replace(job, model=NamedBackwards(job.model).eval())
    assert hidden_layer(job, None).tap.layer == "second"


def test_negative_factors_are_refused_where_they_come_before_an_activation():
    job = of_classifier()
    with pytest.raises(OptionError, match="reach is at most 1"):
        Care(reach=3.0).repair(job.model, job.data, job.runtime)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"effect": "vales"}, "did you mean 'values'"),
        ({"values": 1}, "at least 2"),
        ({"reach": 0.0}, "reach is positive"),
        ({"blocks": 2}, "blocks= is not used by care"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(OptionError, match=message):
        timm_repair.methods.named("care", **options)
