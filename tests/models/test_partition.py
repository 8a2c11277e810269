"""The partition: what timm's families are cut into, that nothing is lost or owned twice, and that a
model is left alone.
"""

import copy
from functools import lru_cache

import pytest
import timm
import torch
from models.plain_models import ResNet20, torchvision_model
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from timm_repair.errors import AssumptionWarning, OptionError, PartitionError
from timm_repair.images.preprocessing import Preprocessing
from timm_repair.models.block import Block
from timm_repair.models.partition import blocks
from timm_repair.models.surgery import extract, swap
from timm_repair.models.tracing import layout, trace

STAGES = {  # entry point -> repairable stages; the paper's four families first
    "resnet18": 4,
    "resnet50": 4,
    "vgg11": 5,
    "vgg16_bn": 5,
    "densenet121": 7,
    "efficientnet_b0": 7,
    "mobilenetv3_small_050": 6,
    "regnetx_002": 4,
    "resnetv2_18": 4,
    "convnext_atto": 4,
    "dla34": 6,
    "ghostnet_050": 10,
    "xception41": 13,
    "inception_v3": 13,
    "hgnetv2_b0": 4,
    "tresnet_m": 4,
    "eca_vovnet39b": 4,
    "cspnext_l": 4,
    "mobilevit_xxs": 6,
    "hrnet_w18_small": 34,
    "selecsls42": 37,
}


@lru_cache  # partition leaves a model alone; the tests that change one make their own
def on_meta(name: str) -> nn.Module:
    with torch.device("meta"):
        return timm.create_model(name)


def repairable(model: nn.Module, **options) -> list[str]:
    return [block.name for block in blocks(model, **options) if block.repairable]


@pytest.mark.parametrize("name", STAGES)
def test_families_have_their_stages_and_every_parameter_one_owner(name):
    model = on_meta(name)
    assert len(repairable(model)) == STAGES[name]
    for granularity in ("stage", "pair" if name.startswith("densenet") else "unit"):
        owned = [
            parameter
            for block in blocks(model, granularity=granularity)
            for parameter in block.parameters
        ]
        assert sorted(owned) == sorted(parameter for parameter, _ in model.named_parameters())


def test_densenet_cuts():
    model = on_meta("densenet121")
    for granularity, dense in (("pair", 29), ("unit", 58)):
        names = repairable(model, granularity=granularity)
        assert sum("transition" in name for name in names) == 3
        assert sum("denselayer" in name for name in names) == dense and len(names) == dense + 3
    single = extract(model, blocks(model, granularity="unit")[1])
    assert sum(isinstance(module, nn.Conv2d) for module in single.modules()) == 2, (
        "the paper's two convolutional layers"
    )
    pair = blocks(model, granularity="pair")[1]
    assert pair.name == "features.denseblock1.denselayer1-denselayer2"
    assert (pair.in_shape, pair.out_shape) == ((64, 56, 56), (64, 56, 56))


def test_vgg_blocks_lie_between_the_pools():
    assert repairable(on_meta("vgg16")) == [
        "features.0-3",
        "features.5-8",
        "features.10-15",
        "features.17-22",
        "features.24-29",
    ]


def test_a_block_is_described():
    block = blocks(on_meta("resnet18"))[3]
    assert (block.name, block.role, block.in_shape, block.out_shape) == (
        "layer2",
        "body",
        (64, 56, 56),
        (128, 28, 28),
    )
    assert block.num_params == 525568 and len(block.parameters) == 15
    convolutions = 28 * 28 * 128 * (64 * 9 + 3 * 128 * 9 + 64)
    assert block.flops == 2 * convolutions


def test_layers_one_by_one():
    found = {block.name: block for block in blocks(on_meta("resnet18"), granularity="layer")}
    assert (
        len(found) == 21
        and found["layer1.0.conv1"].repairable
        and found["layer1.0.conv1"].parameters == ("layer1.0.conv1.weight",)
    )
    assert {name for name, block in found.items() if not block.repairable} == {"conv1", "fc"}
    assert len(repairable(on_meta("vit_tiny_patch16_224"), granularity="layer")) > 40


