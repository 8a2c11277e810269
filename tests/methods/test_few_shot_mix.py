"""Few-shot mixing, by its working definition: AugMix by its formula, and one chain led by a failure
of the same class.
"""

from dataclasses import replace

import numpy as np
import planted
import pytest
import torch
from cases import BUDGET
from changed import wrong_when_washed
from making import quiet, repair_data
from PIL import ImageOps
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as pil

import timm_repair
from timm_repair import methods
from timm_repair.errors import OptionError
from timm_repair.training import consistency
from timm_repair.training.batches import Batches
from timm_repair.training.consistency import ConsistencyLoss, divergence
from timm_repair.training.job import Job
from timm_repair.training.mixing import counts
from timm_repair.training.options import Training
from timm_repair.training.transforming import operations
from timm_repair.training.transforming.chains import Chains, Mixture
from timm_repair.training.transforming.guided import Guided

POSTERIZE, SOLARIZE = (
    operations.OPERATIONS.index(each) for each in (operations.posterize, operations.solarize)
)


@pytest.fixture
def pixels() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(20, 220, (4, 3, 16, 24), generator=generator, dtype=torch.uint8)


def drawn_by_hand(m: float, *chains: tuple[float, list[tuple[int, float, float]]], images: int = 4):
    """What `Chains.draw` gives, for chains of a weight and (operation, level, sign) places."""
    numbers = [m, *(weight for weight, _ in chains)]
    depth = max(len(places) for _, places in chains)
    for _, places in chains:
        numbers.append(len(places))
        for operation, level, sign in places + [(0, 1, 1)] * (depth - len(places)):
            numbers += [(operation + 0.5) / len(operations.OPERATIONS), level, sign]
    return torch.tensor([numbers] * images), Mixture(width=len(chains), depth=depth)


# ---- AugMix


