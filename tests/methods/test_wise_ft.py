"""WiSE-FT: a point between two sets of weights, with statistics that belong to it, in whatever the
other method has changed.
"""

from dataclasses import dataclass, field

import planted
import pytest
import torch
from making import quiet
from torch import nn

from timm_repair import methods, repair
from timm_repair.errors import NoEffectWarning, OptionError
from timm_repair.methods.finetune import FineTune
from timm_repair.methods.method import Outcome
from timm_repair.methods.wise_ft import WiseFT, _original, _part
from timm_repair.models.copying import copied
from timm_repair.training import interpolation
from timm_repair.training.batches import Batches
from timm_repair.training.job import Job
from timm_repair.training.options import Training
from timm_repair.training.recalibration import batch_norms

TINY = Training(steps=4, batch_size=8, evaluations=1, hflip=0.0, shift=0.0)


def two_patterns(first: float, second: float) -> nn.Module:
    """Answers 0 to the first pattern where `first` is above 0, to the second likewise, and to the
    third always.
    """
    model = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(16, 2)).eval()
    patterns = torch.from_numpy(planted.PATTERNS[:3].reshape(3, 16) - 128).float()
    with torch.no_grad():
        weight = (first * patterns[0] + second * patterns[1] + patterns[2]) / 90
        model[2].weight.copy_(torch.stack([weight, -weight]))
        model[2].bias.zero_()
    model.num_classes = 2
    model.pretrained_cfg = {
        "input_size": (1, 32, 32),
        "mean": (128 / 255,),
        "std": (0.25,),
        "crop_pct": 1.0,
    }
    return model


@dataclass(frozen=True)
class Moves:
    """Another method, which adds so much to each of the two."""

    by: float = 1.0
    training: Training = field(default_factory=lambda: TINY)
    name = "moves"

    def repair(self, model, data, runtime):
        both = two_patterns(self.by, self.by)[2].weight - two_patterns(0, 0)[2].weight
        with torch.no_grad():
            model[2].weight.add_(both)
        return Outcome(model)


def test_what_is_right_only_in_between_is_found():
    """The first pattern needs more than 0.35 of the way, the second less than 0.75."""
    model = two_patterns(-0.35, -0.75)
    pairs = [(image, label % 2) for image, label in planted.pictures(180, classes=3)]
    wrong, right = planted.wrong_by(model, pairs, at_least=60)
    assert {label for _, label in wrong} == {0} and len(right) == 120
    given = {"retain": right, "progress": False, "diagnose": False}
    all_the_way = repair(model, wrong, method=Moves(), **given)
    broken = (planted.margins(all_the_way.model, right) < 0).sum()
    assert broken == 60, "which breaks what was right"
    repaired = repair(model, wrong, method=WiseFT(of=Moves()), **given)
    assert (planted.margins(repaired.model, pairs) > 0).all()
    assert "of the way" in repaired.report.notes[0] and "moves" in repaired.report.notes[0]


