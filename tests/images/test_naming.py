"""What classes are called: by datasets, by label maps and by models, in every form, by the index."""

import numpy as np
import pandas as pd
import pytest
import torch
from images.sources_of_images import NAMES, Plain, TorchData, image
from torch.utils.data import ConcatDataset, Subset

from timm_repair.errors import DataError, LabelError, ModelError, OptionError
from timm_repair.images.classes import Classes
from timm_repair.images.label_maps import read
from timm_repair.images.labels import map_labels
from timm_repair.images.sources import as_images

CLASSES = Classes(3, tuple(NAMES))


def said(labels, **attributes):
    return TorchData([(image(i), label) for i, label in enumerate(labels)], **attributes)


class Kept:
    """As the reader of a dataset of timm."""

    def __init__(self, class_to_idx):
        self.class_to_idx = class_to_idx


REVERSED = {name: 2 - i for i, name in enumerate(NAMES)}
FROM_1 = {name: i + 1 for i, name in enumerate(NAMES)}
TOLD = {  # labels, what the dataset says, the model's classes
    "contradicts classes": ([2, 1, 0], {"classes": NAMES, "class_to_idx": REVERSED}, [0, 1, 2]),
    "from 1": ([1, 2, 3], {"classes": NAMES, "class_to_idx": FROM_1}, [0, 1, 2]),
    "some, from 1": ([1, 2], {"class_to_idx": FROM_1}, [0, 1]),
    "gaps": ([5, 1], {"classes": ["dog", "cat"], "class_to_idx": {"cat": 1, "dog": 5}}, [2, 0]),
    "several names": ([1, 0], {"class_to_idx": {"cat": 1, "kitten": 1, "dog": 0}}, [0, 2]),
    "as ImageNet's": (
        [0, 1, 2],
        {
            "classes": [("cat", "kitten"), ("dog",), ("grey fox",)],
            "class_to_idx": {"cat": 0, "kitten": 0, "dog": 1},
        },
        [0, 2, 1],
    ),
    "a reader's": ([0, 2], {"reader": Kept(REVERSED)}, [2, 0]),
    "numbers of numpy": ([2], {"class_to_idx": {k: np.int64(v) for k, v in REVERSED.items()}}, [0]),
    "name to index": ([2, 0], {"classes": REVERSED}, [0, 2]),
    "index to name": ([2, 0], {"classes": {2: "cat", 0: "dog"}}, [0, 2]),
    "index of JSON to name": ([2, 0], {"classes": {"2": "cat", "0": "dog"}}, [0, 2]),
    "a set beside": ([2], {"classes": set(NAMES), "class_to_idx": REVERSED}, [0]),
}


@pytest.mark.parametrize("case", TOLD)
def test_a_dataset_s_label_has_the_name_that_the_dataset_gives_it(case, model):
    labels, attributes, expected = TOLD[case]
    data = said(labels, **attributes)
    both = ConcatDataset([Subset(data, [0]), data])
    assert as_images(data, model).labels.tolist() == expected
    assert as_images(both, model).labels.tolist() == [expected[0], *expected]


@pytest.mark.parametrize(
    ("labels", "attributes", "message"),
    [
        ([0], {"class_to_idx": FROM_1}, r"labels \[0\].*'1: cat'.*class_to_idx"),
        ([0], {"classes": set(NAMES)}, "dataset's classes is a set, which has no order: give a li"),
        ([0], {"classes": {0: 1, 1: 0}}, "other than names and indices"),
        ([1], {"class_to_idx": {"cat": 1, "dog": 1}}, r"may mean any of 0 .* 2 .*label_map="),
    ],
)
def test_names_that_would_have_to_be_guessed_are_refused(labels, attributes, message, model):
    with pytest.raises(LabelError, match=message):
        as_images(said(labels, **attributes), model)
    with pytest.raises(LabelError, match="label_map="):
        as_images(said([1], class_to_idx=FROM_1), Plain())


