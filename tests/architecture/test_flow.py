"""flows(): how data go through a block, told by one pass, whatever its code."""

import planted
import pytest
import torch
from torch import Tensor, nn

from timm_repair.architecture.cell import build
from timm_repair.architecture.flow import flows
from timm_repair.architecture.genotype import Edge, Genotype, Node
from timm_repair.models.block import Block
from timm_repair.models.surgery import extract, swap


class Branches(nn.Module):
    """Two branches beside each other, an in-place activation, a layer whose result is not used, and
    a shortcut around all.
    """

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Conv2d(4, 4, 3, padding=1) for _ in range(4))
        self.activation = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        a = self.activation(self.a(x))
        b = self.b(x)
        self.c(b)
        return self.d(torch.cat([a, b], 1)[:, 2:6] + a) + x


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.block, self.head = nn.Conv2d(1, 4, 1), Branches(), nn.Linear(4, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(self.stem(x)).mean((2, 3)))


WANTED = [
    ["arrives", -1, 0],
    ["arrives", 0, 1],
    ["leaves", 1, 2],
    ["arrives", 2, 3],  # which is what leaves 1
    ["leaves", 0, 3],
    ["arrives", 0, 4],
    ["leaves", 3, 4],
]


def plan(layers: str, *edges: Edge) -> Genotype:
    return Genotype("layer", 2, tuple(Node(layer, 4, 1) for layer in layers), edges)


@pytest.mark.parametrize("edges", [(), (Edge(0, 3, "skip"), Edge(1, 1, "sep_conv"))])
def test_branches_and_shortcuts_are_told_and_added_paths_are_not(edges):
    net, block, genotype = Net().eval(), Block.at(["block"]), plan("abcd", *edges)
    if edges:
        swap(net, block, build(genotype, extract(net, block)))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with torch.inference_mode():
        found = flows(net, [block], {"block": genotype}, torch.zeros(1, 1, 8, 8))
    assert found == {"block": WANTED}
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
    assert all(p.grad is None for p in net.parameters())


def test_a_run_of_modules_without_added_paths():
    net = planted.network("vgg11_bn")
    block = Block(
        "features.4-10", tuple(f"features.{i}" for i in range(4, 11)), "body", *4 * [None], 0, 0
    )
    genotype = Genotype("unit", 4, (Node("0", 64, 1), Node("4", 128, 1)))
    found = flows(net, [block], {block.name: genotype}, torch.zeros(1, 1, 32, 32))
    assert found[block.name] == [["arrives", -1, 0], ["leaves", 0, 1], ["leaves", 1, 2]]


def test_blocks_without_an_architecture_have_none():
    assert flows(Net(), [Block.at(["block"])], {}, torch.zeros(1, 1, 8, 8)) == {}
