"""Replacing: the raw layer is one candidate among others (`mode="replace"`), exactly the original at
first; what wins stands in its place, is saved, and stays only if it is better.
"""

import json
from copy import deepcopy
from itertools import count
from typing import cast

import planted
import pytest
import torch
from cases import GENTLE
from making import keep_the_last
from torch import nn

from timm_repair import blocks, from_pretrained, repair, revert
from timm_repair.architecture import keeping, strategies
from timm_repair.architecture.cell import Cell, Replaced, build
from timm_repair.architecture.genotype import Genotype, Node, Replacement
from timm_repair.architecture.relaxation import RelaxedBlock, discretize, inherit, relax
from timm_repair.architecture.replacing import replaceable
from timm_repair.architecture.skeleton import random_genotype, skeleton_of
from timm_repair.errors import ConfigError, OptionError
from timm_repair.methods import archrepair, named
from timm_repair.models.surgery import extract, swap
from timm_repair.runtime.runtime import Runtime
from timm_repair.training.objective import Judged

SKIP, NONE = 1, 0  # numbers of candidates


def image(channels: int = 3, side: int = 32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, channels, side, side, generator=generator, dtype=torch.float64)


def relaxed(
    raw: nn.Module, shape: tuple[int, int, int], level: str = "unit", strategy: str = "darts"
) -> RelaxedBlock:
    """With its layers replaceable."""
    chosen = strategies.named(strategy)
    skeleton = skeleton_of(raw, shape, level=level, partial=chosen.partial)
    skeleton = replaceable(raw, shape, skeleton)
    return relax(raw, skeleton, chosen, torch.Generator().manual_seed(0))


