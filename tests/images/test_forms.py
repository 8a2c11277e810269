"""Every form of images and labels that people have: read rightly, or refused with what to give."""

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from images.sources_of_images import NAMES, Plain, TorchData, image, red, table
from PIL import Image, ImageOps
from torch.utils.data import ConcatDataset, DataLoader, IterableDataset, Subset, TensorDataset

from timm_repair.errors import DataError, LabelError, OptionError
from timm_repair.images.decoding import open_image
from timm_repair.images.sources import as_images

LABELS = [2, 0, 1, 2]
PAIRS = [(image(i + 5), label) for i, label in enumerate(LABELS)]
PIXELS = np.stack([np.array(each) for each, _ in PAIRS])  # (N, H, W, C)
FIRST = torch.from_numpy(PIXELS).permute(0, 3, 1, 2)  # (N, C, H, W)


@pytest.fixture
def model():
    return Plain(NAMES)


class Endless(IterableDataset):
    """A torch dataset without a length."""

    def __iter__(self):
        return iter(PAIRS)


FORMS = {
    "list": lambda: PAIRS,
    "tuple of pairs": lambda: tuple(PAIRS),
    "images and labels": lambda: ([each for each, _ in PAIRS], LABELS),
    "list of images and labels": lambda: [[each for each, _ in PAIRS], LABELS],
    "dict of columns": lambda: {"image": [each for each, _ in PAIRS], "label": LABELS},
    "dict of one split": lambda: {"train": PAIRS},
    "frame": lambda: pd.DataFrame({"img": [each for each, _ in PAIRS], "target": LABELS}),
    "frame of names": lambda: pd.DataFrame(
        {"image": [each for each, _ in PAIRS], "class": pd.Categorical([NAMES[i] for i in LABELS])}
    ),
    "generator": lambda: (pair for pair in PAIRS),
    "generator of dicts": lambda: ({"image": each, "label": label} for each, label in PAIRS),
    "zip": lambda: zip(*zip(*PAIRS, strict=True), strict=True),
    "torch stream": Endless,
    "torch": lambda: TorchData(PAIRS),
    "subset": lambda: Subset(TorchData([*PAIRS, *PAIRS]), range(4)),
    "concat": lambda: ConcatDataset([TorchData(PAIRS[:1]), TorchData(PAIRS[1:])]),
    "array, channels last": lambda: (PIXELS, np.array(LABELS)),
    "array, labels (N, 1)": lambda: (PIXELS, np.array(LABELS)[:, None]),
    "array from 0 to 1": lambda: (PIXELS / 255, LABELS),
    "float32 to 255": lambda: (PIXELS.astype(np.float32), LABELS),
    "int64": lambda: (PIXELS.astype(np.int64), LABELS),
    "uint16": lambda: (PIXELS.astype(np.uint16) * 257, LABELS),
    "big-endian uint16": lambda: ((PIXELS.astype(np.uint16) * 257).astype(">u2"), LABELS),
    "tensor": lambda: (FIRST, torch.tensor(LABELS)),
    "float tensor": lambda: (FIRST / 255, torch.tensor(LABELS)),
    "half tensor": lambda: [
        (each.div(255).half(), y) for each, y in zip(FIRST, LABELS, strict=True)
    ],
    "tensor dataset": lambda: TensorDataset(FIRST / 255, torch.tensor(LABELS)),
    "arrays in a list": lambda: list(zip(PIXELS, LABELS, strict=True)),
    "floats in a list": lambda: list(zip(PIXELS / 255, LABELS, strict=True)),
    "dict of arrays": lambda: {"image": PIXELS, "label": np.array(LABELS)},
    "labels that are floats": lambda: [(each, float(y)) for each, y in PAIRS],
    "labels with spaces": lambda: [(each, f" {NAMES[y].replace(' ', '  ')} ") for each, y in PAIRS],
    "labels in tensors": lambda: [(each, torch.tensor([y])) for each, y in PAIRS],
    "hub's": lambda: datasets.Dataset.from_dict(
        {"image": [each for each, _ in PAIRS], "label": LABELS}
    ).cast_column("image", datasets.Image()),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_images(form, model):
    images = as_images(FORMS[form](), model)
    assert images.labels.tolist() == LABELS
    assert red(images) == [5, 6, 7, 8]
    assert images.summary().n == 4 and images.summary().left_out == {}


def test_two_of_each_are_columns_or_pairs_by_what_they_hold(model, tmp_path):
    paths = [str(tmp_path / f"{i}.png") for i in range(2)]
    for i, path in enumerate(paths):
        image(i + 5).save(path)
    for images in (paths, [image(5), image(6)]):
        for columns in ((images, ["dog", "cat"]), [images, ["dog", "cat"]], [images, [2, 0]]):
            found = as_images(columns, model)
            assert found.labels.tolist() == [2, 0] and red(found) == [5, 6]
        pairs = [[images[0], "dog"], [images[1], "cat"]]
        assert as_images(pairs, model).labels.tolist() == [2, 0]


def test_a_dict_of_the_images_of_each_class(model):
    found = as_images({"dog": [image(5), image(6)], "cat": [image(7)]}, model)
    assert found.labels.tolist() == [2, 2, 0] and red(found) == [5, 6, 7]
    with pytest.raises(DataError, match="there are splits train, test"):
        as_images({"train": PAIRS, "test": PAIRS}, model)


REFUSED = {
    "loader": (lambda: DataLoader(TorchData(PAIRS)), "loader.dataset"),
    "three": (lambda: [(each, y, 0) for each, y in PAIRS], "must be .image, label.*tuple of 3"),
    "one-hot": (lambda: [(each, np.eye(3)[y]) for each, y in PAIRS], "one-hot vector.*argmax"),
    "bool": (lambda: [(each, y > 1) for each, y in PAIRS], "give 0 and 1, or names"),
    "negative": (lambda: [(each, -2) for each, _ in PAIRS], "outside"),
    "from 1": (lambda: [(each, y + 1) for each, y in PAIRS], "count from 1: label_map="),
    "half": (lambda: [(each, y + 0.5) for each, y in PAIRS], "one class index or name"),
    "normalized": (
        lambda: TensorDataset((FIRST / 255 - 0.5) / 0.2, torch.tensor(LABELS)),
        "Normal",
    ),
    "missing": (lambda: [*PAIRS, (None, 0)], "images: image 4 cannot.*None.*on_unreadable='skip'"),
    "either layout": (lambda: [(np.zeros((3, 4, 4), np.uint8), 0)], "first or last"),
    "no layout": (lambda: [(np.zeros((7, 9, 8), np.uint8), 0)], "uint8 of shape"),
    "int32 above": (lambda: [(np.full((4, 4), 4000, np.int32), 0)], "uint16"),
    "complex": (lambda: [(np.zeros((4, 4), complex), 0)], "complex"),
    "NaN": (lambda: [(np.full((4, 4), np.nan), 0)], "nan"),
    "a column without a name": (lambda: ({0: ""}, []), "There are 0; say so with image_column="),
    "two columns": (lambda: {"image": [1], "label": [1, 2]}, "1 images in 'image', but 2 labels"),
    "two splits": (lambda: {"a": PAIRS, "b": PAIRS}, "choose one with split="),
    "empty dict": (lambda: {}, "dict is empty"),
    "own stream's error": (lambda: (1 / 0 for _ in PAIRS), "broke off after 0.*ZeroDivisionError"),
    "no pairs": (lambda: iter([1]), "example 0 must be"),
    "own error": (lambda: TorchData(Failing(PAIRS)), "KeyError"),
}


class Failing(list):
    """Fails as somebody's own dataset may."""

    def __getitem__(self, index):
        raise KeyError("absent")


@pytest.mark.parametrize("form", REFUSED)
def test_what_cannot_be_read_says_what_to_give(form, model):
    make, message = REFUSED[form]
    with pytest.raises(DataError, match=message):
        as_images(make(), model)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["HWC", "CHW", "HW"]),
    st.sampled_from([np.uint8, np.uint16, np.int16, np.int64, np.float16, np.float32, np.float64]),
    st.tuples(st.integers(5, 9), st.integers(5, 9)),
    st.sampled_from([1, 3, 4]),
    st.booleans(),
)
def test_any_layout_and_dtype_that_can_be_told(layout, dtype, size, channels, torched):
    """The pixels are what they were, whatever they are kept in."""
    rng = np.random.default_rng(sum(size) + channels)
    expected = rng.integers(0, 256, (*size, 1 if layout == "HW" else channels), dtype=np.uint8)
    expected[0, 0] = 255
    kept = expected[..., 0] if layout == "HW" else expected
    kept = np.moveaxis(kept, 2, 0) if layout == "CHW" else kept
    kept = kept.astype(dtype) * (257 if dtype is np.uint16 else 1)
    if torched and dtype is not np.uint16:
        kept = torch.from_numpy(np.ascontiguousarray(kept))
    found = np.asarray(open_image(kept))
    assert np.array_equal(found.reshape(expected.shape), expected)


