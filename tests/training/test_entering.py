"""The prefix: entering a model at a block gives what the whole model gives, bit for bit, or is not
done at all.
"""

import planted
import pytest
import torch
from torch import nn

from timm_repair.models.entering import Place, entrances, resumes_exactly, starting_at
from timm_repair.models.partition import blocks
from timm_repair.models.temporary import only_trainable
from timm_repair.models.tracing import trace

FAMILIES = {
    "test_resnet": {},
    "vgg11_bn": {"mlp_ratio": 0.02},
    "densenet121": {},
    "efficientnet_b0": {},
}


def parts(model: nn.Module):
    return trace(model, (1, 32, 32)), [block for block in blocks(model) if block.repairable]


@pytest.mark.parametrize(("name", "options"), FAMILIES.items())
def test_every_block_of_the_four_families_can_be_entered(name, options):
    model, images = planted.network(name, **options), torch.randn(4, 1, 32, 32)
    calls, found = parts(model)
    before = [path for path, _ in model.named_parameters()]
    ways = entrances(model, found, calls, lambda rows: images[rows], 4)
    with torch.no_grad():
        whole = model(images)
        for block in found:
            assert ways[block.name].maps.shape == (4, *(block.in_shape or ()))
            with ways[block.name].entered() as logits_of:
                assert torch.equal(logits_of(torch.arange(4)), whole), block.name
    assert [path for path, _ in model.named_parameters()] == before
    with torch.no_grad():
        assert torch.equal(model(images), whole)


def test_gradients_are_those_of_the_whole_model():
    model, images = planted.network(), torch.randn(4, 1, 32, 32)
    calls, found = parts(model)
    block = found[2]
    weights = [model.get_parameter(name) for name in block.parameters]
    way = entrances(model, [block], calls, lambda rows: images[rows], 4)[block.name]
    with only_trainable(model, block.parameters):
        expected = torch.autograd.grad(model(images).logsumexp(1).sum(), weights)
        with way.entered() as logits_of:
            assert logits_of(torch.arange(4)).requires_grad
            found = torch.autograd.grad(logits_of(torch.arange(4)).logsumexp(1).sum(), weights)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


class Doubling(nn.Module):
    """Does something between its modules on the way to the second: it cannot be entered there."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.fc = (
            nn.Conv2d(1, 4, 3),
            nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU()),
            nn.Linear(4, 10),
        )

    def forward(self, x):
        return self.fc(self.second(2 * self.first(x)).mean((2, 3)))


def test_a_model_that_cannot_be_entered_is_run_from_the_images():
    model, images = Doubling().eval(), torch.randn(3, 1, 32, 32)
    calls = trace(model, (1, 32, 32))
    (block,) = blocks(model, names=["second"], input_size=(1, 32, 32))
    assert resumes_exactly(model, Place.at(block.paths[0], calls), images, model.second) is None
    way = entrances(model, [block], calls, lambda rows: images[rows], 3)["second"]
    assert way.maps is None
    with way.entered() as logits_of, torch.no_grad():
        assert torch.equal(logits_of(torch.tensor([2, 0])), model(images[[2, 0]]))


def test_the_budget_keeps_the_small_maps_and_an_error_the_model():
    model, images = planted.network(), torch.randn(4, 1, 32, 32)
    calls, found = parts(model)
    sizes = {block.name: 4 * 4 * torch.Size(block.in_shape).numel() for block in found}
    ways = entrances(model, found, calls, lambda rows: images[rows], 4, budget=min(sizes.values()))
    assert [name for name, way in ways.items() if way.maps is not None] == [
        min(sizes, key=sizes.get)
    ]
    with pytest.raises(ZeroDivisionError), starting_at(model, Place.at(found[-1].paths[0], calls)):
        raise ZeroDivisionError
    assert model(images).shape == (4, 10)
