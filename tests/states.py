"""A model's whole state, and the promise that something leaves it as it was."""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy

import torch
from torch import nn

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def state(model: nn.Module) -> dict:
    """All that one could notice: weights, gradients, modes, hooks, kinds of modules, memory layout,
    configuration.
    """
    modules = list(model.modules())
    return {
        "state": {name: tensor.clone() for name, tensor in model.state_dict().items()},
        "gradients": {
            name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()
        },
        "trainable": [p.requires_grad for p in model.parameters()],
        "modes": [module.training for module in modules],
        "kinds": [type(module) for module in modules],
        "inplace": [getattr(module, "inplace", None) for module in modules],
        "forwards": ["forward" in vars(module) for module in modules],
        "hooks": [[len(getattr(module, name)) for name in HOOKS] for module in modules],
        "config": deepcopy(getattr(model, "pretrained_cfg", None)),
        "strides": {name: tensor.stride() for name, tensor in model.state_dict().items()},
    }


def same(one, other) -> bool:
    """Equal to the last bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(
            same(value, other[name]) for name, value in one.items()
        )
    return one == other


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """The model, and torch's random state, are afterwards what they were, also where the body
    raises.
    """
    before, randomness = state(model), torch.get_rng_state()
    try:
        yield
    finally:
        after = state(model)
        assert [name for name in before if not same(before[name], after[name])] == [], (
            "the caller's model was changed"
        )
        assert torch.equal(randomness, torch.get_rng_state()), (
            "the caller's random state was changed"
        )


def unusual(model: nn.Module) -> nn.Module:
    """`model` itself in a state that is easily lost: part in training mode, part frozen, with a
    gradient.
    """
    model.train()
    model.layer1.eval()
    model.fc.bias.requires_grad_(False)
    model.fc.weight.grad = torch.ones_like(model.fc.weight)
    return model