def test_images_are_the_right_way_up(model, tmp_path):
    """Whatever the EXIF orientation says, an image is seen as a viewer shows it."""
    rng = np.random.default_rng(0)
    plain = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    for orientation in range(1, 9):
        tags = Image.Exif()
        tags[0x0112] = orientation
        plain.save(tmp_path / "turned.png", exif=tags)
        with Image.open(tmp_path / "turned.png") as turned:
            expected = np.asarray(ImageOps.exif_transpose(turned))
        given = [tmp_path / "turned.png", (tmp_path / "turned.png").read_bytes()]
        found = as_images([(each, 0) for each in given], model).pixels([0, 1])
        for each in found:
            assert np.array_equal(each.permute(1, 2, 0), expected), orientation
    assert not np.array_equal(expected, np.asarray(plain)), "the last one is turned"


def test_a_strip_is_bounded_as_a_decompression_bomb_is(monkeypatch):
    model = Plain(NAMES, input_size=(3, 64, 64))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64 * 64 * 100)
    fine, strip = Image.new("RGB", (90, 1)), Image.new("RGB", (1, 200))
    assert as_images([(fine, 0)], model).pixels([0]).shape == (1, 3, 64, 64)
    with pytest.raises(DataError, match="1 x 200 pixels would be 819,200 .*on_unreadable='skip'"):
        as_images([(fine, 0), (strip, 0)], model)
    assert as_images([(fine, 0), (strip, 0)], model, on_unreadable="skip").ids == (0,)


