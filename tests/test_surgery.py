"""Surgery: putting back what was taken out changes nothing, timm goes on working, and temporary changes end."""

import pickle
from types import SimpleNamespace

import pytest
import timm
import torch
from torch import nn

from timm_repair.errors import OptionError, PartitionError
from timm_repair.partition import blocks
from timm_repair.surgery import (
    Swapped,
    capture,
    capture_inputs,
    evaluating,
    extract,
    only_trainable,
    restore,
    swap,
)

CASES = [
    ("resnet18", "stage"), ("resnet18", "unit"), ("vgg11_bn", "stage"), ("vgg11_bn", "unit"), ("densenet121", "stage"),
    ("densenet121", "pair"), ("efficientnet_b0", "stage"), ("efficientnet_b0", "unit"),
]  # fmt: skip


def make(name: str) -> nn.Module:
    torch.manual_seed(0)
    options = {"mlp_ratio": 0.02} if name.startswith("vgg") else {}  # or its head has a hundred million parameters
    return timm.create_model(name, num_classes=5, **options).eval()


def image() -> torch.Tensor:
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def repairable(model: nn.Module, granularity: str) -> list:
    return [block for block in blocks(model, granularity=granularity, input_size=(3, 64, 64)) if block.repairable]


@pytest.mark.parametrize(("name", "granularity"), CASES)
def test_swapping_in_an_equal_block_changes_no_logit_and_restore_undoes_it(name, granularity):
    model = make(name)
    before, names = model(image()), list(model.state_dict())
    found = repairable(model, granularity)
    old = []
    for block in found:
        old.append(extract(model, block))
        swap(model, block, old[-1])
        assert isinstance(model.get_submodule(block.paths[0]), Swapped)
    assert torch.equal(model(image()), before)
    for block, module in zip(found, old, strict=True):
        assert extract(model, block) is module
        restore(model, block, module)
    assert list(model.state_dict()) == names
    assert torch.equal(model(image()), before)


@pytest.mark.parametrize(("name", "granularity"), CASES)
def test_swapping_twice_does_not_nest(name, granularity):
    model = make(name)
    for _ in range(2):
        for block in repairable(model, granularity):
            swap(model, block, extract(model, block))
    names = list(model.state_dict())
    for block in repairable(model, granularity):
        old = extract(model, block)
        swap(model, block, nn.Identity())
        restore(model, block, old)
    assert list(model.state_dict()) == names, "what an earlier repair put in keeps its names"


@pytest.mark.parametrize(("name", "granularity"), [c for c in CASES if c[1] != "unit"])
def test_timm_goes_on_working(name, granularity):
    model = make(name)
    before = model.forward_intermediates(image(), intermediates_only=True)
    for block in repairable(model, granularity):
        swap(model, block, extract(model, block))
    after = model.forward_intermediates(image(), intermediates_only=True)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert model.get_classifier().weight.shape[0] == 5 if name != "vgg11_bn" else True
    copy = pickle.loads(pickle.dumps(model))
    assert torch.equal(copy(image()), model(image()))
    if name != "vgg11_bn":  # timm's VGG refuses gradient checkpointing, swapped or not
        model.set_grad_checkpointing(True)
        model.train()
        model(image()).sum().backward()
        model.set_grad_checkpointing(False)
        model.eval()
    model.reset_classifier(3)
    assert model(image()).shape == (2, 3)


def test_a_run_of_dense_layers_is_called_like_one():
    model = make("densenet121")
    run = extract(model, repairable(model, "pair")[0])
    features = [torch.randn(1, 64, 8, 8)]
    layer1, layer2 = model.features.denseblock1.denselayer1, model.features.denseblock1.denselayer2
    first = layer1(features)
    expected = torch.cat([first, layer2([features[0], first])], 1)
    assert torch.equal(run(features), expected) and torch.equal(run(features[0]), expected) and len(features) == 1


def test_a_block_of_another_model_is_refused():
    block = repairable(make("vgg11_bn"), "stage")[0]
    with pytest.raises(PartitionError, match="blocks"):
        extract(make("resnet18"), block)
    with pytest.raises(PartitionError, match="members"):
        restore(make("vgg11_bn"), block, nn.Sequential(nn.ReLU()))


def test_capture_sees_but_never_changes():
    model, seen = make("resnet18"), []
    before = model(image())
    functions = {"layer1": lambda module, inputs, output: seen.append(output.shape) or torch.zeros(1)}
    with (
        capture(model, functions),
        capture_inputs(model, {"layer2": lambda module, inputs: seen.append(inputs[0].shape)}),
    ):
        assert torch.equal(model(image()), before)
    model(image())
    assert seen == [(2, 64, 16, 16)] * 2


@pytest.mark.parametrize("failing", [{"layer1": None, "layer9": None}, {"layer1": lambda *_: 1 / 0}])
def test_no_hook_survives_an_error(failing):
    model = make("resnet18")
    with pytest.raises((PartitionError, ZeroDivisionError)), capture(model, failing):
        model(image())
    assert not any(module._forward_hooks for module in model.modules())


def test_only_trainable_and_evaluating_end():
    model = make("resnet18").train()
    model.layer2.eval()
    model.fc.bias.requires_grad_(False)

    def state():
        return [m.training for m in model.modules()], [p.requires_grad for p in model.parameters()]

    before = state()
    with pytest.raises(ZeroDivisionError), only_trainable(model, ["fc.bias"]), evaluating(model):
        assert [name for name, p in model.named_parameters() if p.requires_grad] == ["fc.bias"]
        assert not any(module.training for module in model.modules())
        raise ZeroDivisionError
    assert state() == before
    with pytest.raises(OptionError, match="fc.bais"), only_trainable(model, ["fc.bais"]):
        pass
    assert state() == before


def test_an_unknown_path_names_the_fix():
    with pytest.raises(PartitionError, match="again"):
        swap(make("resnet18"), SimpleNamespace(name="x", paths=("nowhere.0",)), nn.ReLU())
