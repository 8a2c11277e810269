"""The search space: plans come back from JSON, strangers' plans are refused, operations keep
shapes, building changes nothing.
"""

import copy
import json

import pytest
import torch
from torch import nn

from timm_repair.architecture.cell import build, make_operation
from timm_repair.architecture.genotype import Edge, Genotype, Node
from timm_repair.architecture.operations import (
    CANDIDATES,
    CANDIDATES_IN_LINE,
    OPERATIONS,
    channel_slice,
)
from timm_repair.errors import ConfigError

NODES = (Node("0", 16, 1), Node("1", 16, 1), Node("2", 32, 2))
EDGES = (
    Edge(0, 0, "skip"),
    Edge(0, 1, "sep_conv"),
    Edge(0, 2, "max_pool"),
    Edge(1, 2, "dil_conv"),
    Edge(2, 2, "avg_pool"),
)
PLAN = Genotype("unit", 4, NODES, EDGES)


def block() -> nn.Sequential:
    def unit(c_in, c_out, stride):
        return nn.Sequential(
            nn.Conv2d(c_in, c_out, 3, stride, 1), nn.BatchNorm2d(c_out), nn.ReLU(inplace=True)
        )

    return nn.Sequential(unit(16, 16, 1), unit(16, 32, 2), unit(32, 8, 1)).eval()


def test_table_3():
    assert CANDIDATES == ("none", "skip", "avg_pool", "max_pool", "sep_conv", "dil_conv")
    assert {*CANDIDATES, *CANDIDATES_IN_LINE, "instance_norm"} == set(OPERATIONS)


def test_json_and_back():
    assert Genotype.from_dict(json.loads(json.dumps(PLAN.to_dict()))) == PLAN
    raw = Genotype("layer", 1, NODES)
    assert Genotype.from_dict(raw.to_dict()) == raw and raw.edges == ()


def changed(path: tuple, value) -> dict:
    plan = copy.deepcopy(PLAN.to_dict())
    plan["edges"] = list(plan["edges"])
    *parents, last = path
    place = plan
    for key in parents:
        place = place[key]
    place[last] = value
    return plan


EDGE = {"source": 0, "target": 1, "operation": "skip"}
HOSTILE = {
    "nothing": None,
    "a list": [],
    "a string": "genotype",
    "no key": {},
    "an extra key": PLAN.to_dict() | {"__class__": "os.system"},
    "a missing key": {k: v for k, v in PLAN.to_dict().items() if k != "nodes"},
    "a newer version": changed(("version",), 2),
    "a version in words": changed(("version",), "1"),
    "an unknown level": changed(("level",), "stage"),
    "a level that cannot be hashed": changed(("level",), ["unit"]),
    "a bool for partial": changed(("partial",), True),
    "partial zero": changed(("partial",), 0),
    "partial negative": changed(("partial",), -4),
    "partial a float": changed(("partial",), 4.0),
    "partial infinite": changed(("partial",), float("inf")),
    "partial huge": changed(("partial",), 2**40),
    "a bool for the version": changed(("version",), True),
    "a layer without a name": changed(("nodes", 0, "layer"), ""),
    "one layer twice": changed(("nodes", 1, "layer"), NODES[0].layer),
    "no nodes": changed(("nodes",), []),
    "nodes None": changed(("nodes",), None),
    "nodes a dict": changed(("nodes",), {"0": NODES}),
    "a million nodes": changed(("nodes",), [PLAN.to_dict()["nodes"][0]] * 10**6),
    "a node None": changed(("nodes", 1), None),
    "a node with an extra key": changed(
        ("nodes", 1), {"layer": "1", "channels": 16, "scale": 1, "code": "x"}
    ),
    "a layer that is a number": changed(("nodes", 0, "layer"), 0),
    "an endless layer path": changed(("nodes", 0, "layer"), "a." * 10**6),
    "huge channels": changed(("nodes", 0, "channels"), 10**9),
    "negative channels": changed(("nodes", 0, "channels"), -16),
    "bool channels": changed(("nodes", 0, "channels"), True),
    "channels None": changed(("nodes", 0, "channels"), None),
    "scale zero": changed(("nodes", 0, "scale"), 0),
    "scale huge": changed(("nodes", 0, "scale"), 10**6),
    "edges None": changed(("edges",), None),
    "too many edges": changed(("edges",), [EDGE] * 7),
    "duplicate edges": changed(("edges",), [EDGE, EDGE | {"operation": "max_pool"}]),
    "an edge back": changed(("edges", 0), EDGE | {"source": 2}),
    "an edge to nowhere": changed(("edges", 0), EDGE | {"target": 3}),
    "an edge from nowhere": changed(("edges", 0), EDGE | {"source": -1}),
    "a bool for a source": changed(("edges", 0), EDGE | {"source": False}),
    "an unknown operation": changed(("edges", 0), EDGE | {"operation": "conv_7x7"}),
    "the operation none": changed(("edges", 0), EDGE | {"operation": "none"}),
    "an operation that is no string": changed(("edges", 0), EDGE | {"operation": ["skip"]}),
    "an edge with an extra key": changed(("edges", 0), EDGE | {"gain": 1e9}),
    "an edge that is a list": changed(("edges", 0), [0, 1, "skip"]),
}


