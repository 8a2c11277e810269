"""What a model does that its owner should know of is told once, and of nothing else."""

import planted
import pytest
import torch
from torch import nn

from timm_repair import repair
from timm_repair.errors import AssumptionWarning, DataError
from timm_repair.models.answering import logits, made_up
from timm_repair.models.doubts import warn_of_doubts


class Around(nn.Module):
    """Answers with what `change` makes of the answers of a model."""

    def __init__(self, model: nn.Module, change):
        super().__init__()
        self.model, self.change = model, change
        self.pretrained_cfg = dict(model.pretrained_cfg)
        self.num_classes = model.num_classes

    def forward(self, x):
        return self.change(self.model(x))


DOUBTS = {
    "depends on the other images": lambda y: y - y.mean(dim=0, keepdim=True),
    "answers with probabilities": lambda y: y.softmax(dim=1),
}


@pytest.mark.parametrize("told", DOUBTS)
def test_answers_that_are_not_what_they_seem(told, classifier):
    with pytest.warns(AssumptionWarning, match=told) as caught:
        warn_of_doubts(Around(classifier, DOUBTS[told]))
    assert len(caught) == 1


def test_an_ordinary_model_is_not_doubted(classifier, recwarn):
    warn_of_doubts(classifier)
    warn_of_doubts(Around(classifier, lambda y: y))
    warn_of_doubts(Around(classifier, lambda y: y.log_softmax(dim=1)))
    assert not recwarn.list


def pruned(model: nn.Module, every: int = 3) -> str:
    """Zero in a part of the weights of all larger layers; the name of the first."""
    large = {name: p for name, p in model.named_parameters() if p.ndim > 1 and p.numel() >= 1024}
    with torch.no_grad():
        for weight in large.values():
            weight.view(-1)[::every] = 0
    return next(iter(large))


def test_weights_that_were_pruned_for_good(classifier):
    pruned(classifier)
    with pytest.warns(AssumptionWarning, match="3[34]% of the weights of .* are exactly zero"):
        warn_of_doubts(classifier)


def test_few_zeros_or_few_layers_with_them_are_not_pruned(classifier, recwarn):
    largest = max(classifier.parameters(), key=torch.numel)
    with torch.no_grad():
        largest.view(-1)[::3] = 0
    warn_of_doubts(classifier)
    with torch.no_grad():
        largest.fill_(0.01)
    pruned(classifier, every=9)
    warn_of_doubts(classifier)
    assert not recwarn.list


def test_a_repair_tells_it(classifier):
    pruned(classifier)
    pairs = [(image, (k + 1) % planted.CLASSES) for image, k in planted.pictures(40, seed=1)]
    options = {"level": "network", "steps": 1, "batch_size": 4, "progress": False}
    with pytest.raises(AssumptionWarning, match="exactly zero"):  # warnings are errors here
        repair(classifier, pairs, method="finetune", diagnose=False, images=False, **options)


MORE = {
    "tuple": (lambda y: (y, y), r"tuple of 2: .*model\(x\)\[0\]"),
    "dict": (lambda y: {"aux": y, "logits": y}, r"dict of 2: .*model\(x\)\['logits'\]"),
    "dict of others": (lambda y: {"out": y}, r"dict of 1: .*model\(x\)\['out'\]"),
    "classes": (lambda y: y.argmax(dim=1), r"not \(4,\); is it an image classifier\?$"),
}


@pytest.mark.parametrize("kind", MORE)
def test_what_to_do_about_a_model_that_returns_more(kind, classifier):
    change, message = MORE[kind]
    model = Around(classifier, change)
    with pytest.raises(DataError, match=message):
        logits(model, made_up(classifier.pretrained_cfg["input_size"], model))
