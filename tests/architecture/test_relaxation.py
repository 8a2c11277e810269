"""Relaxation: exactly the original at first, what the equations say afterwards, and back to a plan
that computes the same.
"""

from copy import deepcopy
from functools import lru_cache

import planted
import pytest
import torch
from cases import STRATEGY_CASES
from references import relaxation_by_the_paper as paper
from torch import nn
from torch.nn import functional as F

from timm_repair.architecture import strategies
from timm_repair.architecture.cell import build
from timm_repair.architecture.operations import CANDIDATES
from timm_repair.architecture.relaxation import RelaxedBlock, discretize, inherit, relax
from timm_repair.architecture.skeleton import skeleton_of
from timm_repair.errors import OptionError, PartitionError
from timm_repair.models.partition import blocks
from timm_repair.models.surgery import extract, swap

# without zero_init_last a residual branch would be zero, and any change inside it invisible
MODELS = {
    "resnet18": {"zero_init_last": False},
    "resnet50": {"zero_init_last": False},
    "vgg16_bn": {"mlp_ratio": 0.02},
    "densenet121": {},
    "efficientnet_b0": {},
}
CASES = [  # model, granularity, block, level, strategy
    ("resnet18", "stage", "layer1", "unit", "pc_darts"),
    ("resnet18", "stage", "layer3", "layer", "darts"),
    ("resnet18", "unit", "layer2.0", "unit", "pc_darts"),
    ("resnet50", "stage", "layer1", "unit", "pc_darts"),
    ("resnet50", "stage", "layer2", "layer", "pc_darts"),
    ("vgg16_bn", "stage", "features.14-22", "unit", "pc_darts"),
    ("vgg16_bn", "stage", "features.7-12", "layer", "darts"),
    ("densenet121", "pair", "features.denseblock2.denselayer3-denselayer4", "unit", "darts"),
    ("densenet121", "pair", "features.denseblock1.denselayer1-denselayer2", "layer", "pc_darts"),
    ("densenet121", "stage", "features.transition1", "unit", "pc_darts"),
    ("densenet121", "stage", "features.denseblock1", "unit", "pc_darts"),
    ("efficientnet_b0", "stage", "blocks.2", "unit", "pc_darts"),
    ("efficientnet_b0", "stage", "blocks.1", "layer", "darts"),
    # whose first layer in the order of execution reads a smaller map than the next
    ("dla34", "stage", "level2", "unit", "pc_darts"),
]


@lru_cache
def original(name: str) -> nn.Module:
    model = planted.network(name, classes=5, in_chans=3, **MODELS.get(name, {}))
    # true statistics: with those of a new model (0 and 1) the signal dies out in deep nets, and
    # hardly anything could be noticed
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        model.train()(image(count=8))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.1
    return model.eval()


def image(side: int = 64, count: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1))


def put(
    model: nn.Module, granularity: str, name: str, level: str, strategy: str = "pc_darts", **options
) -> RelaxedBlock:
    """Relax one block of `model`, in place."""
    chosen = strategies.named(strategy) if isinstance(strategy, str) else strategy
    block = next(
        b for b in blocks(model, granularity=granularity, input_size=(3, 64, 64)) if b.name == name
    )
    raw = extract(model, block)
    skeleton = skeleton_of(raw, block.in_shape, level=level, partial=chosen.partial, **options)
    relaxed = relax(raw, skeleton, chosen, torch.Generator().manual_seed(0))
    swap(model, block, relaxed)
    return relaxed


def gates(relaxed: RelaxedBlock) -> list[nn.Parameter]:
    return [p for name, p in relaxed.named_parameters() if name.endswith(".gate")]


def open_gates(relaxed: RelaxedBlock, value: float = 0.5) -> None:
    assert gates(relaxed)
    for gate in gates(relaxed):
        nn.init.constant_(gate, value)


def loss(model: nn.Module) -> torch.Tensor:
    torch.manual_seed(2)  # for dropout and the like
    return F.cross_entropy(model(image(count=4)), torch.tensor([0, 1, 2, 3]))