class Raising(TorchData):
    """Fails where it is asked what it lists."""

    @property
    def targets(self):
        raise RuntimeError("not loaded")


class Answering(TorchData):
    """Answers to any name."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *_: None


class Unnamed(TorchData):
    @property
    def classes(self):
        raise RuntimeError("not loaded")


def test_a_dataset_that_cannot_say_what_it_is_gives_what_its_items_are(model):
    pairs = [(image(i), label) for i, label in enumerate([2, 0])]
    for kind in (Raising, Answering):
        assert as_images(kind(pairs), model).labels.tolist() == [2, 0]
    with pytest.raises(DataError, match="dataset's classes cannot be had: it raised RuntimeError"):
        as_images(Unnamed(pairs), model)


@pytest.mark.parametrize("error", [Exception("gone"), StopIteration(), NotImplementedError()])
def test_whatever_a_user_s_own_code_raises_is_told_with_its_place(error, model):
    def fail(*_):
        raise error

    class Own(TorchData):
        __getitem__ = fail  # type: ignore[assignment]

    class Streamed(torch.utils.data.IterableDataset):
        __iter__ = fail  # type: ignore[assignment]

    pairs = [(image(), 0)]
    with pytest.raises(DataError, match=f"example 0 of the .*raised {type(error).__name__}"):
        as_images(Own(pairs), model)
    with pytest.raises(DataError, match=f"image 0 .*transform= raised {type(error).__name__}"):
        as_images(pairs, model, transform=fail)
    if not isinstance(error, StopIteration):  # by which a stream says that it ends
        with pytest.raises(DataError, match=f"broke off after 0 .*{type(error).__name__}"):
            as_images(Streamed(), model)


def test_a_negative_cache_is_refused(model):
    with pytest.raises(OptionError, match="cache_bytes=-5; must be 0 or more"):
        as_images([(image(), 0)], model, cache_bytes=-5)


# ---- label maps


@pytest.mark.parametrize(
    ("raw", "label_map", "expected"),
    [
        (["kitty", "hound"], pd.Series({"hound": 2, "kitty": 0}), [0, 2]),
        (["kitty", "hound"], [("hound", 2), ("kitty", 0)], [0, 2]),
        (["kitty", "hound"], [(2, "hound"), (0, "kitty"), (1, "x")], [0, 2]),
        ([-1, 1], {-1: 0, 1: 1}, [0, 1]),
        ([-1.0, np.int64(1)], {"-1": 0, "1": 1}, [0, 1]),
        ([True, np.bool_(False)], {True: 2, False: 0}, [2, 0]),
        ([True, False], {"True": 2, "False": 0}, [2, 0]),
    ],
)
def test_a_label_map_speaks_of_any_label(raw, label_map, expected):
    assert map_labels(raw, CLASSES, label_map=label_map)[0].tolist() == expected


@pytest.mark.parametrize(
    ("label_map", "message"),
    [
        ({"kitty", "hound"}, "label_map is a set, which has no order"),
        (zip(["kitty"], [0], strict=True), "label_map is a zip, .* once only; give dict"),
        ([], "label_map is empty"),
        (pd.Series([0, 1], ["kitty", "kitty"]), "'kitty' more than once"),
    ],
)
def test_a_label_map_without_an_order_is_refused(label_map, message):
    with pytest.raises(LabelError, match=message):
        map_labels(["kitty"], CLASSES, label_map=label_map)


def test_pandas_na_is_a_missing_label():
    with pytest.raises(LabelError, match="1 of 2 labels are missing"):
        map_labels([pd.NA, 1], CLASSES)
    assert map_labels([pd.NA, 1], CLASSES, on_unknown="skip")[0].tolist() == [-1, 1]


# ---- of a model


@pytest.mark.parametrize(
    "names",
    [
        {"dog": 2, "cat": 0, "grey fox": 1},
        {2: "dog", 0: "cat", 1: "grey fox"},
        {"2": "dog", "0": "cat", "1": "grey fox"},
        np.array(NAMES),
    ],
)
def test_a_model_s_names_are_read_by_index(names):
    assert Classes.of(Plain(names)).names == tuple(NAMES)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"label_names": [None, "b", "c"]}, r"\['label_names'\] calls class 0 None: give one text"),
        ({"label_names": [("a", "b"), "c", "d"]}, r"calls class 0 \('a', 'b'\).*label_descriptio"),
        ({"label_names": {"a": 1, "b": 2, "c": 3}}, "calls class 0 None"),
        ({"label_names": {"a", "b", "c"}}, "is a set"),
        ({"label_names": "abc"}, "'abc': give a list"),
        ({"label_descriptions": ["x"]}, r"\['label_descriptions'\] is .*a list of 3 texts"),
    ],
)
def test_a_model_s_names_that_cannot_be_read_say_what_to_give(said, message):
    with pytest.raises(ModelError, match=message):
        Classes.of(Plain(NAMES, **said))


def test_a_model_s_descriptions_may_be_listed():
    classes = Classes.of(Plain(NAMES, label_descriptions=["cat, kitty", "grey fox", "dog"]))
    assert classes.find("kitty") == [0]


FILES = {  # name, text, what it maps
    "yaml": ("m.yaml", "dog: 2\ncat: 0\n", {"cat": 0, "dog": 2}),
    "yaml of names": ("m.yml", "- cat\n- grey fox\n", {"cat": 0, "grey fox": 1}),
    "csv": ("m.csv", "cat,0\ndog,2\n", {"cat": 0, "dog": 2}),
    "csv with titles": ("m.csv", "index;name\n0;cat\n2;dog\n", {"cat": 0, "dog": 2}),
    "csv of names": ("m.csv", "cat\ngrey fox\n", {"cat": 0, "grey fox": 1}),
    "csv of names with a title": ("m.csv", "label\ncat\ngrey fox\n", {"cat": 0, "grey fox": 1}),
    "tsv": ("m.tsv", "0\tcat\n2\tdog\n", {"cat": 0, "dog": 2}),
    "index first": ("m.txt", "0 cat\n1 grey fox\n", {"cat": 0, "grey fox": 1}),
    "index last": ("m.txt", "cat 0\ngrey fox 1\n", {"cat": 0, "grey fox": 1}),
    "with a mark between": ("m.txt", "cat: 0\ndog: 2\n", {"cat": 0, "dog": 2}),
    "names in order": ("m.txt", "cat\ngrey fox\n", {"cat": 0, "grey fox": 1}),
    "digits of names": ("m.txt", "boeing 737\nairbus 320\n", {"boeing 737": 0, "airbus 320": 1}),
    "synsets": ("m.txt", "n01 tench, Tinca\nn02 shark\n", {"n01 tench, Tinca": 0, "n02 shark": 1}),
}


@pytest.mark.parametrize("case", FILES)
def test_a_label_map_in_a_file(case, tmp_path):
    name, text, expected = FILES[case]
    (tmp_path / name).write_text(text)
    assert read(tmp_path / name, "images") == expected


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("m.csv", "cat,dog\nbird,wolf\n"),
        ("m.csv", "a,b,c\n1,2,3\n"),
        ("m.csv", "cat,0\ncat,1\n"),
        ("m.csv", ""),
        ("m.yaml", "a: ["),
        ("m.yaml", "3"),
        ("m.txt", ""),
    ],
)
def test_a_file_that_is_no_label_map(name, text, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(LabelError, match="label_map takes"):
        read(tmp_path / name, "images")


def test_a_label_map_that_names_none_of_the_labels_says_what_it_names(caplog):
    map_labels(["cat"], CLASSES, label_map={"hound": 2})
    assert "it names 'hound'" in caplog.text
