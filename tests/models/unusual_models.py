"""Models as people bring them: wrapped, with parts that timm's own do not have. All answer as the
classifier that they are made of.
"""

from collections.abc import Callable
from types import SimpleNamespace

import torch
from torch import nn


class HandedOn(nn.Module):
    """A training framework's module: the model, and a metric with a state of its own."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model, self.metric = model, nn.BatchNorm1d(3, affine=False)

    def forward(self, x):
        return self.model(x)


class InAnOutput(HandedOn):
    """As transformers wraps timm's models."""

    def forward(self, x):
        return SimpleNamespace(logits=self.model(x))


class Softened(HandedOn):
    """No wrapper: it computes something of its own."""

    def forward(self, x):
        return self.model(x).softmax(1)


class Stateful(nn.Module):
    """Has a state that is no tensor."""

    def __init__(self):
        super().__init__()
        self.notes = {"seen": 1}

    def forward(self, x):
        return x

    def get_extra_state(self):
        return dict(self.notes)

    def set_extra_state(self, state):
        self.notes = dict(state)


class Masked(nn.Module):
    """A buffer of -inf, as masks of attention are."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mask", torch.tensor([0.0, -torch.inf]))

    def forward(self, x):
        return x * self.mask.exp()[0]


class Asking(nn.Module):
    """Looks at values on its way, and holds a plain tensor that is no buffer."""

    def __init__(self):
        super().__init__()
        self.scale = torch.ones(1)

    def forward(self, x):
        return x * self.scale if x.max() > 1 else x


def _with(part: Callable[[], nn.Module]) -> Callable[[nn.Module], nn.Module]:
    def change(model: nn.Module) -> nn.Module:
        model.layer2.add_module("extra", part())
        return model

    return change


def weight_normed(model: nn.Module) -> nn.Module:
    """The old kind, which leaves results on its modules."""
    nn.utils.weight_norm(model.layer3[0].conv1)
    return model


def mixed(model: nn.Module) -> nn.Module:
    """Four kinds of numbers."""
    model.layer1.double()
    model.layer2.bfloat16()
    model.layer3.half()
    model.register_buffer("counter", torch.arange(3, dtype=torch.int16))
    return model


def tied(model: nn.Module) -> nn.Module:
    """Two convolutions share their filters, and answers stay what they were."""
    model.layer1[0].register_module("again", nn.Conv2d(16, 16, 3, bias=False))
    model.layer1[0].again.weight = model.layer1[0].conv2.weight
    return model


def shared(model: nn.Module) -> nn.Module:
    """One module hangs in two places, as CoaT's position encodings do."""
    model.layer3[0].register_module("aside", model.layer2[0].conv1)
    return model


# repaired like any other; those of the second table only without output_dir
WRAPPED = {
    "data parallel": nn.DataParallel,
    "compiled": torch.compile,
    "data parallel of compiled": lambda model: nn.DataParallel(torch.compile(model)),
    "a framework's module": HandedOn,
    "logits in an output": InAnOutput,
    "twice": lambda model: HandedOn(nn.DataParallel(model)),
}
UNUSUAL = {
    "a state that is no tensor": _with(Stateful),
    "a mask of -inf": _with(Masked),
    "asks for values": _with(Asking),
    "old weight norm": weight_normed,
    "four kinds of numbers": mixed,
    "half": lambda model: model.half(),
    "tied weights": tied,
    "a module in two places": shared,
    "checkpointing": lambda model: model.set_grad_checkpointing() or model,
    "a dict without an architecture": lambda model: (
        setattr(
            model,
            "pretrained_cfg",
            {k: v for k, v in model.pretrained_cfg.items() if k != "architecture"},
        )
        or model
    ),
}
