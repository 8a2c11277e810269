"""Search strategies: their formulas on numbers small enough to do by hand, their schedules, and a
planted task in which one operation on one edge is needed and must be found.
"""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from cases import BUDGET, STRATEGY_CASES
from making import quiet, repair_data
from PIL import Image
from torch import nn

from timm_repair.architecture import strategies
from timm_repair.architecture.genotype import Edge
from timm_repair.architecture.operations import CANDIDATES
from timm_repair.architecture.perturbing import missed_most
from timm_repair.architecture.relaxation import discretize, relax
from timm_repair.architecture.search import search
from timm_repair.architecture.skeleton import skeleton_of
from timm_repair.architecture.strategies.strategy import final, penalty
from timm_repair.errors import OptionError
from timm_repair.training.job import Job
from timm_repair.training.options import Training

NONE, NEEDED = CANDIDATES.index("none"), "sep_conv"


def alpha(rows: int = 4) -> torch.Tensor:
    found = torch.randn(rows, len(CANDIDATES), generator=torch.Generator().manual_seed(1))
    return found.requires_grad_()


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(strategy, a: torch.Tensor, progress: float, times: int) -> torch.Tensor:
    """(times, 6): the weights of one edge, `a` (1, 6), drawn so often."""
    with torch.no_grad():
        rows = a.expand(times, -1)
        return strategy.weights(rows, progress=progress, generator=generator())


# ---- what every strategy owes the search


@pytest.mark.parametrize("name", STRATEGY_CASES)
@pytest.mark.parametrize("progress", [0.0, 0.5, 1.0])
def test_every_parameter_gets_a_gradient(name, progress):
    ours, a = strategies.named(name), alpha()
    # one sample may be saturated
    weights = ours.weights(a.repeat(200, 1), progress=progress, generator=generator())
    values = torch.randn(weights.shape, generator=generator(2))
    (weights * values).sum().backward()
    assert weights.shape == (200 * len(a), 6)
    assert a.grad.isfinite().all() and (a.grad != 0).all()


@pytest.mark.parametrize("name", STRATEGY_CASES)
def test_the_same_generator_gives_the_same_and_the_global_state_stays(name):
    ours, a, before = strategies.named(name), alpha(), torch.get_rng_state()
    one, other = (ours.weights(a, progress=0.5, generator=generator(3)) for _ in range(2))
    assert torch.equal(one, other) and torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", STRATEGY_CASES)
def test_an_operation_weighs_the_more_the_larger_its_parameter(name):
    ours = strategies.named(name)
    a = torch.zeros(1, 6)
    a[0, 3] = 2.0
    means = drawn(ours, a, 1.0, 400).mean(0)
    assert means.argmax() == 3 and means[3] > 1.5 * means[[0, 1, 2, 4, 5]].max()


@pytest.mark.parametrize("name", STRATEGY_CASES)
def test_a_block_may_have_fewer_operations(name):
    """As tokens that lie on no grid have."""
    ours = strategies.named(name)
    a = alpha()[:, :3].detach().requires_grad_()
    weights = ours.weights(a, progress=0.5, generator=generator())
    added = penalty(ours, a, 0.5)
    (weights * torch.arange(3.0)).sum().add(sum(added)).backward()
    assert weights.shape == (len(a), 3) and a.grad is not None and a.grad.isfinite().all()
    assert final(ours, a, generator()).shape == (len(a), 3)


# ---- formulas


def gumbel(a: torch.Tensor, seed: int) -> torch.Tensor:
    """What a Gumbel variable is: -log of an exponential one."""
    return -torch.empty(a.shape).exponential_(generator=generator(seed)).log()


@pytest.mark.parametrize(("progress", "temperature"), [(0.0, 1.0), (0.5, 0.515), (1.0, 0.03)])
def test_snas(progress, temperature):
    ours, a = strategies.named("snas"), alpha().detach()
    assert ours.temperature(progress) == pytest.approx(temperature) and ours.joint
    found = ours.weights(a, progress=progress, generator=generator(5)).double()
    numbers = ((a + gumbel(a, 5)).double() / temperature).tolist()
    for row, expected in zip(found.tolist(), numbers, strict=True):
        powers = [math.exp(x - max(expected)) for x in expected]
        assert row == pytest.approx([p / sum(powers) for p in powers], rel=1e-3, abs=1e-6)
    assert (ours.final(a).argmax(1) == a.argmax(1)).all() and (ours.final(a).sum(1) == 1).all()


def test_snas_samples_an_operation_as_often_as_its_softmax_says():
    """The Gumbel-max theorem, at a temperature near zero."""
    a = torch.tensor([[0.0, 1.0, -1.0, 0.5, 0.0, 2.0]])
    often = drawn(strategies.named("snas"), a, 1.0, 4000).round().mean(0)
    assert (often - a.softmax(1)).abs().max() < 0.03


