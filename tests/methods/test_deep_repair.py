"""DeepRepair: every cluster of failures has a reference, its style is transferred by a formula, and a
chain that has STYLE begins with it.
"""

import numpy as np
import planted
import pytest
import torch
from cases import BUDGET
from changed import wrong_when_washed
from making import repair_data
from PIL import Image

import timm_repair
from timm_repair import methods
from timm_repair.errors import OptionError
from timm_repair.training.transforming.chains import Mixture
from timm_repair.training.transforming.operations import OPERATIONS, posterize
from timm_repair.training.transforming.styled import Styled
from timm_repair.training.transforming.styles import Styling, by_fourier, by_statistics, references

POSTERIZE = OPERATIONS.index(posterize)


def greys(*levels: int, label: int = 0) -> list[planted.Pair]:
    """Pictures of noise around these grey levels."""
    noise = np.random.default_rng(0)
    images = [np.clip(noise.normal(level, 5, (32, 32)), 0, 255) for level in levels]
    return [(Image.fromarray(image.astype(np.uint8)), label) for image in images]


# ---- references


def test_a_reference_from_every_cluster_of_every_class(runtime):
    model = planted.classifier()
    pairs = greys(*[20, 120, 220] * 6) + greys(*[70, 170] * 6, label=4)
    failing = repair_data(model, pairs, None).failing
    rows = references(failing, Styling(clusters=3), runtime)
    assert len(rows.unique()) == len(rows) and set(failing.labels[rows].tolist()) == {0, 4}
    levels = failing.pixels(rows).float().mean((1, 2, 3))
    of_first = sorted(round(float(level), -1) for level in levels[failing.labels[rows] == 0])
    assert of_first == [20, 120, 220]
    assert 2 <= len(rows) - 3 <= 3
    assert torch.equal(rows, references(failing, Styling(clusters=3), runtime))
    few = references(failing, Styling(clusters=5, references_from=2), runtime)
    assert len(few) == 4, "no more than are looked at"


# ---- styles


@pytest.fixture
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(256, (3, 3, 16, 15), generator=generator, dtype=torch.uint8)
    return x, (torch.rand(3, 3, 16, 15, generator=generator) ** 3 * 200).to(torch.uint8)


def test_statistics_are_those_of_the_reference(pair):
    x, z = pair
    found = by_statistics(x, z).double()
    for i, j in np.ndindex(3, 3):
        assert found[i, j].mean().isclose(z[i, j].double().mean(), rtol=1e-4)
        assert found[i, j].std().isclose(z[i, j].double().std(), rtol=1e-4)
        order = x[i, j].flatten().long().argsort(stable=True)
        assert (found[i, j].flatten()[order].diff() > -1e-3).all(), "what is lighter stays lighter"


def test_amplitudes_are_those_of_the_reference_and_phases_those_of_the_image(pair):
    x, z = pair
    found = np.fft.fft2(by_fourier(x, z).double().numpy())
    own, theirs = (np.fft.fft2(each.double().numpy()) for each in (x, z))
    assert np.allclose(np.abs(found), np.abs(theirs), rtol=1e-3, atol=0.5)
    same = np.abs(np.exp(1j * np.angle(found)) - np.exp(1j * np.angle(own)))
    assert same[np.abs(theirs) > 20].max() < 0.02


@pytest.mark.parametrize("transfer", [by_statistics, by_fourier])
def test_its_own_style_changes_nothing(pair, transfer):
    assert (transfer(pair[0], pair[0]) - pair[0].float()).abs().max() < 0.01


def test_style_is_applied_once_and_first():
    failing = repair_data(planted.classifier(), greys(30, 200), None).failing
    styled = Styled(Mixture(width=1, depth=3), failing, torch.tensor([0, 1]), "statistics")
    style = len(OPERATIONS)
    x = failing.pixels([0, 0, 0, 0])

    def chain(length: int, *chosen: int) -> list[float]:
        numbers = [1.0, 1.0, length]
        for operation in chosen:
            numbers += [(operation + 0.5) / (style + 1), 3.0, 1.0]
        return [*numbers, 0.5]  # the second of two references

    drawn = torch.tensor(
        [
            chain(3, POSTERIZE, style, style),
            chain(1, style, POSTERIZE, POSTERIZE),
            chain(1, POSTERIZE, style, style),
            chain(2, style, POSTERIZE, style),
        ]
    )
    found = styled(x, torch.zeros(4), drawn)
    light = by_statistics(x, failing.pixels([1] * 4)).round().clamp(0, 255)
    three_bits = (light / 32).floor() * 32
    assert torch.equal(found[0], three_bits[0]) and torch.equal(found[3], three_bits[3])
    assert torch.equal(found[1], light[1])
    assert torch.equal(found[2], (x[2].float() / 32).floor() * 32), (
        "beyond its length it is nothing"
    )


# ---- planted


@pytest.mark.parametrize("transfer", ["fourier", "statistics"])
def test_washed_pictures_are_right_afterwards(transfer):
    """No failure is trained on: their style is enough."""
    sure = planted.classifier()
    failures = wrong_when_washed(sure, 300, seed=1, at_least=30)
    repaired = timm_repair.repair(
        sure,
        failures,
        retain=planted.pictures(200, 2),
        method="deep_repair",
        transfer=transfer,
        strength=2.0,
        width=1,
        diagnose=False,
        progress=False,
        **BUDGET | {"steps": 80, "batch_size": 32, "evaluations": 2},
    )
    wrong = wrong_when_washed(sure, 200, seed=3, at_least=20)
    assert (planted.margins(repaired.model, wrong) > 0).float().mean() > 0.6
    assert (planted.margins(repaired.model, planted.pictures(100, 4)) > 0).float().mean() > 0.95


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"transfer": "fourrier"}, "did you mean 'fourier'"),
        ({"clusters": 0}, "at least 1"),
        ({"strength": -1.0}, "must not be negative"),
        ({"blocks": 2}, "blocks= is not used by deep_repair"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(OptionError, match=message):
        methods.named("deep_repair", **options)