TOKENS = {  # entry point -> blocks of the body, what arrives at the last of them and leaves it
    "vit_tiny_patch16_224": (12, (197, 192), (197, 192)),
    "deit_tiny_distilled_patch16_224": (12, (198, 192), (198, 192)),
    "vit_tiny_r_s16_p8_224": (12, (50, 192), (50, 192)),
    "swin_tiny_patch4_window7_224": (4, (14, 14, 384), (7, 7, 768)),
    "mixer_s32_224": (8, (49, 512), (49, 512)),
    "levit_128s": (3, (49, 256), (16, 384)),
    # with sizes, masks or positions besides
    "xcit_nano_12_p16_224": (14, (197, 128), (197, 128)),
    "eva02_tiny_patch14_224": (12, (257, 192), (257, 192)),
    # with several tensors
    "crossvit_9_240": (3, None, None),
    "pit_ti_224": (3, None, None),
    # in lists that are never called
    "twins_pcpvt_small": (19, (49, 512), (49, 512)),
    # maps at first
    "efficientformer_l1": (4, (224, 14, 14), (49, 448)),
}


@pytest.mark.parametrize("name", TOKENS)
def test_models_of_tokens_have_their_blocks_and_every_parameter_one_owner(name):
    model = on_meta(name)
    found = blocks(model)
    body = [block for block in found if block.repairable]
    assert (len(body), body[-1].in_shape, body[-1].out_shape) == TOKENS[name]
    assert not body[-1].maps
    owned = [parameter for block in found for parameter in block.parameters]
    assert len(set(owned)) == len(owned)
    # but for those that the model itself holds, as position embeddings
    others = {parameter for parameter, _ in model.named_parameters()} - set(owned)
    assert not any("." in parameter for parameter in others if not parameter.startswith("pos"))


def test_unsuited_models_are_refused_with_the_reason_and_what_to_do():
    model = nn.Sequential(
        nn.Flatten(), nn.Sequential(nn.Linear(192, 8), nn.ReLU(), nn.Linear(8, 8)), nn.Linear(8, 4)
    )
    with pytest.raises(PartitionError, match=r"1 x vectors.*names=\[.*granularity='layer'"):
        blocks(model, input_size=(3, 8, 8))


def test_single_layers_around_the_body_are_no_part_of_it():
    roles = {block.name: (block.role, block.reason) for block in blocks(on_meta("efficientnet_b0"))}
    assert roles["conv_stem"][0] == "stem" and roles["conv_head"] == roles["bn2"] == (
        "head",
        "a single layer",
    )
    assert all(roles[f"blocks.{i}"] == ("body", "") for i in range(7))


def test_stages_of_several_tensors_are_opened():
    names = repairable(on_meta("hrnet_w18_small"))
    assert {
        "layer1",
        "transition1.0",
        "stage2.0.branches.0",
        "stage4.0.branches.3",
        "stage4.0.fuse_layers.3.0",
    } < set(names)
    convolutions = [
        block.name
        for block in blocks(on_meta("selecsls42"))
        if block.name.startswith("features.0.")
    ]
    assert convolutions == [f"features.0.conv{i}" for i in range(1, 7)]


def test_channels_last_is_seen_in_the_shapes():
    assert (
        layout((64, 56, 56), (3, 224, 224)) == "NCHW"
        and layout((56, 56, 64), (3, 224, 224)) == "NHWC"
    )
    assert layout((16, 196, 128), (3, 224, 224)) == layout((49, 448), (3, 224, 224)) == ""
    assert (
        layout((14, 14, 14), (3, 224, 224)) == "NCHW"
        and layout((14, 14, 14), (3, 224, 224), "NHWC") == "NHWC"
    )
    assert (
        layout((64, 8, 16), (1, 65, 128)) == "NCHW" and layout((8, 16, 64), (1, 65, 128)) == "NHWC"
    )
    # maps between its stages, channels last inside
    assert len(repairable(on_meta("swinv2_cr_tiny_224"))) == 4
    units = blocks(on_meta("swinv2_cr_tiny_224"), granularity="unit")
    assert sum(block.repairable and not block.maps for block in units) == 15


