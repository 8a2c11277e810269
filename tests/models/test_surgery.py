"""Surgery: putting back what was taken out changes nothing, timm goes on working, and temporary
changes end.
"""

import pickle
from copy import deepcopy
from types import SimpleNamespace

import planted
import pytest
import torch
from models.plain_models import ResNet20, randomized, torchvision_model
from torch import nn

from timm_repair.architecture.skeleton import random_genotype, skeleton_of
from timm_repair.errors import OptionError, PartitionError
from timm_repair.hub.entry_point import apply_edits
from timm_repair.models.partition import blocks
from timm_repair.models.surgery import Swapped, extract, restore, swap
from timm_repair.models.temporary import capture, capture_inputs, evaluating, only_trainable
from timm_repair.runtime.runtime import Runtime

CASES = [
    ("resnet18", "stage"),
    ("resnet18", "unit"),
    ("vgg11_bn", "stage"),
    ("vgg11_bn", "unit"),
    ("densenet121", "stage"),
    ("densenet121", "pair"),
    ("densenet121", "unit"),
    ("efficientnet_b0", "stage"),
    ("efficientnet_b0", "unit"),
]


OPTIONS = {
    "vgg11_bn": {"mlp_ratio": 0.02},  # or its head has a hundred million parameters
    "densenet121": {"block_config": (2, 3, 2, 2)},
    "resnet18": {"zero_init_last": False},
}


def make(name: str) -> nn.Module:
    return randomized(planted.network(name, classes=5, in_chans=3, **OPTIONS.get(name, {})))


def image() -> torch.Tensor:
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def repairable(model: nn.Module, granularity: str) -> list:
    return [
        block
        for block in blocks(model, granularity=granularity, input_size=(3, 64, 64))
        if block.repairable
    ]


@pytest.mark.parametrize(("name", "granularity"), CASES)
def test_swapping_in_an_equal_block_changes_no_logit_and_restore_undoes_it(name, granularity):
    model = make(name)
    before, names = model(image()), list(model.state_dict())
    found = repairable(model, granularity)
    old = []
    for block in found:
        old.append(extract(model, block))
        swap(model, block, deepcopy(old[-1]))
        assert isinstance(model.get_submodule(block.paths[0]), Swapped)
    assert torch.equal(model(image()), before)
    for block, module in zip(found, old, strict=True):
        assert extract(model, block) is not module
        restore(model, block, module)
        assert len(block.paths) > 1 or model.get_submodule(block.paths[0]) is module
    assert list(model.state_dict()) == names
    assert torch.equal(model(image()), before)


@pytest.mark.parametrize(
    "name", ["ResNet20", "resnet18", "vgg16_bn", "densenet121", "efficientnet_b0"]
)
@pytest.mark.parametrize("granularity", ["stage", "pair"])
@torch.no_grad()
def test_so_it_does_in_models_that_timm_knows_nothing_of(name, granularity):
    if name != "ResNet20":
        pytest.importorskip("torchvision", reason="for want of torchvision")
    model = randomized(ResNet20() if name == "ResNet20" else torchvision_model(name))
    before, names = model(image()), list(model.state_dict())
    for turn in range(2):  # the second time on what the first has put in
        found = repairable(model, granularity)
        old = [extract(model, block) for block in found]
        for block, module in zip(found, old, strict=True):
            swap(model, block, deepcopy(module))
        assert torch.equal(model(image()), before) and len(repairable(model, granularity)) == len(
            found
        )
        if not turn:
            for block, module in zip(found, old, strict=True):
                restore(model, block, module)
            assert list(model.state_dict()) == names


def repaired(model: nn.Module, block) -> None:
    """Put a random architecture in the block's place, with paths that count, as a repair does."""
    skeleton = skeleton_of(extract(model, block), block.in_shape)
    drawn = (random_genotype(skeleton, Runtime(seed=seed, progress=False)) for seed in range(20))
    genotype = next(genotype for genotype in drawn if genotype.edges)
    apply_edits(model, [{"paths": list(block.paths), "genotype": genotype.to_dict()}])
    for name, parameter in model.named_parameters():
        if ".gains." in name and not parameter.any():
            nn.init.normal_(parameter, std=0.3)


@pytest.mark.parametrize(("name", "granularity"), CASES)
@torch.no_grad()
def test_a_repaired_model_has_the_same_blocks_and_a_second_repair_composes(name, granularity):
    model = make(name)
    outputs, found = [model(image())], repairable(model, granularity)
    chosen = [found[0], found[-1], found[0]]  # one, another, and the first again
    for block in chosen:
        repaired(
            model, next(b for b in repairable(model, granularity) if b.paths[0] == block.paths[0])
        )
        outputs.append(model.eval()(image()))
        now = repairable(model, granularity)
        assert [(b.paths[0], b.in_shape, b.out_shape) for b in now] == [
            (b.paths[0], b.in_shape, b.out_shape) for b in found
        ]
    assert not any(torch.equal(a, b) for a, b in zip(outputs, outputs[1:], strict=False)), (
        "each repair changes something"
    )
    for block in repairable(model, granularity):
        swap(model, block, deepcopy(extract(model, block)))
    assert torch.equal(model(image()), outputs[-1])


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
    assert (
        torch.equal(run(features), expected)
        and torch.equal(run(features[0]), expected)
        and len(features) == 1
    )


def test_a_block_of_another_model_is_refused():
    block = repairable(make("vgg11_bn"), "stage")[0]
    with pytest.raises(PartitionError, match="blocks"):
        extract(make("resnet18"), block)
    with pytest.raises(PartitionError, match="members"):
        restore(make("vgg11_bn"), block, nn.Sequential(nn.ReLU()))


def test_capture_sees_but_never_changes():
    model, seen = make("resnet18"), []
    before = model(image())
    functions = {
        "layer1": lambda module, inputs, output: seen.append(output.shape) or torch.zeros(1)
    }
    with (
        capture(model, functions),
        capture_inputs(model, {"layer2": lambda module, inputs: seen.append(inputs[0].shape)}),
    ):
        assert torch.equal(model(image()), before)
    model(image())
    assert seen == [(2, 64, 16, 16)] * 2


@pytest.mark.parametrize(
    "failing", [{"layer1": None, "layer9": None}, {"layer1": lambda *_: 1 / 0}]
)
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