def chain() -> nn.Sequential:
    """Three layers, of which the second halves the map."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(8, 8, 3, 1, 1), nn.Conv2d(8, 16, 3, 2, 1), nn.Conv2d(16, 4, 1)]
    return nn.Sequential(*layers).double()


@pytest.mark.parametrize("strategy", ["darts", "pc_darts", "gdas", "snas"])
@pytest.mark.parametrize(
    ("name", "block", "level", "layers"),
    [
        ("resnet18", "layer2", "unit", [0, 1]),
        ("resnet18", "layer1", "layer", [0, 1, 2, 3]),
        ("vgg16_bn", "features.14-22", "unit", [0, 1, 2]),
        ("efficientnet_b0", "blocks.1", "unit", [0, 1]),
        # its layers are fed lists of maps
        ("densenet121", "features.denseblock1", "unit", []),
    ],
)
def test_exactly_the_original_at_first(name, block, level, layers, strategy):
    small = {"mlp_ratio": 0.02} if name.startswith("vgg") else {}
    model = planted.network(name, classes=5, in_chans=3, **small).double()
    x = image(side=64)
    found = next(b for b in blocks(model, input_size=(3, 64, 64)) if b.name == block)
    with torch.no_grad():
        before = model(x)
        raw = extract(model, found)
        block_ = relaxed(raw, found.in_shape, level, strategy).double()
        swap(model, found, block_)
        assert [each.layer for each in block_.skeleton.replacements] == layers
        assert len(block_.alpha) == len(block_.skeleton.edges) + len(layers)
        block_.alpha.add_(torch.randn(block_.alpha.shape))
        assert torch.equal(model.eval()(x), before)


def test_the_mixture_by_hand_and_its_gradients():
    raw = chain()
    mixed = relaxed(deepcopy(raw), (8, 8, 8)).double().eval()
    places = mixed.skeleton.replacements
    assert places == (
        Replacement(0, "skip", 8, 1),
        Replacement(1, "skip", 16, 2),
        Replacement(2, "skip", 4, 1),
    )
    generator, edges = torch.Generator().manual_seed(2), len(mixed.skeleton.edges)
    with torch.no_grad():
        mixed.alpha.copy_(torch.randn(mixed.alpha.shape, generator=generator))
        for place in places:
            layer = mixed.cell.raw[place.layer].layer
            for part in (layer.gate, layer.gain, layer.shift):
                part.copy_(torch.rand(part.shape, generator=generator))
    x = image(8, 8)
    found = mixed(x)
    weights, expected = mixed.alpha.softmax(1)[edges:], x
    for place, row in zip(places, weights, strict=True):
        layer = mixed.cell.raw[place.layer].layer
        own, h, gain, shift = raw[place.layer](expected), layer.gate, layer.gain, layer.shift
        h, gain, shift = (each[:, None, None] for each in (h, gain, shift))
        instead = [gain * operation(expected) + shift for operation in layer.operations.values()]
        assert all(each.shape == own.shape for each in instead)
        mean = sum(w * each for w, each in zip(row[1:], instead, strict=True))
        expected = (1 - h * (1 - row[NONE])) * own + h * mean
    assert (found - expected).abs().max() < 1e-12
    found.square().sum().backward()
    assert (mixed.alpha.grad[edges:] != 0).all()


def test_what_wins_stands_in_the_place_of_the_layer():
    mixed = relaxed(chain(), (8, 8, 8)).double().eval()
    edges = len(mixed.skeleton.edges)
    chosen = torch.zeros(edges + 3, dtype=torch.long)
    chosen[edges + 1] = SKIP
    genotype = discretize(mixed, chosen)
    assert genotype.edges == () and genotype.changed and not genotype.raw.changed
    assert genotype.replacements == (Replacement(1, "skip", 16, 2),)
    weights = torch.zeros(edges + 3, 6, dtype=torch.float64)
    weights[:edges, NONE] = weights[edges:, NONE] = 1
    weights[edges + 1] = torch.nn.functional.one_hot(torch.tensor(SKIP), 6)
    with torch.no_grad():
        layer = mixed.cell.raw[1].layer
        layer.gate.fill_(1)
        layer.gain.uniform_(0.5, 2)
        layer.shift.uniform_(-1, 1)
    cell = build(genotype, mixed.cell.unwrapped()).double().eval()
    inherit(cell, mixed, weights)
    mixed.fixed = weights
    assert (cell(image(8, 8)) - mixed(image(8, 8))).abs().max() < 1e-12
    assert isinstance(cell.raw[1].layer, Replaced)
    assert sum(isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3) for m in cell.modules()) == 1
    form = cell.unwrapped()
    assert [type(m) for m in form.modules()] == [type(m) for m in chain().modules()]
    assert form.state_dict().keys() == chain().state_dict().keys()


PLAN = Genotype(
    "unit",
    4,
    (Node("0", 8, 1), Node("1", 8, 1)),
    replacements=(Replacement(0, "skip", 8, 1), Replacement(1, "sep_conv", 16, 2)),
)


def test_json_and_back_and_older_plans_are_as_they_were():
    plan = json.loads(json.dumps(PLAN.to_dict()))
    assert plan["version"] == 3 and Genotype.from_dict(plan) == PLAN
    tokens = Genotype("unit", 4, (Node("0", 8, 1, "NHWC"),), (), 2, PLAN.replacements[:1])
    assert Genotype.from_dict(json.loads(json.dumps(tokens.to_dict()))) == tokens
    assert PLAN.raw.to_dict().keys() == {"level", "partial", "nodes", "edges", "version"}
    assert PLAN.raw.to_dict()["version"] == 1


@pytest.mark.parametrize(
    "replacements",
    [
        None,
        [1],
        [{"layer": 0, "operation": "skip", "channels": 8}],
        [{"layer": 2, "operation": "skip", "channels": 8, "stride": 1}],
        [{"layer": True, "operation": "skip", "channels": 8, "stride": 1}],
        [{"layer": 0, "operation": "none", "channels": 8, "stride": 1}],
        [{"layer": 0, "operation": "exec", "channels": 8, "stride": 1}],
        [{"layer": 0, "operation": "skip", "channels": 10**9, "stride": 1}],
        [{"layer": 0, "operation": "skip", "channels": 8, "stride": 0}],
        [{"layer": 0, "operation": "skip", "channels": 8, "stride": 1}] * 2,
    ],
)
def test_a_strangers_plan_is_refused(replacements):
    with pytest.raises(ConfigError):
        Genotype.from_dict(PLAN.to_dict() | {"replacements": replacements})
    old = PLAN.raw.to_dict() | {"replacements": PLAN.to_dict()["replacements"]}
    with pytest.raises(ConfigError, match="exactly the keys"):
        Genotype.from_dict(old)


def test_what_would_be_huge_is_not_built():
    plan = Genotype("unit", 4, PLAN.nodes, (), 1, (Replacement(0, "linear", 65_536, 1),))
    with pytest.raises(ConfigError, match="far smaller"):
        build(plan, nn.Sequential(nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)))


# ---- a repair


@pytest.fixture
def given(failures, pictures) -> dict:
    data = {"retain": pictures["train"][:200], "failures": failures.subset(range(60))}
    options = {"mode": "replace", "max_latency": None, "diagnose": False, "progress": False}
    return data | GENTLE | options


def replacing(*layers: int):
    """In the place of `discretize`: these layers are replaced by an identity, and no path added."""

    def discretized(block: RelaxedBlock, _) -> Genotype:
        skeleton = block.skeleton
        return Genotype(
            skeleton.level,
            skeleton.partial,
            skeleton.nodes,
            replacements=tuple(p for p in skeleton.replacements if p.layer in layers),
        )

    return discretized


class Spoilt(nn.Module):
    """A layer that loses its map."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 1)
        nn.init.zeros_(self.conv.weight)

    def forward(self, x):
        return self.conv(x)