@pytest.mark.parametrize(("progress", "temperature"), [(0.0, 10.0), (1.0, 0.1)])
def test_gdas(progress, temperature):
    ours, a = strategies.named("gdas"), alpha()
    assert ours.temperature(progress) == pytest.approx(temperature)
    found = ours.weights(a, progress=progress, generator=generator(5))
    soft = ((a.log_softmax(1) + gumbel(a, 5)) / temperature).softmax(1)
    assert ((found == 0) | (found == 1)).all() and (found.sum(1) == 1).all(), "one, exactly"
    assert (found.argmax(1) == soft.argmax(1)).all()
    values = torch.randn(found.shape, generator=generator(2))
    of_hard, of_soft = (torch.autograd.grad((w * values).sum(), a)[0] for w in (found, soft))
    assert torch.allclose(of_hard, of_soft)


def test_drnas():
    ours = strategies.named("drnas")
    a = torch.tensor([[0.0, 1.0, -1.0, 3.0, 0.5, -0.5]])
    concentrations = torch.tensor([[1, 2, math.exp(-1), 4, 1.5, math.exp(-0.5)]])
    found = drawn(ours, a, 0.5, 4000)
    total = concentrations.sum()
    mean = concentrations / total
    assert torch.allclose(found.sum(1), torch.ones(4000), atol=1e-5) and (found >= 0).all()
    assert (found.mean(0) - mean).abs().max() < 0.01 and torch.allclose(ours.final(a), mean)
    assert (found.var(0) - mean * (1 - mean) / (total + 1)).abs().max() < 0.003
    # KL to Dirichlet(1.05, 1, …): log Γ(7) - log Γ(2) - log Γ(6.05) + log Γ(1.05)
    #   + (2 - 1)(ψ(2) - ψ(7)) + (1 - 1.05)(ψ(1) - ψ(7)), of Dirichlet(1, 1, 2, 1, 1, 1)
    one = torch.zeros(1, 6)
    one[0, 2] = 1.0
    up_to_7 = sum(1 / i for i in range(1, 7))  # ψ(7) - ψ(1)
    expected = math.lgamma(7) - math.lgamma(6.05) + math.lgamma(1.05)
    expected += (1 - up_to_7) + 0.05 * up_to_7
    assert float(ours.penalty(one, progress=0.0)) == pytest.approx(1e-3 * expected, rel=1e-3)
    first = torch.zeros(3, 6)
    first[:, NONE] = 0.05
    assert float(ours.penalty(first, progress=0.0)) == pytest.approx(0, abs=1e-8)


@pytest.mark.parametrize("name", ["pc_darts", "darts"])
def test_beta_decay(name):
    a = torch.tensor([[0.0, 1.0, 2.0, 0.0, 0.0, 0.0], [1.0] * 6])
    ours = strategies.named(name, decay=50.0)
    expected = (math.log(4 + math.exp(1) + math.exp(2)) + 1 + math.log(6)) / 2
    assert float(ours.penalty(a, progress=0.5)) == pytest.approx(25 * expected, rel=1e-5)
    assert strategies.named(name).penalty(a, progress=0.5) is None
    assert torch.equal(ours.weights(a, progress=0.5, generator=generator()), a.softmax(1))


def test_bayes_nas():
    ours = strategies.named("bayes_nas", sparsity=0.5, every=2)
    a = torch.tensor([[0.5, 1.0, -0.5, -1.0, -3.0, 0.0]])  # s = 1.5; 2, 0.5, 0, -2, 1
    found = ours.weights(a, progress=0.3, generator=generator())
    assert torch.allclose(found, torch.tensor([[0, 3, 0.75, 0, -3, 1.5]]) / 5)
    prior = ours.prior(a)
    assert float(prior.penalty(a)) == pytest.approx(0.5 * (1.5 + 2 + 0.5 + 0 + 2 + 1))
    # the gradient of loss and penalty, twice; of the loss alone it is 0.1, 0.2, 0, …
    of_loss = torch.tensor([[0.1, 0.2, 0.0, 0.0, 0.3, 0.0]])
    for _ in range(2):
        prior.observe(a, of_loss + 0.5 * torch.tensor([[1, 1, 1, 0, -1, 1.0]]), 8)
    curvature = [8 * 0.01, 8 * 0.04, 0, 0, 8 * 0.09, 0]
    gamma = [1.5, 2, 0.5, 0, 2, 1]
    for k, (h, g) in enumerate(zip(curvature, gamma, strict=True)):
        c = 1 / (1 / g + h / 0.5) if g else 0.0
        expected = math.sqrt(1 / g - c / g**2) if h else 1.0  # where there is none the prior stays
        assert float(prior.omega[0, k]) == pytest.approx(expected, rel=1e-4)
    assert ours.joint and prior.chosen(a).tolist() == [1], "the strongest that is open"
    shut = torch.full((2, 6), -0.99)
    shut[1, 3] = 2.0
    assert ours.prior(shut).chosen(shut).tolist() == [NONE, NONE], "an edge shuts its operations"


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("snas", {"coldest": 2.0}, "hottest the larger"),
        ("gdas", {"coldest": 0.0}, "must be positive"),
        ("drnas", {"divergence": -1.0}, "must not be negative"),
        ("darts", {"decay": -1.0}, "must not be negative"),
        ("bayes_nas", {"sparsity": 0.0}, "must be positive"),
    ],
)
def test_wrong_options(name, options, message):
    with pytest.raises(OptionError, match=message):
        strategies.named(name, **options)