@pytest.mark.parametrize("plan", HOSTILE.values(), ids=HOSTILE)
def test_a_strangers_plan_is_refused(plan):
    with pytest.raises(ConfigError):
        Genotype.from_dict(plan)


def test_a_plan_far_larger_than_its_block_is_refused_before_anything_is_allocated():
    nodes = (Node("0", 65_536, 1), Node("1", 65_535, 1))
    plan = Genotype("unit", 1, nodes, (Edge(0, 1, "dil_conv"),))
    with pytest.raises(ConfigError, match="far smaller"):
        build(plan, nn.Sequential(nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3)))


@pytest.mark.parametrize("name", [name for name in OPERATIONS if name != "none"])
@pytest.mark.parametrize(("c_in", "c_out"), [(16, 16), (16, 8), (3, 20)])
@pytest.mark.parametrize("stride", [1, 2, 4])
def test_operations_keep_the_map_up_to_the_stride(name, c_in, c_out, stride):
    operation = OPERATIONS[name](c_in, c_out, stride)
    for side in (8, 7, 1):  # what a 3x3 convolution with padding 1 makes of it
        assert operation(torch.randn(2, c_in, side, side + 1)).shape == (
            2,
            c_out,
            -(-side // stride),
            -(-(side + 1) // stride),
        )
    assert all(
        norm.weight is None for norm in operation.modules() if isinstance(norm, nn.BatchNorm2d)
    )


def test_skip_is_the_identity_where_it_can_be():
    x = torch.randn(2, 8, 5, 5)
    assert torch.equal(OPERATIONS["skip"](8, 8, 1)(x), x)


@pytest.mark.parametrize(
    ("channels", "partial"), [(16, 4), (16, 1), (10, 4), (3, 4), (1, 4), (65, 8)]
)
def test_slices_rotate_and_cover(channels, partial):
    slices = [channel_slice(node, channels, partial) for node in range(2 * channels)]
    widths = {s.stop - s.start for s in slices}
    assert widths == {max(channels // partial, 1)} and all(
        0 <= s.start < s.stop <= channels for s in slices
    )
    covered = {c for s in slices for c in range(s.start, s.stop)}
    assert (
        len(covered)
        == channels // widths.pop() * max(channels // partial, 1)
        > channels - max(channels // partial, 1)
    )


def test_building_changes_nothing_until_gains_open():
    raw, x = block(), torch.randn(2, 16, 9, 9)
    before = raw(x)
    cell = build(PLAN, copy.deepcopy(raw)).eval()
    assert torch.equal(cell(x), before)
    assert not cell.tape.arrived, "what arrived is let go after each pass"
    gains = [p for name, p in cell.named_parameters() if ".gains." in name]
    assert [g.numel() for g in gains] == [4, 4, 8, 8, 8] and not any(g.any() for g in gains)
    for gain in gains:
        nn.init.constant_(gain, 0.5)
    assert not torch.allclose(cell(x), before)
    unwrapped = cell.unwrapped()
    assert torch.equal(unwrapped(x), before) and list(unwrapped.state_dict()) == list(
        raw.state_dict()
    )
    assert unwrapped[0] is not cell.raw[0].layer


def test_a_plan_that_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match="'9', which this block does not have"):
        build(Genotype("unit", 4, (Node("9", 16, 1),)), block())
    with pytest.raises(ConfigError, match="no operation leads"):
        make_operation("skip", Genotype("unit", 1, (Node("0", 8, 4), Node("1", 8, 2))), 0, 1)


def test_an_error_inside_lets_go_of_what_arrived():
    cell = build(PLAN, block())
    with pytest.raises(RuntimeError):
        cell(torch.randn(2, 5, 9, 9))
    assert not cell.tape.arrived


@pytest.mark.parametrize("size", [7, 8])
@torch.no_grad()
def test_a_skip_that_halves_the_map_is_a_strided_convolution(size):
    skip, x = OPERATIONS["skip"](4, 6, 2).eval(), torch.randn(2, 4, size, size)
    convolution = nn.Conv2d(4, 6, 1, 2, bias=False)
    convolution.load_state_dict({"weight": skip.state_dict()["0.weight"]})
    expected = convolution(x) / (1 + 1e-5) ** 0.5  # a fresh norm
    assert skip(x).shape == expected.shape and torch.allclose(skip(x), expected, atol=1e-6)