def test_a_spoilt_layer_is_replaced_and_a_good_one_is_not(classifier, given, monkeypatch):
    """Planted: a layer that loses everything, where an identity has all pictures right again."""
    spoilt = planted.classifier()
    stage = cast(nn.Sequential, spoilt.layer2)
    layer, channels = len(stage), stage[-1].conv2.out_channels
    spoilt.layer2 = nn.Sequential(*stage, Spoilt(channels))
    # of a map that is lost it knows nothing: all pictures are one class
    failing, _ = planted.wrong_by(
        spoilt, planted.pictures(150, 5), 0.0, at_least=100, right_at_least=0
    )
    monkeypatch.setattr(keeping, "discretize", replacing(layer))
    options = given | {"failures": failing, "retain": None, "block": "layer2"}
    report = repair(spoilt, **options).report
    replaced = report.genotypes["layer2"]["replacements"]
    assert [each["layer"] for each in replaced] == [layer], report.notes
    assert report.population("failing").accuracy_after > 0.95
    assert f"replaced: {layer} by skip" in str(report)

    monkeypatch.setattr(keeping, "discretize", replacing(0))
    report = repair(classifier, **given, block="layer2").report
    assert "replacements" not in report.genotypes["layer2"]
    assert any("raw architecture of layer2: no edge and no replacement" in n for n in report.notes)


@pytest.mark.parametrize(("slower", "replaced"), [(1.5, False), (1.0, True)])
def test_the_limit_on_latency_holds(slower, replaced, classifier, given, monkeypatch):
    """The first question is whether a path may be added, the second what replacements cost."""
    answers = {"one path": 1.5, "replacements": slower}
    monkeypatch.setattr(keeping, "slowdown", lambda *arguments: answers[arguments[-1]])
    monkeypatch.setattr(keeping, "discretize", replacing(0))
    worse = count(0, -1)  # what is measured first, with replacements, is the best
    monkeypatch.setattr(
        keeping, "judged", lambda *_: Judged(float(next(worse)), {"failing": torch.zeros(9)})
    )
    monkeypatch.setattr(archrepair, "objective", lambda *_: next(worse))
    keep_the_last(monkeypatch)
    report = repair(classifier, **given | {"max_latency": 1.1}, block="layer2").report
    assert ("replacements" in report.genotypes["layer2"]) == replaced
    assert any("no path was searched: with a single added path" in n for n in report.notes)
    assert any("no layer was replaced: with what was found" in n for n in report.notes) != replaced


def test_it_is_saved_and_loaded_and_told(classifier, given, monkeypatch, tmp_path):
    keep_the_last(monkeypatch)
    # what is built at random is kept, however bad it is
    worse = count(0, -1)
    monkeypatch.setattr(archrepair, "objective", lambda *_: next(worse))
    options = given | {"block": "layer2", "genotype": "random", "level": "layer"}
    repaired = repair(classifier, **options, output_dir=tmp_path / "out")
    plan = repaired.report.genotypes["layer2"]
    assert plan["version"] == 3 and plan["replacements"]
    cells = [m for m in repaired.model.modules() if isinstance(m, Cell)]
    assert len(cells) == 1 and any(isinstance(m, Replaced) for m in cells[0].modules())
    x = planted.inputs(classifier, planted.pictures(5))
    with torch.no_grad():
        again = from_pretrained(tmp_path / "out").eval()
        assert torch.equal(again(x), repaired.model(x))
    original = revert(repaired.model)
    assert all(torch.equal(t, original.state_dict()[n]) for n, t in classifier.state_dict().items())
    assert [type(m) for m in original.modules()] == [type(m) for m in classifier.modules()]
    for page in ("README.md", "report.html"):
        assert "Replaced" in (tmp_path / "out" / page).read_text()
    # a second repair on top leaves it as it is: its own paths read what arrives at the layers
    found = next(b for b in blocks(again) if b.name == "layer2")
    raw = extract(again, found)
    skeleton = skeleton_of(raw, found.in_shape)
    assert replaceable(raw, found.in_shape, skeleton) == skeleton


def test_what_is_no_better_is_given_back(classifier, given, monkeypatch):
    keep_the_last(monkeypatch)
    options = given | {"block": "layer2", "genotype": "random", "level": "layer"}
    before = deepcopy(classifier.state_dict())
    with pytest.warns(match="changed nothing"):
        repaired = repair(classifier, **options)
    assert any("the original blocks were kept" in note for note in repaired.report.notes)
    state = repaired.model.state_dict()
    assert state.keys() == before.keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in before.items())


def test_random_plans_replace_too():
    skeleton = replaceable(chain(), (8, 8, 8), skeleton_of(chain(), (8, 8, 8)))
    found = [random_genotype(skeleton, Runtime(progress=False), i) for i in range(8)]
    assert any(plan.replacements for plan in found) and any(plan.edges for plan in found)


def test_what_is_refused():
    with pytest.raises(OptionError, match="did you mean 'replace'"):
        named("archrepair", mode="replce")
    with pytest.raises(OptionError, match="leave out mode='replace'"):
        named("wise_ft", of="archrepair", options={"mode": "replace"})
