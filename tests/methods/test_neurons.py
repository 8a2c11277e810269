"""Fine-tuning of neurons: the weights of those that are most suspicious move, and no other."""

import planted
import pytest
import torch
from cases import BUDGET, GENTLE
from making import keep_the_last, quiet
from torch import nn

from timm_repair.errors import OptionError
from timm_repair.methods import named
from timm_repair.models.temporary import only_channels


def test_a_gradient_reaches_only_these_channels():
    """By hand: d/dW of the sum of W x is x in every row."""
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))
    model[1].bias.requires_grad_(False)
    first, second = model[0], model[1]
    with only_channels(model, {"0": [0, 2]}):
        assert not second.weight.requires_grad
        first(torch.tensor([[5.0, 7.0]])).sum().backward()
    assert first.weight.grad.tolist() == [[5, 7], [0, 0], [5, 7]]
    assert first.bias.grad.tolist() == [1, 0, 1]
    first.zero_grad()
    first(torch.tensor([[5.0, 7.0]])).sum().backward()
    assert first.weight.grad.tolist() == [[5, 7]] * 3, "and afterwards all"
    assert second.weight.requires_grad and not second.bias.requires_grad


@pytest.mark.parametrize("options", [{"top": 1}, {"top": 30}, {"top": 9, "block": "layer2"}])
def test_only_suspicious_neurons_move(options, classifier, data, monkeypatch):
    keep_the_last(monkeypatch)
    before = {name: t.clone() for name, t in classifier.state_dict().items()}
    outcome = named("finetune", level="neuron", **GENTLE, **options).repair(
        classifier, data, quiet()
    )
    vulnerable = outcome.localization.details["vulnerable"]
    assert sum(map(len, vulnerable.values())) == options["top"]
    moved = {}
    for name, tensor in classifier.state_dict().items():
        different = (tensor != before[name]).reshape(len(tensor), -1) if tensor.ndim else tensor
        if tensor.ndim and different.any():
            moved.setdefault(name.rpartition(".")[0], set()).update(
                different.any(1).nonzero().flatten().tolist()
            )
    assert moved and all(rows <= set(vulnerable[layer]) for layer, rows in moved.items())
    if options["top"] > 1:
        assert sum(map(len, moved.values())) > 1
    names = [block.name for block in outcome.repaired]
    assert names == (["layer2"] if "block" in options else names) and len(names) >= 1
    scores = torch.cat(list(outcome.localization.neurons.values()))
    chosen = torch.cat([outcome.localization.neurons[n][c] for n, c in vulnerable.items()])
    assert chosen.min() >= scores.sort(descending=True).values[options["top"] - 1]


def test_some_neurons_mend_two_classes(classifier, data):
    options = BUDGET | {"steps": 40, "batch_size": 32, "learning_rate": 0.1, "top": 40}
    named("finetune", level="neuron", **options).repair(classifier, data, quiet())
    margins = planted.margins(classifier, planted.pictures(100))
    assert (margins > 0).float().mean() > 0.85, "0.8 before"


def test_what_is_refused():
    for options, message in (
        ({"score": "rgn"}, "does not score neurons: level='neuron' takes spectrum_gradient"),
        ({"score": "gradeint"}, "did you mean 'gradient'"),
        ({"blocks": 2}, "top= says how many"),
    ):
        with pytest.raises(OptionError, match=message):
            named("finetune", level="neuron", **options)
