"""Augmentations: what each of them owes training, and what flips and shifts are."""

import pytest
import torch
from cases import AUGMENTATION_CASES
from making import quiet
from torch.nn import functional as F

from timm_repair.errors import OptionError
from timm_repair.options import make
from timm_repair.training.augmentations import AUGMENTATIONS, chosen
from timm_repair.training.augmentations.flips import Flips
from timm_repair.training.options import Augmenting, Training
from timm_repair.training.populations import Populations


@pytest.fixture
def pixels() -> torch.Tensor:
    return torch.randint(256, (12, 3, 16, 24), dtype=torch.uint8)


def test_every_augmentation_has_a_row():
    assert set(AUGMENTATION_CASES) == set(AUGMENTATIONS)


@pytest.mark.parametrize("name", AUGMENTATION_CASES)
def test_the_contract(name, pixels):
    ours, size, before = AUGMENTATIONS[name](**AUGMENTATION_CASES[name]), (16, 24), pixels.clone()
    drawn, again = (ours.draw(12, size, torch.Generator().manual_seed(3)) for _ in range(2))
    assert drawn.device.type == "cpu" and drawn.ndim == 2 and len(drawn) == 12
    assert torch.equal(drawn, again), "the same generator gives the same"
    assert ours.varies(size) == (len(drawn.unique(dim=0)) > 1)
    changed = ours(pixels, drawn)
    assert changed.shape == pixels.shape and changed.dtype == torch.uint8
    assert torch.equal(pixels, before), "the images given are not changed"
    assert not torch.equal(changed, pixels)
    # an image is changed by its own parameters alone, whatever stands beside it
    some = torch.tensor([7, 2, 11])
    assert torch.equal(ours(pixels[some], drawn[some]), changed[some])


def test_by_name_or_yours():
    assert chosen(Augmenting(hflip=0.25, shift=0.0)) == Flips(hflip=0.25, shift=0.0)
    mine = Flips(hflip=1.0)
    assert chosen(Augmenting(augmentation=mine)) is mine
    with pytest.raises(OptionError, match="unknown augmentation 'flipps'; did you mean 'flips'"):
        chosen(Augmenting(augmentation="flipps"))


class Darker:
    """An augmentation of one's own, which does not vary."""

    def varies(self, size):
        return False

    def draw(self, count, size, generator):
        return torch.full((count, 1), 2)

    def __call__(self, pixels, drawn):
        return pixels // drawn.view(-1, 1, 1, 1).to(pixels.dtype)


def test_yours_reaches_the_images(data):
    options = make(Training, {"augmentation": Darker(), "views": 5})
    populations = Populations(data, options, quiet())
    assert populations.views == 1, "one view where no two drawings differ"
    rows = torch.arange(4)
    seen = populations.images(populations.view("failing", rows, torch.zeros_like(rows)))
    assert torch.equal(seen, data.preprocessing.normalize(data.failing.pixels(rows) // 2, "cpu"))


# ---- flips


def augmented(pixels, runtime, **options):
    flips = Flips(**{"hflip": 0.0, "shift": 0.0} | options)
    drawn = flips.draw(len(pixels), pixels.shape[2:], runtime.generator("test"))
    return flips(pixels, drawn)


def test_no_flip_and_no_shift_are_the_identity(data, runtime):
    pixels = data.failing.pixels(range(10))
    assert torch.equal(augmented(pixels, runtime), pixels)


def test_a_flip_is_a_mirror_image(data, runtime):
    pixels = data.failing.pixels(range(10))
    assert torch.equal(augmented(pixels, runtime, hflip=1.0), pixels.flip(3))


@pytest.mark.parametrize(("channels", "height", "width"), [(1, 32, 32), (3, 16, 40)])
def test_a_shift_moves_the_image_and_reflects_its_border(runtime, channels, height, width):
    pixels = torch.randint(256, (40, channels, height, width), dtype=torch.uint8)
    shifted = augmented(pixels, runtime, shift=0.125)
    assert shifted.shape == pixels.shape and shifted.dtype == torch.uint8
    dy, dx = round(0.125 * height), round(0.125 * width)
    padded = F.pad(pixels.float(), (dx, dx, dy, dy), mode="reflect").to(torch.uint8)
    places = set()
    for image, source in zip(shifted, padded, strict=True):
        windows = {
            (y, x): source[:, y : y + height, x : x + width]
            for y in range(2 * dy + 1)
            for x in range(2 * dx + 1)
        }
        found = [place for place, window in windows.items() if torch.equal(image, window)]
        assert len(found) == 1
        places.add(found[0])
    assert len(places) > 20 and {y for y, _ in places} >= {0, 2 * dy}
