"""Operations on tokens: nodes and their grids, the original at step 0, plans that come back from
JSON, and tokens that lie on no grid.
"""

import json
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from architecture.token_models import MODELS, images, original, side
from making import quiet
from torch import nn

from timm_repair.architecture import strategies
from timm_repair.architecture.cell import build, make_operation
from timm_repair.architecture.genotype import Edge, Genotype, Node
from timm_repair.architecture.layouts import on_maps, sides
from timm_repair.architecture.relaxation import RelaxedBlock, discretize, inherit, relax
from timm_repair.architecture.skeleton import random_genotype
from timm_repair.architecture.token_skeleton import skeleton_in
from timm_repair.errors import ConfigError, PartitionError
from timm_repair.models.block import Block
from timm_repair.models.partition import blocks
from timm_repair.models.surgery import extract, swap

TOKENS = Node("mlp", 8, 1, "NLC", (3, 4), 2)


def body(name: str) -> list[Block]:
    size = (3, side(name), side(name))
    return [block for block in blocks(original(name), input_size=size) if block.repairable]


def put(model: nn.Module, block: Block, size: tuple, level: str = "unit") -> RelaxedBlock:
    """Relax one block of `model`, in place."""
    skeleton = skeleton_in(model, block, size, level=level, partial=2)
    raw, chosen = extract(model, block), strategies.named("pc_darts")
    relaxed = relax(raw, skeleton, chosen, torch.Generator().manual_seed(0))
    swap(model, block, relaxed)
    return relaxed


def open_gates(relaxed: RelaxedBlock) -> None:
    gates = [p for name, p in relaxed.named_parameters() if name.endswith(".gate")]
    assert gates
    for gate in gates:
        nn.init.constant_(gate, 2.0)


@pytest.mark.parametrize("level", ["unit", "layer"])
@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_step_0_is_the_original_and_open_gates_are_not(name, level):
    reference, x = original(name), images(name)
    before = reference(x)
    for block in (body(name)[0], body(name)[-1]):
        model = deepcopy(reference)
        relaxed = put(model, block, (3, side(name), side(name)), level)
        assert torch.equal(model(x), before)
        open_gates(relaxed)
        assert (model(x) - before).abs().max() > 0


def test_nodes_know_their_layout_and_grid():
    def nodes(name: str, index: int = 0, level: str = "unit") -> list:
        size = (3, side(name), side(name))
        return list(skeleton_in(original(name), body(name)[index], size, level=level).nodes)

    vit = [("attn", "NLC", (4, 4), 1), ("mlp", "NLC", (4, 4), 1)]
    found = nodes("vit_tiny_patch16_224")
    assert [(n.layer, n.layout, n.grid, n.prefix) for n in found] == vit
    assert {n.prefix for n in nodes("deit_tiny_distilled_patch16_224")} == {2}
    found = nodes("swin_tiny_patch4_window7_224", 1)
    assert [(n.layer, n.layout, n.scale) for n in found] == [
        ("downsample", "NHWC", 1),
        ("blocks.0", "NHWC", 2),
        ("blocks.1", "NHWC", 2),
    ]
    layers = [n.layer for n in nodes("swin_tiny_patch4_window7_224", level="layer")]
    assert layers and not any(".attn." in layer for layer in layers), "windows are no maps"


@torch.no_grad()
def test_an_operation_works_on_the_grid_and_leaves_prefix_tokens_alone():
    x, pool = torch.randn(2, 14, 8), nn.AvgPool2d(3, 1, 1)
    out = on_maps(pool, TOKENS, TOKENS)(x)
    grid = x[:, 2:].reshape(2, 3, 4, 8).permute(0, 3, 1, 2)
    assert not out[:, :2].any()
    assert torch.equal(out[:, 2:], pool(grid).permute(0, 2, 3, 1).reshape(2, 12, 8))
    assert torch.equal(on_maps(nn.Identity(), TOKENS, TOKENS)(x), x)
    last, halved = Node("a", 8, 1, "NHWC"), replace(TOKENS, scale=2, grid=(2, 2), prefix=1)
    strided = on_maps(nn.MaxPool2d(3, 2, 1), last, halved)(x[:, 2:].reshape(2, 3, 4, 8))
    expected = nn.MaxPool2d(3, 2, 1)(grid).flatten(2).transpose(1, 2)
    assert torch.equal(strided, torch.cat([torch.zeros(2, 1, 8), expected], 1))


def test_a_grid_of_another_size_has_the_same_proportions():
    assert sides(12, (3, 4)) == (3, 4) and sides(48, (3, 4)) == (6, 8)
    assert sides(196, (7, 7)) == (14, 14) and sides(5, None) == (5, 1)
    with pytest.raises(PartitionError, match="13 tokens do not lie on a grid like the 3x4"):
        sides(13, (3, 4))


