"""corrupt(): any source keeps its labels and names, options are checked, images that cannot be are refused."""

import datasets
import numpy as np
import planted
import pytest
import torch
from images.photographs import SETS, change, photographs
from PIL import Image

import timm_repair
from timm_repair import CORRUPTIONS, as_images, collect_failures, corrupt
from timm_repair.errors import DataError, NoFailuresError, OptionError
from timm_repair.images.corruptions import kernels as kernels
from timm_repair.images.corruptions.parameters import PARAMETERS


@pytest.fixture(scope="module")
def photos() -> dict[str, np.ndarray]:
    return {kind: photographs(side, count) for kind, (side, count) in SETS.items()}


class Named(torch.utils.data.Dataset):
    """Names its classes as torchvision's datasets do, and has no list of labels."""

    def __init__(self, pairs: list, names: list[str]):
        self.pairs, self.classes = pairs, names

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, i: int) -> tuple:
        return self.pairs[i]


NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


@pytest.fixture
def named(classifier):
    """The classifier, which names its classes, in another order than the datasets below."""
    classifier.pretrained_cfg["label_names"] = NAMES[::-1]
    return classifier


@pytest.fixture(params=["torch", "datasets", "folder", "parquet"])
def source(request, pictures, tmp_path):
    pairs = pictures["unseen"][:30]
    if request.param == "torch":
        return Named(pairs, NAMES)
    if request.param == "folder":
        for i, (image, label) in enumerate(pairs):
            (tmp_path / NAMES[label]).mkdir(exist_ok=True)
            image.save(tmp_path / NAMES[label] / f"{i:03}.png")
        return str(tmp_path)
    features = datasets.Features(
        {"scan": datasets.Image(), "digit": datasets.ClassLabel(names=NAMES)}
    )
    columns = {"scan": [image for image, _ in pairs], "digit": [label for _, label in pairs]}
    table = datasets.Dataset.from_dict(columns, features=features)
    if request.param == "datasets":
        return table
    table.to_parquet(tmp_path / "pictures.parquet")
    return tmp_path / "pictures.parquet"


def test_any_source_keeps_its_labels_and_names(source, named, offline):
    clean = as_images(source, named)
    found = corrupt(source, "fog", 4, seed=2)
    images = as_images(found, named)
    assert len(found) == len(images) == 30 and torch.equal(images.labels, clean.labels)
    assert (
        images.origin["label_mapping"] == clean.origin["label_mapping"]
        and images.labels.unique().numel() == 10
    )
    expected = corrupt(clean.pixels(range(30)), "fog", 4, seed=2)
    assert torch.equal(images.pixels(range(30)), expected)
    order = [17, 3, 29, -1]  # of access: it does not matter
    assert all(np.array_equal(np.asarray(found[i][0]), expected[i, 0]) for i in order)
    assert found.origin | {"corruption": "fog", "severity": 4, "seed": 2} == found.origin
    with pytest.raises(IndexError):
        found[30]


def test_a_plain_list_and_images_made_for_a_model(deployed, pictures):
    pairs = pictures["unseen"][:20]
    clean = as_images(pairs, deployed)
    expected = corrupt(clean.pixels(range(20)), "shot_noise", parameters="imagenet")
    for given in (pairs, clean):
        found = as_images(corrupt(given, "shot_noise", parameters="imagenet"), deployed)
        assert torch.equal(found.pixels(range(20)), expected) and torch.equal(
            found.labels, clean.labels
        )
    some = corrupt(clean.subset([4, 9]), "contrast")
    assert [label for _, label in some] == [pairs[4][1], pairs[9][1]] and np.array_equal(
        np.asarray(some[1][0]), np.asarray(corrupt(pairs, "contrast")[9][0])
    )
    both = corrupt(corrupt(pairs, "contrast"), "pixelate")
    assert change(np.asarray(corrupt(pairs, "contrast")[0][0]), np.asarray(both[0][0])) > 0


def test_failures_are_found_under_a_corruption(pictures, runtime):
    """A classifier that has every picture right gets most of them wrong: exactly these are
    found.
    """
    model, noise = planted.classifier(), {"severity": 5, "parameters": "imagenet"}
    with pytest.raises(NoFailuresError, match="all 200 examples"):
        collect_failures(model, pictures["unseen"], runtime=runtime)
    wrong, right = planted.wrong_by(
        model, list(corrupt(pictures["unseen"], "impulse_noise", **noise))
    )
    clear = {image.tobytes() for image, _ in wrong + right}  # where no rounding decides
    found = collect_failures(
        model, corrupt(pictures["unseen"], "impulse_noise", **noise), runtime=runtime
    )
    pixels = [each.numpy().tobytes() for each in found.pixels(range(len(found)))]
    assert [each for each in pixels if each in clear] == [image.tobytes() for image, _ in wrong]
    assert 100 < len(wrong) <= len(found) <= 200 - len(right)
    assert found.error_rate == len(found) / 200