def test_a_transform_of_one_s_own(model):
    large = [(Image.new("RGB", (8, 8), (i, 0, 0)), i) for i in range(3)]
    for transform in (
        lambda picture: picture.resize((4, 4)),
        lambda picture: np.array(picture.resize((4, 4))),
        lambda picture: torch.from_numpy(np.array(picture)[:4, :4]).permute(2, 0, 1) / 255,
    ):
        images = as_images(large, model, transform=transform)
        assert red(images) == [0, 1, 2] and "your transform" in str(images)
    for transform, message in (
        (lambda picture: picture, "made 8 x 8 pixels of it, the model takes 4 x 4"),
        (lambda picture: picture.absent, "transform= raised AttributeError"),
        (lambda picture: np.zeros((4, 4, 3)) - 1, "already applied"),
    ):
        with pytest.raises(DataError, match=message):
            as_images(large, model, transform=transform)
    with pytest.raises(OptionError, match="transform='resize' must be a function"):
        as_images(large, model, transform="resize")


def test_tensors_of_the_model_s_size_are_not_cropped_again():
    model = Plain(NAMES, input_size=(3, 8, 8), crop_pct=0.5)
    ramp = torch.arange(192).reshape(3, 8, 8).to(torch.uint8)
    prepared = as_images([(ramp / 255, 0)], model)
    assert torch.equal(prepared.pixels([0])[0], ramp) and "not resized" in str(prepared)
    pictures = as_images([(ramp, 0)], model)  # as a camera gives it: timm's crop
    assert not torch.equal(pictures.pixels([0])[0], ramp) and "not resized" not in str(pictures)


# ---- labels of torch datasets: `dataset[i]` is the truth


class Told(TorchData):
    """As torchvision's ImageFolder: `targets` before, items after target_transform."""

    def __getitem__(self, index):
        picture, label = self.items[index]
        change = getattr(self, "target_transform", None)
        return picture, change(label) if change else label


class Around(torch.utils.data.Dataset):
    """A wrapper that changes labels on its way."""

    def __init__(self, dataset, change):
        self.dataset, self.change = dataset, change

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, index):
        picture, label = self.dataset[index]
        return picture, self.change(label)


def told(**attributes):
    """150 items of the classes 0, 1, 2 in turn, called as the model does, in another order."""
    pairs = [(image(i), i % 3) for i in range(60)]
    plain = {"targets": [y for _, y in pairs], "classes": ["dog", "cat", "grey fox"]}
    return Told(pairs, **plain | attributes)


ORDER = [2, 0, 1]  # what their names mean


def change(label):
    return (label + 1) % 3


TRUTHS = {
    "by name": (lambda: told(), lambda y: ORDER[y]),
    "target_transform": (lambda: told(target_transform=change), change),
    "no targets": (lambda: told(targets=None, target_transform=change), change),
    "samples": (
        lambda: told(targets=None, samples=[("x", i % 3) for i in range(60)]),
        lambda y: ORDER[y],
    ),
    "stale targets": (lambda: told(targets=[0] * 60), lambda y: y),
    "subset": (lambda: Subset(told(target_transform=change), range(0, 60, 1)), change),
    "subset by name": (lambda: Subset(told(), range(60)), lambda y: ORDER[y]),
    "concat": (lambda: ConcatDataset([told(target_transform=change)]), change),
    "wrapper": (lambda: Around(told(), change), change),
    "names from items": (lambda: told(target_transform=NAMES.__getitem__), lambda y: y),
}