def test_the_mixture_by_hand(pixels):
    drawn, options = drawn_by_hand(
        0.4, (0.3, [(POSTERIZE, 3, 1), (SOLARIZE, 5, 1)]), (0.7, [(SOLARIZE, 5, -1)])
    )
    x = pixels.numpy().astype(float)
    posterized = (x // 32) * 32  # 4 - int(1.2) = 3 bits

    def solarized(x):
        return np.where(x < 128, x, 255 - x)

    expected = 0.6 * x + 0.4 * (0.3 * solarized(posterized) + 0.7 * solarized(x))
    found = Chains(options)(pixels, torch.zeros(4), drawn)
    assert np.allclose(found.numpy(), expected, atol=1e-3)


def test_the_operations_of_whole_images_are_those_of_pil(pixels):
    level, sign = torch.full((4,), 2.5), torch.ones(4)
    theirs = {
        operations.autocontrast: ImageOps.autocontrast,
        operations.equalize: ImageOps.equalize,
        operations.posterize: lambda image: ImageOps.posterize(image, 3),
        operations.solarize: lambda image: ImageOps.solarize(image, 192),
    }
    for images in (pixels, pixels[:, :1]):
        for ours, reference in theirs.items():
            expected = [pil.pil_to_tensor(reference(pil.to_pil_image(x))) for x in images]
            found = ours(images, level, sign).int() - torch.stack(expected).int()
            assert found.abs().max() <= 1, ours.__name__


def test_each_image_is_moved_by_its_own_level(pixels):
    level, sign = torch.tensor([0.2, 2.6, 2.6, 10.0]), torch.tensor([1.0, 1, -1, 1])
    moved = operations.translate_x(pixels, level, sign)
    for i, shift in enumerate((0, 2, -2, 8)):  # of 24 / 3 · level / 10
        inner = slice(max(shift, 0), 24 + min(shift, 0))
        outer = slice(max(-shift, 0), 24 + min(-shift, 0))
        assert torch.equal(moved[i, :, :, inner], pixels[i, :, :, outer])


def test_what_is_drawn():
    drawn = Chains(Mixture()).draw(2000, torch.Generator().manual_seed(0))
    weights, lengths = drawn[:, 1:4], drawn[:, [4, 14, 24]]
    assert torch.allclose(weights.sum(1), torch.ones(2000))
    assert weights.mean(0).sub(1 / 3).abs().max() < 0.02  # Dirichlet(1): variance 1/18
    assert weights.var(0).sub(1 / 18).abs().max() < 0.005
    assert drawn[:, 0].mean().sub(0.5).abs() < 0.02 and drawn[:, 0].var().sub(1 / 12).abs() < 0.005
    assert set(lengths.flatten().tolist()) == {1, 2, 3}
    levels = drawn[:, 6::3]
    assert levels.max() > 2.9


def test_the_divergence_by_hand():
    one, other = torch.tensor([[1.0, 1.0]]), torch.tensor([[0.0, np.log(3)]])
    p, q, mean = (0.5, 0.5), (0.25, 0.75), (0.375, 0.625)
    expected = (
        sum(a * np.log(a / m) for each in (p, q) for a, m in zip(each, mean, strict=True)) / 2
    )
    assert float(divergence([one, other])) == pytest.approx(expected, rel=1e-5)
    assert divergence([one, one, one]).abs() < 1e-7


class Fixed:
    """Changes an image by what was drawn, a grey level."""

    def draw(self, count, generator):
        return 10 + torch.rand(count, 1, generator=generator)

    def __call__(self, pixels, labels, drawn):
        return pixels.float() + drawn.view(-1, 1, 1, 1)


def test_the_loss_by_hand(classifier, data, runtime):
    job = Job(classifier, data, Training(**BUDGET | {"wrong_class_weight": 1.0}), runtime)
    loss = ConsistencyLoss(job, Fixed(), 12.0)
    twin = [Fixed().draw(16, g := torch.Generator().manual_seed(loss.generator.initial_seed())), Fixed().draw(16, g)]  # fmt: skip
    found = float(sum(loss(Batches(data, job.training, runtime, "test"), job.forward())).detach())
    batch = (supply := Batches(data, job.training, runtime, "test")).take()
    pixels, expected = supply.examples.pixels(*batch.parts), 0.0
    for i, label in enumerate(batch.labels):
        answers = []
        for changed in (pixels[i], pixels[i] + twin[0][i], pixels[i] + twin[1][i]):
            answers.append(classifier(data.preprocessing.normalize(changed[None]))[0].detach())
        p = [each.double().softmax(0) for each in answers]
        mean = sum(p) / 3
        jsd = sum(float((q * (q / mean).log()).nansum()) for q in p) / 3
        expected += float(F.cross_entropy(answers[0], label)) + 12 * float(jsd)
    assert found == pytest.approx(expected / 16, rel=1e-3, abs=1e-4)


# ---- led by failures


def test_one_chain_is_led_by_a_failure_of_the_same_class(classifier):
    pairs = [pair for pair in planted.pictures(40) if pair[1] in (1, 3)]
    failing = repair_data(classifier, pairs, None).failing
    drawn, options = drawn_by_hand(1.0, (0.25, [(SOLARIZE, 0, 1)]), (0.75, [(SOLARIZE, 0, 1)]))
    labels = torch.tensor([3, 1, 0, 9])
    # chain 1 of 0 and 1, a quarter through the failures of the class, λ = 0.2
    drawn = torch.cat([drawn, torch.tensor([[0.5, 0.25, 0.2]] * 4)], 1)
    guided = Guided(options, failing)
    rows = guided.leaders(labels, drawn[:, -2])
    assert failing.labels[rows[:2]].tolist() == [3, 1], "of another class any"
    assert rows[2] == rows[3] and 0 <= int(rows[2]) < len(failing)
    x = torch.full((4, 1, 32, 32), 77, dtype=torch.uint8)
    z = failing.pixels(rows).double()
    expected = 0.25 * 77 + 0.75 * (0.2 * 77 + 0.8 * z)
    assert (guided(x, labels, drawn).double() - expected).abs().max() < 1e-3


def test_every_failure_of_a_class_leads():
    images = repair_data(planted.classifier(), planted.pictures(60), None).failing
    guided, which = Guided(Mixture(), images), torch.arange(60) / 60
    for label in range(10):
        rows = guided.leaders(torch.full((60,), label), which).unique()
        assert rows.tolist() == list(range(label, 60, 10))


# ---- planted


@pytest.fixture(scope="module")
def sure():
    """Right on every picture, wrong on many that were washed out."""
    return planted.classifier()


@pytest.mark.parametrize("explains", [None, 1.0, 0.5])
def test_the_pattern_keeps_its_places_and_no_failure_has_any(
    explains, classifier, data, monkeypatch
):
    seen = {}

    def recorded(job, *_, **__):
        seen.update(counts(job.training, job.data))
        return [], ()

    monkeypatch.setattr(consistency, "tune", recorded)
    if explains is not None:
        data = replace(data, pattern=data.retained, pattern_explains=explains)
    data = replace(data, passing=data.retained, error_rate=0.5)
    methods.named("few_shot_mix", batch_size=48).repair(classifier, data, quiet())
    pattern = {} if explains is None else {"pattern": round(12 * explains)}
    retained = 48 - sum(pattern.values())
    assert seen == {"failing": 0, "passing": 0, "retained": retained} | pattern


def test_washed_pictures_are_right_afterwards(sure):
    failures = wrong_when_washed(sure, 300, seed=1, at_least=30)
    repaired = timm_repair.repair(
        sure,
        failures,
        retain=planted.pictures(200, 2),
        method="few_shot_mix",
        width=1,
        diagnose=False,
        progress=False,
        **BUDGET | {"steps": 150, "batch_size": 32, "evaluations": 2},
    )
    wrong = wrong_when_washed(sure, 200, seed=3, at_least=20)
    assert (planted.margins(repaired.model, wrong) > 0).float().mean() > 0.6
    assert (planted.margins(repaired.model, planted.pictures(100, 4)) > 0).float().mean() > 0.95


def test_without_retained_examples_the_failures_are_changed(sure):
    failures = wrong_when_washed(sure, 300, seed=1, at_least=30)
    report = timm_repair.repair(
        sure, failures, method="few_shot_mix", diagnose=False, progress=False, **BUDGET
    ).report
    assert any("the failures themselves were" in note for note in report.notes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strength": -1.0}, "must not be negative"),
        ({"severity": 11.0}, "at most 10"),
        ({"width": 0}, "width and depth"),
        ({"blocks": 2}, "blocks= is not used by few_shot_mix"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(OptionError, match=message):
        methods.named("few_shot_mix", **options)


@pytest.mark.parametrize("method", ["few_shot_mix", "deep_repair", "sensei"])
def test_plain_numbers_are_refused(method, classifier, data, runtime):
    numbers = replace(data, preprocessing=replace(data.preprocessing, input_size=(2,)))
    with pytest.raises(OptionError, match=f"{method} changes images"):
        methods.named(method).repair(classifier, numbers, runtime)
