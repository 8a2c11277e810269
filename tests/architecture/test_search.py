"""The search alternates on disjoint data, opens gates before it moves α, and touches nothing
outside its block.
"""

import itertools
from copy import deepcopy
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from cases import BUDGET

from timm_repair.architecture import search as module
from timm_repair.architecture import strategies
from timm_repair.architecture.relaxation import relax
from timm_repair.architecture.search import search
from timm_repair.architecture.skeleton import skeleton_of
from timm_repair.architecture.strategies.strategy import joint
from timm_repair.models.partition import blocks
from timm_repair.models.surgery import extract, swap
from timm_repair.runtime.runtime import Runtime
from timm_repair.training import pace
from timm_repair.training.batches import Batches
from timm_repair.training.job import Job
from timm_repair.training.options import Training

OPTIONS = Training(**BUDGET | {"steps": 20})
STEPS = 10


def relaxed_in(model, data, strategy="pc_darts", seed=0, names=("layer2",)):
    chosen, generator, relaxed = strategies.named(strategy), torch.Generator().manual_seed(seed), []
    for block in [
        b for b in blocks(model, input_size=data.preprocessing.input_size) if b.name in names
    ]:
        raw = extract(model, block)
        relaxed.append(
            relax(raw, skeleton_of(raw, block.in_shape, partial=chosen.partial), chosen, generator)
        )
        swap(model, block, relaxed[-1])
    return relaxed if len(names) > 1 else relaxed[0]


@pytest.fixture
def watched(monkeypatch, classifier, data, runtime):
    """One search, and what was seen before each of its steps: whose data, α and β, the weights."""
    relaxed, seen, parts = relaxed_in(classifier, data), [], {}

    class Watched(Batches):
        def __init__(self, data, options, runtime, purpose, rows):
            super().__init__(data, options, runtime, purpose, rows)
            self.purpose = purpose.removeprefix("search ")
            parts[self.purpose] = (
                data.failing.subset(rows["failing"]),
                data.retained.subset(rows["retained"]),
            )

        def take(self, keeps=None):
            now = [
                torch.cat([p.detach().flatten() for p in ps])
                for ps in (relaxed.architecture_parameters(), relaxed.weight_parameters())
            ]
            seen.append((self.purpose, *now))
            return super().take(keeps)

    monkeypatch.setattr(module, "Batches", Watched)
    outside = {
        k: v.clone() for k, v in classifier.state_dict().items() if not k.startswith("layer2.")
    }
    modes = {name: m.training for name, m in classifier.named_modules()}
    history, trained = search(Job(classifier, data, OPTIONS, runtime), [relaxed], steps=STEPS)
    return classifier, relaxed, seen, parts, outside, modes, history, trained


def test_weights_and_architecture_see_different_examples(watched, data):
    parts = watched[3]
    for position, whole in enumerate((data.failing, data.retained)):
        one, other = (set(parts[purpose][position].ids) for purpose in ("weights", "architecture"))
        assert one and not one & other and one | other == set(whole.ids)
        assert len(other) < len(one), "an architecture has far fewer parameters than the weights"
    assert (parts["weights"][0].answers >= 0).all(), (
        "the parts still know the original's wrong answers"
    )


def test_warm_up_then_turns(watched):
    _, relaxed, seen, _, _, _, history, trained = watched
    warm = round(relaxed.strategy.warmup * STEPS)
    purposes = [purpose for purpose, *_ in seen]
    assert purposes == ["weights"] * warm + ["architecture", "weights"] * ((STEPS - warm) // 2) + [
        "architecture"
    ] * ((STEPS - warm) % 2)
    assert trained == purposes.count("weights")
    assert [bool(row.get("architecture")) for row in history] == [
        purpose == "architecture" for purpose in purposes
    ]
    for (purpose, alpha, weights), (_, alpha_after, weights_after) in zip(
        seen, seen[1:], strict=False
    ):
        assert torch.equal(alpha, alpha_after) == (purpose == "weights")
        assert torch.equal(weights, weights_after) == (purpose == "architecture")
    assert (
        not relaxed.alpha.isnan().any()
        and torch.tensor(history[-1]["alpha"]).shape == relaxed.alpha.shape
    )
    assert relaxed.progress == 1


@pytest.mark.parametrize("strategy", strategies.STRATEGIES)
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_however_short_a_search_trains_weights_first(classifier, data, runtime, steps, strategy):
    """α has no gradient before they have opened the gates; one step of theirs is enough."""
    relaxed = relaxed_in(classifier, data, strategy)
    start = relaxed.alpha.detach().clone()
    history, trained = search(Job(classifier, data, OPTIONS, runtime), [relaxed], steps=steps)
    purposes = [bool(row.get("architecture")) for row in history]
    together = joint(relaxed.strategy)
    assert purposes == [False, True, together][:steps]
    assert trained == (steps if together else purposes.count(False))
    assert torch.equal(relaxed.alpha, start) == (steps == 1)