@pytest.mark.parametrize("case", TRUTHS)
def test_the_label_of_a_torch_dataset_is_what_its_items_have(case, model, caplog):
    make, truth = TRUTHS[case]
    assert as_images(make(), model).labels.tolist() == [truth(i % 3) for i in range(60)]
    by_name = case in ("by name", "samples", "subset by name")
    assert ("gives its examples other labels" in caplog.text) == (not by_name)


@settings(max_examples=30, deadline=None)
@given(st.permutations(range(3)), st.permutations(range(6)))
def test_any_order_of_labels_and_items_is_the_items_own(change, order):
    data = Told([(image(i), i % 3) for i in range(6)], targets=[i % 3 for i in range(6)])
    data.classes, data.target_transform = NAMES, change.__getitem__
    images = as_images(Subset(data, order), Plain(NAMES))
    assert images.labels.tolist() == [change[i % 3] for i in order]


def test_a_damaged_item_of_a_torch_dataset(model, caplog):
    class Damaged(TorchData):
        def __getitem__(self, index):
            if index == 1:
                raise OSError("truncated")
            return self.items[index]

    data = Damaged(PAIRS)
    with pytest.raises(DataError, match="example 1 cannot be read.*on_unreadable='skip'"):
        as_images(data, model)
    images = as_images(data, model, on_unreadable="skip")
    assert images.labels.tolist() == [2, 1, 2] and red(images) == [5, 7, 8]
    assert images.summary().left_out == {"unreadable": 1} and "1 examples cannot" in caplog.text


def test_the_rest_is_read_where_a_row_has_a_gap(model):
    frame = pd.DataFrame({"image": [None, float("nan"), "", image(9)], "label": [0, 1, 2, 1]})
    images = as_images(frame, model, on_unreadable="skip")
    assert red(images) == [9] and images.summary().left_out == {"unreadable": 3}
    gaps = pd.DataFrame({"image": [image(1), image(2)], "label": [1, float("nan")]})
    with pytest.raises(LabelError, match="missing"):
        as_images(gaps, model)
    images = as_images(gaps, model, on_unknown="skip")
    assert red(images) == [1] and images.summary().left_out == {"unknown_label": 1}


def test_what_was_read_can_be_looked_at(model, tmp_path):
    broken = (b"nothing", 1)
    images = as_images([*PAIRS, broken], model, name="failures", on_unreadable="skip")
    said = str(images)
    for part in ("failures: 4 examples from list of 5", "cannot be read: 1", "'2' -> 2 dog (2)"):
        assert part in said
    assert "4 x 4 pixels" in said and "pretrained_cfg" in said and "right" not in said
    asked = images.answered(torch.tensor([2, 0, 2, 0]))
    assert "has 50.0% right, of 4 asked" in str(asked)
    assert asked.summary().to_dict()["accuracy"] == 0.5
    assert asked.summary().classes == {"0": "0 cat", "1": "1 grey fox", "2": "2 dog"}


def test_the_hash_tells_pixels_apart(model):
    one, other = ([(image(value), 0)] for value in (1, 2))
    hashes = {as_images(each, model).describe()["sha256"] for each in (one, other, one)}
    assert len(hashes) == 2


def test_a_source_too_large_to_decode_is_told_apart_by_its_files(model, monkeypatch, tmp_path):
    for name, value in (("a", 1), ("b", 1), ("c", 2)):
        image(value).save(tmp_path / f"{name}.png")
    images = as_images([(tmp_path / f"{name}.png", 0) for name in "abc"], model)
    monkeypatch.setattr("timm_repair.images.images.COMPARED_BYTES", 0)
    assert not images.small and images.describe()["sha256_over"] == "files"
    a, b, c = images.pool.file_digests(images.rows)
    assert a == b != c
    (tmp_path / "large").write_bytes(bytes(10**6))
    changed = bytearray(10**6)
    changed[-1] = 1
    (tmp_path / "changed").write_bytes(changed)
    pool = as_images(
        [(tmp_path / name, 0) for name in ("large", "changed")], model, check_readable=False
    ).pool
    assert len(set(pool.file_digests(torch.arange(2)))) == 2


def test_forms_that_are_read_are_those_of_the_table():
    """A form is read whatever else is asked: a split of a table by itself is an error."""
    with pytest.raises(DataError, match="no split 'test', only train"):
        as_images({"train": PAIRS}, Plain(NAMES), split="test")
    assert len(as_images({"train": PAIRS, "test": PAIRS[:1]}, Plain(NAMES), split="test")) == 1
    assert red(as_images(table([0, 1]), Plain(NAMES))) == [0, 1]