# ---- one operation on one edge is needed


class Dead(nn.Module):
    """A layer through which nothing comes."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x):
        return 0 * self.conv(x)


class Sided(nn.Module):
    """A block of two layers, of which the first is dead; then the mean over positions says of two
    classes which.
    """

    num_classes = 10

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            last = nn.Conv2d(4, 4, 1)
            self.block = nn.Sequential(Dead(4), nn.Sequential(last))
            self.stem = nn.Conv2d(1, 4, 1, bias=False)
        nn.init.ones_(self.stem.weight)
        nn.init.dirac_(last.weight)
        nn.init.zeros_(last.bias)
        self.pretrained_cfg = {
            "input_size": (1, 16, 16),
            "mean": (0.5,),
            "std": (0.25,),
            "crop_pct": 1.0,
        }

    def forward(self, x):
        means = self.block(self.stem(x)).mean((1, 2, 3))
        logits = torch.full((len(x), 10), -20.0, device=x.device)
        return torch.cat([40 * means[:, None], -40 * means[:, None], logits[:, 2:]], 1)


def sided(count: int, seed: int) -> list[tuple[Image.Image, int]]:
    """In pairs of columns, both of one random sign, the left one is the stronger (class 0), or the
    right one: the same images mirrored.

    A skip, a pool and the mean behind them give the same for an image and its mirror image. A
    dilated convolution sees columns of one parity alone: all strong or all weak, in either class. A
    convolution of neighbours, not linear, is needed.
    """
    noise, found = np.random.default_rng(seed), []
    for _ in range(count // 2):
        sign = noise.choice([-1, 1], (16, 8))
        columns = np.stack([80 * sign, 30 * sign], 2).reshape(16, 16) + 128
        for label, pixels in enumerate((columns, columns[:, ::-1])):
            found.append((Image.fromarray(np.ascontiguousarray(pixels).astype(np.uint8)), label))
    return found


# ours; a strategy of the documentation claims no more than its contract
@pytest.mark.parametrize("name", ["pc_darts", "darts", "snas", "gdas", "drnas", "bayes_nas"])
def test_the_operation_that_is_needed_is_found_where_it_is_needed(name):
    model, chosen = Sided().eval(), strategies.named(name, partial=1)
    data = repair_data(model, sided(200, 0), sided(200, 1))
    raw = model.block
    skeleton = skeleton_of(raw, (4, 16, 16), partial=1)
    assert [(e.source, e.target) for e in skeleton.edges] == [(0, 0), (0, 1), (1, 1)]
    model.block = relaxed = relax(raw, skeleton, chosen, generator())
    options = Training(**BUDGET | {"batch_size": 32, "steps": 200, "wrong_class_weight": 1.0})
    history, _ = search(Job(model, data, options, quiet()), [relaxed], steps=200)
    assert len(history) == 200
    assert discretize(relaxed).edges == (Edge(0, 1, NEEDED),), relaxed.alpha


def test_what_is_missed_most_is_found_where_alpha_knows_nothing():
    """α does not move: it leads with "none" everywhere, as at its start."""
    model, chosen = Sided().eval(), strategies.named("darts", partial=1, learning_rate=1e-9)
    data = repair_data(model, sided(200, 0), sided(200, 1))
    seen = {"failing": data.failing.subset(range(0, 200, 2)), "retained": data.retained}
    job = Job(
        model,
        replace(data, selection=seen),
        Training(**BUDGET | {"batch_size": 32, "steps": 200, "wrong_class_weight": 1.0}),
        quiet(),
    )
    model.block = relaxed = relax(
        model.block, skeleton_of(model.block, (4, 16, 16), partial=1), chosen, generator()
    )
    search(job, [relaxed], steps=200)
    assert discretize(relaxed).edges == ()
    before = {name: value.clone() for name, value in relaxed.state_dict().items()}
    (missed,) = missed_most(job, [relaxed], job.forward())
    assert discretize(relaxed, missed).edges == (Edge(0, 1, NEEDED),)
    assert relaxed.fixed is None
    assert all(torch.equal(value, before[name]) for name, value in relaxed.state_dict().items())