def test_a_joint_step_moves_weights_and_architecture_on_one_batch(classifier, data, runtime):
    relaxed = relaxed_in(classifier, data, "snas")
    seen, take = [], Batches.take

    class Watched(Batches):
        def take(self, keeps=None):
            now = [
                torch.cat([p.detach().flatten() for p in ps])
                for ps in (relaxed.architecture_parameters(), relaxed.weight_parameters())
            ]
            seen.append(now)
            return take(self, keeps)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(module, "Batches", Watched)
        search(Job(classifier, data, OPTIONS, runtime), [relaxed], steps=STEPS)
    assert len(seen) == STEPS, "one batch a step"
    warm = max(round(relaxed.strategy.warmup * STEPS), 1)
    for i, ((alpha, weights), (alpha_after, weights_after)) in enumerate(
        zip(seen, seen[1:], strict=False)
    ):
        assert torch.equal(alpha, alpha_after) == (i < warm)
        assert not torch.equal(weights, weights_after)


def test_nothing_outside_the_block_changes(watched):
    model, relaxed, _, _, outside, modes, _, _ = watched
    state = model.state_dict()
    assert outside and all(torch.equal(state[name], value) for name, value in outside.items()), (
        "buffers too"
    )
    assert {name: m.training for name, m in model.named_modules()} == modes
    assert all(p.requires_grad for p in model.parameters())
    assert all(
        p.grad is None for name, p in model.named_parameters() if not name.startswith("layer2.")
    )
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_two_blocks_are_searched_in_the_steps_of_one(classifier, data, runtime):
    relaxed = relaxed_in(classifier, data, names=("layer1", "layer3"))
    before = {k: v.clone() for k, v in classifier.state_dict().items()}
    history, trained = search(Job(classifier, data, OPTIONS, runtime), relaxed, steps=STEPS)
    turns = [row.get("architecture", False) for row in history]
    assert len(history) == STEPS and trained == turns.count(False)
    assert history[-1]["edges"] == [len(each.alpha) for each in relaxed]
    assert torch.allclose(
        torch.tensor(history[-1]["alpha"]), torch.cat([each.alpha for each in relaxed]), atol=1e-5
    )
    assert all(each.progress == 1 for each in relaxed)
    changed = {
        name
        for name, value in classifier.state_dict().items()
        if not torch.equal(value, before[name])
    }
    assert all(name.startswith(("layer1.", "layer3.")) for name in changed)
    for block in ("layer1", "layer3"):
        kinds = {
            name.removeprefix(f"{block}.0.").partition(".")[0]
            for name in changed
            if name.startswith(f"{block}.")
        }
        assert kinds >= {"alpha", "cell"}, "weights and architecture of each"


@pytest.mark.parametrize("strategy", strategies.STRATEGIES)
def test_same_seed_same_search(deployed, data, strategy):
    results = []
    for seed in (0, 0, 1):
        model = deepcopy(deployed)
        relaxed = relaxed_in(model, data, strategy)
        torch.manual_seed(seed)  # the search may depend on the runtime's seed alone
        search(
            Job(model, data, OPTIONS, Runtime(seed=0 if seed == 0 else 5, progress=False)),
            [relaxed],
            steps=5,
        )
        results.append({k: v.clone() for k, v in model.state_dict().items()})
    assert all(torch.equal(v, results[1][k]) for k, v in results[0].items())
    assert any(not torch.equal(v, results[2][k]) for k, v in results[0].items())


def test_the_schedule_goes_on_where_the_search_ends(classifier, data, runtime):
    relaxed = relaxed_in(classifier, data)
    history, trained = search(Job(classifier, data, OPTIONS, runtime), [relaxed], steps=STEPS)
    rates = [row["lr"] for row in history if not row.get("architecture")]
    assert len(rates) == trained and 0 < rates[-1] < max(rates) == pytest.approx(
        OPTIONS.optimizing.learning_rate
    )
    assert search(Job(classifier, data, OPTIONS, runtime), [relaxed], steps=0) == ([], 0)


def test_a_search_that_time_cuts_short_still_searches(classifier, data, runtime, monkeypatch):
    """Of 40 steps there is time for ten: the warm-up is a share of these, α moves, and the schedule
    of the weights ends where it would have.
    """
    ticks = itertools.count()
    monkeypatch.setattr(pace, "time", SimpleNamespace(perf_counter=lambda: float(next(ticks))))
    options = replace(OPTIONS, steps=80, seconds=20.0)
    relaxed = relaxed_in(classifier, data)
    history, place = search(Job(classifier, data, options, runtime), [relaxed], steps=40)
    turns = [bool(row.get("architecture")) for row in history]
    assert len(history) == 10 and sum(turns) >= 3 and not turns[0]
    whole = replace(options, seconds=None)
    ticks = itertools.count()
    other = relaxed_in(classifier, data)
    _, expected = search(Job(classifier, data, whole, runtime), [other], steps=40)
    assert place == expected
    assert runtime.shortened == {"search": (10, 40)}