def test_maps_squeezed_in_one_direction_are_taken_by_name():
    layers = [nn.Conv2d(1, 8, 3, (4, 1), 1), nn.BatchNorm2d(8), nn.ReLU()]
    model = nn.Sequential(
        nn.Sequential(*layers),
        nn.Sequential(nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8)),
        nn.Flatten(),
        nn.LazyLinear(4),
    )
    model(torch.zeros(2, 1, 64, 64))
    with pytest.raises(PartitionError, match="tokens in groups"):
        blocks(model, input_size=(1, 64, 64))
    (block,) = blocks(model, names=["1"], input_size=(1, 64, 64))
    assert block.in_shape == (8, 16, 64) and block.repairable


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224"])
def test_flops_are_those_of_torch(name):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        on_meta(name).eval()(torch.empty(1, 3, 224, 224, device="meta"))
    with torch.inference_mode():
        assert trace(on_meta(name))[""][0].flops == counter.get_total_flops()


def test_by_hand():
    vgg, resnet = on_meta("vgg11"), on_meta("resnet18")
    run, stage = blocks(vgg, names=["features.0:features.4", "features.6-9"])
    assert run.paths == tuple(f"features.{i}" for i in range(5)) and stage.paths[0] == "features.6"
    found = blocks(resnet, names=["layer4", "conv1"])
    assert [(block.name, block.role, block.repairable) for block in found] == [
        ("conv1", "body", True),
        ("layer4", "body", True),
    ]
    names = repairable(vgg)
    assert repairable(vgg, names=names) == names
    assert repairable(resnet, names=["fc"], granularity="layer") == ["fc"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["layer1", "layer5"], "did you mean 'layer4'"),
        (["layer1", "layer1.0"], "overlap"),
        (["layer1.1:layer1.0"], "backwards"),
        (["layer1:layer2"], "not a run"),
        (["layer1.0:layer1.7"], "layer1.7"),
        (["maxpool"], "no parameters"),
        (["fc"], "cannot repair fc"),
        ("layer1", "must be a list"),
    ],
)
def test_wrong_names(names, message):
    with pytest.raises(PartitionError, match=message):
        blocks(on_meta("resnet18"), names=names)


def test_wrong_options():
    model = on_meta("resnet18")
    with pytest.raises(OptionError, match="did you mean 'stage'"):
        blocks(model, granularity="stages")
    with pytest.raises(PartitionError, match="three|must be"):
        blocks(model, input_size=(3, 0, 1))
    with pytest.raises(PartitionError, match="does not run on one image of 4x32x32"):
        blocks(model, input_size=(4, 32, 32))


def test_plain_modules():
    layers = [
        nn.Conv2d(1, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3),
        nn.ReLU(),
    ]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))
    with pytest.raises(PartitionError, match="pass input_size"):
        blocks(model)
    assert [(b.name, b.role) for b in blocks(model, input_size=(1, 8, 8))] == [
        ("0-2", "body"),
        ("4-5", "body"),
        ("8", "head"),
    ]