def test_weights_and_statistics_of_a_share_by_hand(deployed, data, monkeypatch):
    """θ_a = (1 - a) θ_0 + a θ_1, and the moments of what then arrives at a norm."""
    one, two = copied(deployed), copied(deployed)
    with torch.no_grad():
        for number, parameter in enumerate(two.parameters()):
            parameter.mul_(1 + 0.01 * (number % 5))
        for norm in batch_norms(two):
            norm.running_mean.add_(0.01)
    job = Job(two, data, TINY, quiet())
    shares = {0.0: 0.0, 0.3: 1.0, 1.0: 0.0}
    asked = iter(sorted(shares))
    monkeypatch.setattr(interpolation, "objective", lambda *_: shares[next(asked)])
    original, repaired = ({n: t.clone() for n, t in m.state_dict().items()} for m in (one, two))
    path = {}
    assert interpolation.interpolate(job, two, original, shares=[0.3], batches=3, path=path) == 0.3
    assert path == shares
    for name, parameter in two.named_parameters():
        torch.testing.assert_close(
            parameter.detach(), 0.7 * original[name] + 0.3 * repaired[name], rtol=1e-5, atol=1e-6
        )
    # a slow reference for the first norm: what arrives there depends on no other
    supply, arrived = Batches(data, TINY, quiet(), "recalibration"), []
    norm = next(module for module in two.modules() if isinstance(module, nn.BatchNorm2d))
    norm.register_forward_pre_hook(lambda _, inputs: arrived.append(inputs[0]))
    with torch.no_grad():
        for _ in range(3):
            two(supply.draw()[0])
    means = torch.stack([x.mean((0, 2, 3)) for x in arrived]).mean(0)
    variances = torch.stack([x.transpose(0, 1).flatten(1).var(1) for x in arrived]).mean(0)
    torch.testing.assert_close(norm.running_mean, means, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(norm.running_var, variances, rtol=1e-4, atol=1e-5)


def test_statistics_that_the_other_method_left_alone_stay(deployed, data, monkeypatch):
    """Renewing them would be another repair."""
    one, two = copied(deployed), copied(deployed)
    with torch.no_grad():
        for parameter in two.parameters():
            parameter.mul_(1.01)
    job = Job(two, data, TINY, quiet())
    asked = iter([0.0, 1.0, 0.0])
    monkeypatch.setattr(interpolation, "objective", lambda *_: next(asked))
    interpolation.interpolate(job, two, one.state_dict(), shares=[0.3], batches=3)
    found, expected = dict(two.named_buffers()), dict(one.named_buffers())
    assert expected and all(torch.equal(found[name], each) for name, each in expected.items())


ADDED = {"block": "layer3", "genotype": "random"}
SHORT = {"steps": 8, "batch_size": 16, "evaluations": 1, "hflip": 0.0, "shift": 0.0}


def test_added_paths_begin_at_the_original_function(classifier, data, pictures):
    x = planted.inputs(classifier, pictures["unseen"][:8])
    before, expected = copied(classifier), classifier(x)
    outcome = methods.named("archrepair", **ADDED, **SHORT).repair(classifier, data, quiet())
    model = outcome.model.eval()
    gains = [p for name, p in model.named_parameters() if ".gains." in name]
    with torch.no_grad():
        for gain in gains:
            gain.fill_(0.3)
    assert gains and not torch.allclose(model(x), expected, atol=1e-2)
    part = _part(model, outcome)
    found = {n: t.clone() for n, t in part.state_dict().items() if ".operations." in n}
    part.load_state_dict(_original(before, outcome))
    torch.testing.assert_close(model(x), expected)
    assert found and all(torch.equal(t, part.state_dict()[n]) for n, t in found.items())


def test_all_the_way_back_is_the_plain_model(classifier, failures, pictures, monkeypatch):
    monkeypatch.setattr(interpolation, "objective", lambda *_: 0.5)
    given = {"retain": pictures["train"][:100], "progress": False, "diagnose": False}
    options = {"method": "wise_ft", "of": "archrepair", "options": ADDED} | SHORT
    with pytest.warns(NoEffectWarning):
        repaired = repair(classifier, failures, **given, **options)
    assert repaired.edits == () and repaired.report.genotypes["layer3"]["edges"] == []
    before, after = classifier.state_dict(), repaired.model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[n], after[n]) for n in before)


def test_the_other_method_and_its_options():
    method = methods.named("wise_ft", of="finetune", options={"level": "block"}, steps=7)
    assert method.inner == FineTune(level="block", training=Training(steps=7))
    own = FineTune(level="layer", training=Training(steps=9))
    assert WiseFT(of=own).inner is own and WiseFT(of=own).training.steps == 9
    for options, message in (
        ({"of": "finetun"}, "did you mean 'finetune'"),
        ({"options": {"levle": "block"}}, "did you mean 'level'"),
        ({"options": {"steps": 3}}, "not both"),
        ({"of": own, "training": Training(steps=3)}, "on your object"),
        ({"grid": 0}, "grid"),
    ):
        with pytest.raises(OptionError, match=message):
            WiseFT(**options)


def test_nothing_to_go_back_renews_no_statistics(classifier, data):
    before = {n: t.clone() for n, t in classifier.state_dict().items()}
    outcome = WiseFT(of="noop").repair(classifier, data, quiet())
    assert "left nothing" in outcome.notes[-1]
    assert all(torch.equal(t, before[n]) for n, t in classifier.state_dict().items())
