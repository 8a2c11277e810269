"""Neurons that are scaled, and the swarm that finds by how much."""

import json

import pytest
import torch
from torch import nn

from timm_repair.gradient_free.neurons import Factors, sites, states
from timm_repair.gradient_free.swarm import Swarm


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.Tanh(), nn.Sigmoid()])
def test_a_factor_on_a_neuron_is_folded_into_the_weights(activation):
    network, inputs = (
        nn.Sequential(nn.Linear(3, 4), activation, nn.Linear(4, 2)),
        torch.randn(20, 3),
    )
    places = sites(network, (3,))
    assert [(s.tap.layer, s.tap.path, s.tap.channels) for s in places] == [
        ("0", "1", 4),
        ("2", "2", 2),
    ]
    seen = states(network, places, lambda: network(inputs))
    hidden = activation(network[0](inputs))
    assert torch.allclose(seen, torch.cat([hidden, network(inputs)], 1))
    factors = torch.tensor([0.5, 3.0])
    hidden[:, 1] *= 0.5
    expected = network[2](hidden) * torch.tensor([3.0, 1.0])
    Factors(network, places, [1, 4]).apply(factors)
    assert torch.allclose(network(inputs), expected, atol=1e-6)


def test_a_swarm_finds_the_lowest_place_and_goes_on_after_a_kill():
    def cost(places):
        return (places - torch.tensor([0.3, 1.5])).square().sum(1)

    def run(swarm: Swarm, rounds: int) -> Swarm:
        for _ in range(rounds):
            swarm.tell(cost(swarm.ask()))
        return swarm

    settings = {"ends": (0.0, 2.0), "particles": 20, "inertia": 0.8, "pull": 0.41, "seed": 3}
    through, killed = run(Swarm(2, **settings), 40), run(Swarm(2, **settings), 15)
    resumed = Swarm(2, **settings)
    resumed.load_state_dict(json.loads(json.dumps(killed.state_dict())))
    run(resumed, 25)
    assert (
        through.best_cost < 0.01
        and resumed.best_cost == through.best_cost
        and torch.equal(resumed.best, through.best)
    )