def test_columns_can_be_chosen(pictures):
    columns = {
        "a": [i for i, _ in pictures["unseen"][:3]],
        "b": [i for i, _ in pictures["unseen"][3:6]],
        "label": [2, 0, 1],
    }
    table = (
        datasets.Dataset.from_dict(columns)
        .cast_column("a", datasets.Image())
        .cast_column("b", datasets.Image())
    )
    splits = datasets.DatasetDict({"first": table, "second": table.select([2, 1])})
    with pytest.raises(DataError, match="choose one with split="):
        corrupt(splits, "contrast")
    with pytest.raises(DataError, match="image_column="):
        corrupt(table, "contrast")
    found = corrupt(splits, "contrast", split="second", image_column="b", label_column="label")
    assert [label for _, label in found] == [1, 0]
    with pytest.raises(OptionError, match="choose from a dataset"):
        corrupt(np.zeros((1, 32, 32, 3), np.uint8), "contrast", split="test")


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "LA", "P", "1", "I;16", "CMYK"])
def test_one_image_of_any_mode(photos, mode):
    image = Image.fromarray(photos["tiny"][0])
    image = (
        Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 256)
        if mode == "I;16"
        else image.convert(mode)
    )
    found = corrupt(image, "gaussian_noise", 2)
    assert found.size == image.size and found.mode == (
        "L" if mode in ("L", "LA", "1", "I;16") else "RGB"
    )
    plain = (
        image.convert("RGB")
        if found.mode == "RGB"
        else Image.fromarray(photos["tiny"][0]).convert("L")
    )
    if mode != "1":
        array = np.asarray(plain).reshape(1, *image.size[::-1], -1)
        assert np.array_equal(
            np.asarray(found).reshape(array.shape), corrupt(array, "gaussian_noise", 2)
        )


def test_the_fifteen_come_first():
    common = [name for name, family in CORRUPTIONS.items() if family != "extra"]
    assert len(common) == 15 and list(CORRUPTIONS)[:15] == common and len(CORRUPTIONS) == 19
    for kind in SETS:
        assert set(PARAMETERS[kind]) == set(CORRUPTIONS) and {
            len(row) for row in PARAMETERS[kind].values()
        } == {5}
    assert timm_repair.corrupt(np.zeros((0, 32, 32, 3), np.uint8), "fog").shape == (0, 32, 32, 3)


IMAGES = np.zeros((2, 32, 32, 3), np.uint8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "gausian_noise"}, "did you mean 'gaussian_noise'"),
        ({"name": "fog", "parameters": "imagnet"}, "did you mean 'imagenet'"),
        ({"name": "fog", "severity": 0}, "1, 2, 3, 4 or 5"),
        ({"name": "fog", "severity": 6}, "1, 2, 3, 4 or 5"),
        ({"name": "fog", "severity": 2.5}, "1, 2, 3, 4 or 5"),
        ({"name": "fog", "severity": True}, "1, 2, 3, 4 or 5"),
        ({"name": "fog", "severity": "3"}, "1, 2, 3, 4 or 5"),
        ({"name": "fog", "seed": 0.5}, "must be an integer"),
    ],
)
def test_options_are_checked_at_once(options, message):
    for images in (IMAGES, "no/such/dataset"):
        with pytest.raises(OptionError, match=message):
            corrupt(images, **options)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (IMAGES.astype(np.float32), "uint8 .* not float32; scale, round and convert"),
        (torch.zeros(2, 3, 32, 32), r"uint8 .* not torch\.float32"),
        (IMAGES[0], r"for one image, give images\[None\]"),
        (torch.zeros(3, 32, 32, dtype=torch.uint8), r"for one image, give images\[None\]"),
        (IMAGES.transpose(0, 3, 1, 2), "move the axis of the channels"),
        (torch.from_numpy(IMAGES), "move the axis of the channels"),
        (IMAGES[:, :7], "32 x 7 pixels are too small"),
        (Image.new("F", (32, 32)), "floating point image"),
        ("no/such/folder/anywhere", "does not exist"),
        ([], "holds no examples"),
        (
            torch.utils.data.TensorDataset(torch.zeros(2, 3, 32, 32) - 1, torch.zeros(2)),
            "already applied",
        ),
        (3, "cannot take images from int"),
    ],
)
def test_what_cannot_be_corrupted_is_refused(images, message):
    with pytest.raises(DataError, match=message):
        corrupt(images, "contrast")


def test_an_unreadable_image_is_judged_with_the_others(deployed, pictures, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"nothing")
    found = corrupt([*pictures["unseen"][:12], (tmp_path / "broken.png", 3)], "fog")
    with pytest.raises(DataError, match="12 cannot be read"):
        as_images(found, deployed)
    assert len(as_images(found, deployed, on_unreadable="skip")) == 12
