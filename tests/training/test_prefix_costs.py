"""The prefix cache is used only where it pays."""

from dataclasses import replace

import planted
import pytest
import torch
from making import quiet
from training.prefixes import cached, options, prepared

from timm_repair.methods import named
from timm_repair.training.batches import Batches
from timm_repair.training.populations import SELECTION, Populations, Sample
from timm_repair.training.prefix.costs import (
    BYTE_FLOPS,
    LEAST_GAIN,
    Costs,
    Demand,
    demands,
    worthwhile,
)
from timm_repair.training.prefix.forward import Forward, forward_from
from timm_repair.training.prefix.room import Room


@pytest.fixture(scope="module")
def data():
    return prepared(planted.network())


# ---- when it is used


def test_gain_by_hand():
    costs = Costs(prefix=1000, part=100, suffix=50, bytes=2)
    assert costs.step == 400 and costs.measurement == 150
    demand = Demand("failing", 10, 2, 200, costs.step)
    assert costs.saved(demand, 10) == (200 - 20) * 1000 - 220 * 2 * BYTE_FLOPS
    assert worthwhile([demand], costs, budget=10**6) == {"failing": 10}
    assert worthwhile([demand], costs, budget=5 * 2 * 2) == {"failing": 5}
    assert worthwhile([demand], costs, budget=0) == {}


def test_what_is_read_once_is_not_kept():
    costs = Costs(prefix=1000, part=100, suffix=50, bytes=2)
    once, often = (
        Demand("retained", 100, 1, 100, costs.step),
        Demand("failing", 10, 1, 100, costs.step),
    )
    assert worthwhile([once, often], costs, budget=10**6) == {"failing": 10}
    assert worthwhile([once, often], costs, budget=10**6, always=True) == {
        "failing": 10,
        "retained": 100,
    }


def test_a_cheap_prefix_is_not_kept():
    costs = Costs(prefix=10, part=1000, suffix=1000, bytes=1)
    demand = Demand("failing", 10, 1, 1000, costs.step)
    assert 0 < costs.prefix / (costs.step + costs.prefix) < LEAST_GAIN
    assert worthwhile([demand], costs, budget=10**6) == {}


def test_gain_is_a_share_of_the_whole_run():
    """Training that cannot be kept counts as well: a selection split that is a small part of it is
    not worth its memory.
    """
    costs = Costs(prefix=1000, part=100, suffix=50, bytes=2)
    fresh, choosing = (
        Demand("failing", 10, 0, 10**6, costs.step),
        Demand("selection failing", 10, 1, 100, costs.measurement),
    )
    assert worthwhile([choosing], costs, budget=10**6) == {"selection failing": 10}
    assert worthwhile([fresh, choosing], costs, budget=10**6) == {}


def test_a_repair_reads_what_it_is_said_to_read(data, monkeypatch):
    reads, model, runtime = {}, planted.network(), quiet()
    arrived = Forward.arrived

    def counted(self, part: Sample):
        reads[part.name] = reads.get(part.name, 0) + len(part.rows)
        return arrived(self, part)

    monkeypatch.setattr(Forward, "arrived", counted)
    chosen = options(steps=12, evaluations=3)
    method = replace(named("finetune", level="block", block="layer4"), training=chosen)
    method.repair(model, data, runtime)
    said = demands(Populations(data, chosen, runtime), data, chosen, Costs(1, 1, 1, 1))
    assert reads == {demand.name: demand.reads for demand in said}


def test_fresh_augmentations_are_never_kept(data):
    cache = cached(planted.network(), data, quiet(), views=None)
    assert cache.kept and all(name.startswith(SELECTION) for name in cache.kept)
    still = cached(planted.network(), data, quiet(), views=None, hflip=0.0, shift=0.0)
    assert {"failing", "retained"} <= still.kept.keys(), "without augmentation there is one view"


@pytest.mark.parametrize("given", [{"cache": "never"}, {"cache_memory": 0.0, "cache_disk": 0.0}])
def test_it_can_be_switched_off(data, given):
    model, runtime = planted.network(), quiet()
    cache, supply = cached(model, data, runtime, **given), Batches(data, options(), runtime, "test")
    batch = supply.take()
    assert not cache.kept
    assert torch.equal(
        cache.logits(batch.parts, batch.views), model(supply.examples.images(*batch.parts))
    )


def test_the_whole_network_has_no_prefix(data):
    model = planted.network()
    assert not forward_from(model, model, data, options(), quiet()).kept
    assert not forward_from(model, model.conv1, data, options(), quiet()).kept


def test_room_is_given_first_come_first_served_by_plan_not_by_request():
    for order in ("abc", "cba"):
        room = Room(100, 1000, torch.device("cpu"), {"a": 100, "b": 96, "c": 4000})
        found = {
            key: room.empty(key, (size // 4,), torch.float32)
            for key, size in zip(order, (25, 24, 25), strict=True)
        }
        assert room.places == {"a": "memory", "b": "disk"} and room.left == {
            "memory": 0,
            "disk": 904,
        }
        assert [key for key, kept in found.items() if kept is None] == ["c"]