@pytest.mark.parametrize(
    ("name", "stages", "pairs", "units"),
    [
        ("resnet18", 4, 8, 8),
        ("vgg16_bn", 5, 13, 13),
        ("densenet121", 7, 8, 12),
        ("efficientnet_b0", 8, 17, 17),
    ],
)
def test_torchvision(name, stages, pairs, units):
    pytest.importorskip("torchvision", reason="for want of torchvision")
    with torch.device("meta"):
        model = torchvision_model(name)
    for granularity, count in (("stage", stages), ("pair", pairs), ("unit", units)):
        found = blocks(model, granularity=granularity, input_size=(3, 64, 64))
        assert sum(block.repairable for block in found) == count
        owned = [parameter for block in found for parameter in block.parameters]
        assert sorted(owned) == sorted(name for name, _ in model.named_parameters())
    with pytest.raises(
        PartitionError, match=r"does not say how large.*pass input_size=\(C, H, W\)"
    ):
        blocks(model)


def test_the_resnet_of_cifar():
    found = {block.name: block for block in blocks(ResNet20(), input_size=(3, 32, 32))}
    assert [name for name, block in found.items() if block.repairable] == [
        "layer1",
        "layer2",
        "layer3",
    ]
    assert (found["layer2"].in_shape, found["layer2"].out_shape) == ((16, 32, 32), (32, 16, 16))
    assert [found[name].role for name in ("conv1", "bn1", "linear")] == ["stem", "stem", "head"]
    units = repairable(ResNet20(), granularity="unit", input_size=(3, 32, 32))
    assert units == [f"layer{i}.{j}" for i in (1, 2, 3) for j in range(3)]
    assert len(repairable(ResNet20(), granularity="layer", input_size=(3, 32, 32))) == 18
    (block,) = blocks(ResNet20(), names=["layer2.0:layer2.1"], input_size=(3, 32, 32))
    assert block.paths == ("layer2.0", "layer2.1") and block.out_shape == (32, 16, 16)


def test_grey_images_need_no_argument():
    assert blocks(timm.create_model("resnet18", in_chans=1))[0].in_shape[0] == 1


@pytest.mark.parametrize(
    "name", ["tresnet_m", "resnet18", "vgg11", "crossvit_9_240", "convnext_atto"]
)
def test_the_model_knows_its_channels(name):
    for channels in (3, 1):  # a TResNet's first convolution takes 48 of 3, or 16 of 1
        with torch.device("meta"):
            model = timm.create_model(name, in_chans=channels)
        assert (
            Preprocessing.of(model).input_size[0]
            == trace(model)[""][0].inputs[0].shape[1]
            == channels
        )


def test_a_first_convolution_changed_by_hand_counts():
    model = copy.deepcopy(on_meta("resnet18"))
    model.conv1 = nn.Conv2d(1, 64, 7, 2, 3, bias=False)
    assert Preprocessing.of(model).input_size == (1, 224, 224) and blocks(model)[0].in_shape == (
        1,
        224,
        224,
    )
    with pytest.warns(AssumptionWarning, match="224 x 224 pixels"):
        plain = Preprocessing.of(nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU()))
    assert plain.input_size == (1, 224, 224) and "says nothing" in plain.source


def test_the_model_is_left_alone():
    model = timm.create_model("resnet18").train()
    model.layer3.eval()
    model.bn1.weight.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    blocks(model, granularity="unit")
    with pytest.raises(PartitionError):
        blocks(model, input_size=(4, 8, 8))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert model.training and not model.layer3.training and not model.layer3[0].training
    assert not model.bn1.weight.requires_grad and model.conv1.weight.requires_grad
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("name", ["resnet18", "vgg11_bn", "densenet121", "efficientnet_b0"])
@pytest.mark.parametrize("granularity", ["stage", "unit"])
def test_a_repaired_model_is_cut_the_same_way(name, granularity):
    model = copy.deepcopy(on_meta(name))
    before = {g: repairable(model, granularity=g) for g in ("stage", granularity)}
    for block in blocks(model, granularity=granularity):
        if block.repairable:
            swap(model, block, extract(model, block))
    assert before == {g: repairable(model, granularity=g) for g in ("stage", granularity)}


def test_a_block_is_plain_data():
    block = Block("a", ("a",), "body", None, None, (), 0, 0, reason="because")
    assert not block.repairable and hash(block)