@pytest.mark.parametrize(("name", "granularity", "block", "level", "strategy"), CASES)
def test_step_0_is_the_original_and_open_gates_are_not(name, granularity, block, level, strategy):
    reference = deepcopy(original(name))
    model = deepcopy(reference)
    relaxed = put(model, granularity, block, level, strategy)
    with torch.no_grad():
        before = reference(image())
        assert torch.equal(model(image()), before)
        assert torch.equal(loss(model.train()), loss(reference.train()))
        model.eval()
        reference.eval()
        assert torch.equal(model(image()), reference(image())), (
            "and so are the statistics that the training pass renewed"
        )
        open_gates(relaxed)
        assert (model(image()) - reference(image())).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0"])
def test_step_0_in_bfloat16_and_in_channels_last(name):
    block = {"resnet18": "layer2", "efficientnet_b0": "blocks.2"}[name]
    for dtype, layout in ((torch.bfloat16, torch.contiguous_format), (None, torch.channels_last)):
        reference = deepcopy(original(name)).to(memory_format=layout)
        model = deepcopy(reference)
        relaxed = put(model, "stage", block, "unit")
        with (
            torch.no_grad(),
            torch.autocast("cpu", dtype=dtype or torch.bfloat16, enabled=dtype is not None),
        ):
            assert torch.equal(model(image()), reference(image()))
            assert torch.equal(loss(model.train()), loss(reference.train()))
            open_gates(relaxed)
            assert not torch.equal(model.eval()(image()), reference.eval()(image()))


@pytest.mark.parametrize(
    ("name", "granularity", "block", "level", "strategy"), [CASES[i] for i in (0, 1, 5, 7, 11)]
)
def test_every_architecture_parameter_gets_a_gradient_once_gates_are_open(
    name, granularity, block, level, strategy
):
    model = deepcopy(original(name)).train()
    relaxed = put(model, granularity, block, level, strategy).train()
    loss(model).backward()
    assert all(not p.grad.any() for p in relaxed.architecture_parameters()), (
        "none while the gates are shut"
    )
    assert all(g.grad.isfinite().all() and g.grad.any() for g in gates(relaxed)), (
        "but gates have one from the start"
    )
    open_gates(relaxed, 0.1)
    model.zero_grad()
    loss(model).backward()
    for parameter in (*relaxed.architecture_parameters(), *relaxed.weight_parameters()):
        assert parameter.grad.isfinite().all()
    for parameter in relaxed.architecture_parameters():
        assert (parameter.grad != 0).all()
    assert (
        len(relaxed.architecture_parameters()) == 1 + strategies.named(strategy).edge_normalization
    )


# ---- against the equations, on a block that is a plain sequence


def sequence() -> nn.Sequential:
    def unit(c_in, c_out, stride):
        return nn.Sequential(
            nn.Conv2d(c_in, c_out, 3, stride, 1),
            nn.BatchNorm2d(c_out),
            nn.ReLU(inplace=True),
            nn.Conv2d(c_out, c_out, 1),
        )

    return nn.Sequential(unit(8, 12, 1), unit(12, 12, 1), unit(12, 16, 2), unit(16, 8, 1)).eval()


def random_relaxed(strategy: str, **options) -> tuple[nn.Sequential, RelaxedBlock]:
    raw, chosen = sequence(), strategies.named(strategy, **options)
    skeleton = skeleton_of(raw, (8, 9, 9), partial=chosen.partial)
    relaxed = relax(deepcopy(raw), skeleton, chosen, torch.Generator().manual_seed(0)).eval()
    for parameter in (*relaxed.architecture_parameters(), *gates(relaxed)):
        nn.init.normal_(parameter)
    for norm in relaxed.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.normal_(norm.running_mean)
            nn.init.uniform_(norm.running_var, 0.5, 2.0)
    for module, copy in zip(raw, relaxed.cell.raw, strict=True):
        module.load_state_dict(copy.layer.state_dict())
    return raw, relaxed