@pytest.mark.parametrize(
    "name", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "xcit_nano_12_p16_224"]
)
@torch.no_grad()
def test_a_plan_comes_back_from_json_with_its_weights(name):
    model, x = deepcopy(original(name)), images(name)
    block = body(name)[0]
    skeleton = skeleton_in(model, block, (3, side(name), side(name)), level="layer")
    plan = random_genotype(skeleton, quiet())
    assert plan.version == 2 and plan.edges
    again = Genotype.from_dict(json.loads(json.dumps(plan.to_dict())))
    assert again == plan
    cells = [build(each, deepcopy(extract(model, block))).eval() for each in (plan, again)]
    for name, parameter in cells[0].named_parameters():
        if ".gains." in name:
            parameter.fill_(0.3)
    cells[1].load_state_dict(cells[0].state_dict())
    before, answers = model(x), []
    for cell in cells:
        swap(model, block, cell)
        answers.append(model(x))
    assert torch.equal(*answers) and not torch.equal(answers[0], before)


def test_plans_of_maps_stay_what_they_were():
    plan = Genotype("unit", 4, (Node("0", 16, 1),), (Edge(0, 0, "skip"),)).to_dict()
    assert plan["version"] == 1 and set(plan["nodes"][0]) == {"layer", "channels", "scale"}
    assert Genotype.from_dict(plan).nodes[0].layout == "NCHW"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layout": "CHWN"}, "layout"),
        ({"layout": 3}, "layout"),
        ({"grid": [3]}, "grid"),
        ({"grid": [3, 10**9]}, "side of a grid"),
        ({"grid": [True, 4]}, "side of a grid"),
        ({"prefix": -1}, "prefix"),
        ({"grid": None}, "only tokens"),
        ({"layout": "NHWC"}, "only tokens"),
        ({"more": 1}, "exactly the keys"),
    ],
)
def test_strangers_nodes_are_checked(change, message):
    plan = Genotype("unit", 4, (TOKENS,), version=2).to_dict()
    assert Genotype.from_dict(plan).nodes == (TOKENS,)
    plan["nodes"][0] |= change
    with pytest.raises(ConfigError, match=message):
        Genotype.from_dict(plan)


def test_version_1_has_no_tokens():
    plan = Genotype("unit", 4, (TOKENS,), version=2).to_dict() | {"version": 1}
    with pytest.raises(ConfigError, match="exactly the keys"):
        Genotype.from_dict(plan)
    with pytest.raises(ConfigError, match="upgrade"):
        Genotype.from_dict(plan | {"version": 4})


# ---- tokens that lie on no grid


class Queries(nn.Module):
    """Five tokens that a model learnt, each a mixture of all places of a map."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 4, 4)
        self.mixture = nn.Parameter(torch.randn(5, 64))
        layers = [nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8)) for _ in range(2)]
        self.blocks = nn.ModuleList([nn.Sequential(*layers)])
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        x = self.mixture @ self.stem(x).flatten(2).transpose(1, 2)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(1))


def test_tokens_in_a_line_take_skips_and_linear_operations():
    torch.manual_seed(0)
    model, x = Queries().eval(), torch.randn(3, 3, 32, 32)
    (block,) = [b for b in blocks(model, input_size=(3, 32, 32)) if b.repairable]
    before = model(x)
    relaxed = put(model, block, (3, 32, 32))
    assert relaxed.skeleton.candidates == ("none", "skip", "linear")
    assert all(node.in_line for node in relaxed.skeleton.nodes) and relaxed.alpha.shape[1] == 3
    assert torch.equal(model(x), before)
    with torch.no_grad():
        relaxed.eval().alpha[:, 2] = 60.0
        open_gates(relaxed)
        genotype = discretize(relaxed)
        assert {edge.operation for edge in genotype.edges} == {"linear"}
        cell = build(genotype, relaxed.cell.unwrapped()).eval()
        inherit(cell, relaxed)
        mixed = model(x)
        swap(model, block, cell)
        torch.testing.assert_close(model(x), mixed, rtol=1e-4, atol=1e-5)
        assert not torch.equal(mixed, before)


def test_a_linear_operation_mixes_channels_of_each_token_alone():
    node = Node("0", 4, 1, "NLC")
    plan = Genotype("unit", 1, (node,), (Edge(0, 0, "linear"),), version=2)
    operation, x = make_operation("linear", plan, 0, 0).eval(), torch.randn(2, 5, 4)
    changed = x.clone()
    changed[:, 3] += 1
    difference = (operation(changed) - operation(x)).abs().amax((0, 2)) > 0
    assert difference.tolist() == [False, False, False, True, False]


@torch.no_grad()
def test_a_repaired_block_of_tokens_can_be_relaxed_again():
    name = "vit_tiny_patch16_224"
    model, x, size = deepcopy(original(name)), images(name), (3, 32, 32)
    first = put(model, body(name)[0], size)
    first.alpha[:, 1] = 1.0
    open_gates(first)
    cell = build(discretize(first), first.cell.unwrapped()).eval()
    inherit(cell, first)
    swap(model, body(name)[0], cell)
    before = model(x)
    found = [block for block in blocks(model, input_size=size) if block.repairable]
    assert [block.name for block in found] == [block.name for block in body(name)]
    again = put(model, found[0], size)
    assert len(again.skeleton.nodes) == len(first.skeleton.nodes)
    assert torch.equal(model(x), before)
    open_gates(again)
    assert not torch.equal(model(x), before)