@torch.no_grad()
@pytest.mark.parametrize(
    ("strategy", "partial"), [("pc_darts", 4), ("pc_darts", 1), ("darts", 1), ("darts", 3)]
)
def test_agrees_with_the_paper(strategy, partial):
    raw, relaxed = random_relaxed(strategy, partial=partial)
    edges = [(e.source, e.target) for e in relaxed.skeleton.edges]
    assert (
        edges == [(0, 0), (0, 1), (1, 1), (0, 2), (1, 2), (2, 2), (2, 3), (3, 3)]
        or relaxed.skeleton.nodes[3].scale == 2
    )
    layers = relaxed.cell.raw
    operations = {
        (i, j, name): layers[j].added.operations[layers[j].added.rows.index(row)][name]
        for row, (i, j) in enumerate(edges)
        for name in CANDIDATES
        if name != "none"
    }
    beta = None
    if relaxed.beta is not None:
        contested = dict(zip(relaxed.contested.tolist(), relaxed.beta.tolist(), strict=True))
        beta = {edge: contested.get(row, 0.0) for row, edge in enumerate(edges)}
    x = torch.randn(3, 8, 9, 9)
    expected = paper.relaxed(
        x,
        list(raw),
        operations,
        dict(zip(edges, relaxed.alpha.tolist(), strict=True)),
        beta,
        {j: layer.added.gate.tolist() for j, layer in enumerate(layers)},
        partial,
    )
    torch.testing.assert_close(relaxed(x), expected, rtol=1e-4, atol=1e-4)

    genotype = discretize(relaxed)
    assert 0 < len(genotype.edges) < len(edges), "the random α keeps some edges and drops some"
    cell = build(genotype, relaxed.cell.unwrapped())
    inherit(cell, relaxed)
    cell.eval()
    kept, gains = {}, {}
    for j, layer in enumerate(cell.raw):
        for path, i in enumerate(layer.added.sources if layer.added else ()):
            kept[i, j], gains[i, j] = layer.added.operations[path], layer.added.gains[path].tolist()
    torch.testing.assert_close(
        cell(x), paper.discrete(x, list(raw), kept, gains, partial), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("strategy", STRATEGY_CASES)
def test_edge_weights_are_shares_of_each_node(strategy):
    _, relaxed = random_relaxed(strategy)
    weights, targets = relaxed.edge_weights(), relaxed.targets
    if strategy in ("pc_darts", "darts", "snas", "gdas", "drnas"):  # others weigh each by itself
        assert torch.allclose(relaxed.operation_weights().sum(1), torch.ones(len(targets)))
    for target in targets.unique():
        into = weights[targets == target]
        if relaxed.strategy.edge_normalization:
            assert into.sum().item() == pytest.approx(1) and (len(into) == 1 or into.std() > 0)
        else:
            assert (into == 1).all()


@torch.no_grad()
@pytest.mark.parametrize("strategy", STRATEGY_CASES)
def test_discretizing_a_decided_search_keeps_the_function(strategy):
    _, relaxed = random_relaxed(strategy)
    x, edges = torch.randn(3, 8, 9, 9), relaxed.skeleton.edges
    # each operation, "none" included
    chosen = [CANDIDATES[row % len(CANDIDATES)] for row in range(len(edges))]
    # a switch of BayesNAS is 1 + α, and an edge's own is that of "none"
    relaxed.alpha.fill_(-1.0 if strategy == "bayes_nas" else -10.0)
    if strategy == "bayes_nas":
        relaxed.alpha[:, CANDIDATES.index("none")] = 0.0
    for row, name in enumerate(chosen):
        relaxed.alpha[row, CANDIDATES.index(name)] = 60.0
    genotype = discretize(relaxed)
    assert [(e.source, e.target, e.operation) for e in genotype.edges] == [
        (e.source, e.target, name) for e, name in zip(edges, chosen, strict=True) if name != "none"
    ]
    cell = build(genotype, relaxed.cell.unwrapped())
    inherit(cell, relaxed)
    torch.testing.assert_close(cell.eval()(x), relaxed(x), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_none_everywhere_is_the_raw_block():
    raw, relaxed = random_relaxed("pc_darts")
    relaxed.alpha[:, CANDIDATES.index("none")] = relaxed.alpha.max() + 1
    genotype = discretize(relaxed)
    assert genotype.edges == () and genotype.nodes == relaxed.skeleton.nodes
    cell = build(genotype, relaxed.cell.unwrapped())
    inherit(cell, relaxed)
    x = torch.randn(3, 8, 9, 9)
    assert torch.equal(cell.eval()(x), raw(x))


def test_an_untrained_search_adds_nothing():
    relaxed = relax(
        sequence(),
        skeleton_of(sequence(), (8, 9, 9)),
        strategies.named("pc_darts"),
        torch.Generator().manual_seed(0),
    )
    assert discretize(relaxed).edges == (), (
        "none leads at the start, so an edge has to earn its place"
    )


@pytest.mark.parametrize(
    ("name", "granularity", "block"),
    [
        ("resnet18", "stage", "layer2"),
        ("vgg16_bn", "stage", "features.14-22"),
        ("densenet121", "pair", "features.denseblock1.denselayer1-denselayer2"),
        ("efficientnet_b0", "stage", "blocks.2"),
    ],
)
@torch.no_grad()
def test_a_repaired_block_can_be_relaxed_again(name, granularity, block):
    model = deepcopy(original(name))
    first = put(model, granularity, block, "unit")
    first.alpha[:, CANDIDATES.index("sep_conv")] = 1.0
    open_gates(first)
    cell = build(discretize(first), first.cell.unwrapped())
    inherit(cell, first)
    place = next(path for path, module in model.named_modules() if module is first)
    model.set_submodule(place, cell.eval())
    before = model(image())
    found = next(
        b
        for b in blocks(model, granularity=granularity, input_size=(3, 64, 64))
        if b.paths[0] == place.removesuffix(".0")
    )
    assert not torch.equal(before, original(name)(image()))
    again = put(model, granularity, found.name, "unit")
    assert again.skeleton.nodes and not any(
        ".added." in node.layer for node in again.skeleton.nodes
    ), "added paths are no raw layers"
    assert len(again.skeleton.nodes) == len(first.skeleton.nodes)
    assert torch.equal(model(image()), before)
    open_gates(again)
    assert not torch.equal(model(image()), before)


def test_the_same_generator_gives_the_same_search_and_the_global_draws_are_seeded_by_the_caller():
    raw = original("resnet18").layer1
    before = torch.get_rng_state()
    skeleton = skeleton_of(raw, (64, 16, 16), level="layer")
    assert torch.equal(torch.get_rng_state(), before)
    alphas = [
        relax(
            deepcopy(raw), skeleton, strategies.named("darts"), torch.Generator().manual_seed(seed)
        ).alpha
        for seed in (3, 3, 4)
    ]
    assert torch.equal(alphas[0], alphas[1]) and not torch.equal(alphas[0], alphas[2])


def test_layers_of_a_plan():
    stage = original("resnet18").layer2
    assert [(n.layer, n.channels, n.scale) for n in skeleton_of(stage, (64, 16, 16)).nodes] == [
        ("0", 64, 1),
        ("1", 128, 2),
    ]
    fine = skeleton_of(stage, (64, 16, 16), level="layer")
    assert [n.layer for n in fine.nodes] == [
        "0.conv1",
        "0.conv2",
        "1.conv1",
        "1.conv2",
    ], "a shortcut's projection runs beside"
    assert all(
        e.target - e.source < 2
        for e in skeleton_of(stage, (64, 16, 16), level="layer", max_span=2).edges
    )
    gated = skeleton_of(original("efficientnet_b0").blocks[1], (16, 32, 32), level="layer")
    assert not any(".se." in n.layer for n in gated.nodes), (
        "squeeze-and-excitation gates are no operation layers"
    )


def test_wrong_use_is_refused():
    with pytest.raises(OptionError, match="did you mean 'unit'"):
        skeleton_of(sequence(), (8, 9, 9), level="units")
    with pytest.raises(PartitionError, match="single layer"):
        skeleton_of(nn.Conv2d(3, 3, 1), (3, 8, 8))
    with pytest.raises(PartitionError, match="no operation layer"):
        skeleton_of(nn.Sequential(nn.BatchNorm2d(8), nn.ReLU()), (8, 9, 9), level="layer")
    with pytest.raises(OptionError, match="did you mean 'pc_darts'"):
        strategies.named("pcdarts")
    with pytest.raises(OptionError, match="did you mean 'partial'"):
        strategies.named("darts", partal=2)
    with pytest.raises(OptionError, match="set them on your object"):
        strategies.named(strategies.named("darts"), partial=2)


def test_every_strategy_has_a_row():
    assert set(STRATEGY_CASES) == set(strategies.STRATEGIES)
