"""as_images(): every form of source, the label rules, image modes and damaged files."""

import datasets
import numpy as np
import pytest
import timm
import torch
from images.sources_of_images import NAMES, Plain, TorchData, image, red, table
from PIL import Image
from torch import nn

from timm_repair.errors import DataError, LabelError, OptionError
from timm_repair.images.classes import Classes
from timm_repair.images.labels import map_labels
from timm_repair.images.sources import as_images


@pytest.fixture
def model():
    return Plain(NAMES)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def folder(root, **classes):
    for name, count in classes.items():
        (root / name).mkdir(parents=True)
        for i in range(count):
            image(10 * i).save(root / name / f"test_{i}.png")
    return root


def test_every_form_gives_the_same_images(model, tmp_path):
    data = table([2, 0, 1, 2])
    data.save_to_disk(tmp_path / "saved")
    data.to_parquet(tmp_path / "data.parquet")
    for i in range(4):
        image(i).save(tmp_path / f"{i}.png")
    rows = [(f"{i}.png", NAMES[label]) for i, label in enumerate(data["label"])]
    (tmp_path / "data.csv").write_text(
        "image,label\n" + "".join(f"{path},{label}\n" for path, label in rows)
    )
    (tmp_path / "data.jsonl").write_text(
        "".join(f'{{"img": "{p}", "target": "{label}"}}\n' for p, label in rows)
    )
    pairs = [(image(i), label) for i, label in enumerate(data["label"])]
    forms = [
        data,
        data.with_format("torch"),
        datasets.DatasetDict(train=data),
        tmp_path / "saved",
        str(tmp_path / "data.parquet"),
        tmp_path / "data.csv",
        tmp_path / "data.jsonl",
        pairs,
        TorchData(pairs),
        torch.utils.data.Subset(TorchData(pairs), range(4)),
        TorchData([{"img": i, "labels": torch.tensor(label)} for i, label in pairs]),
        [(np.array(i), NAMES[label]) for i, label in pairs],
        [(tmp_path / path, np.int64(NAMES.index(label))) for path, label in rows],
    ]
    for form in forms:
        images = as_images(form, model)
        assert (images.labels.tolist(), red(images)) == ([2, 0, 1, 2], [0, 1, 2, 3])
        assert as_images(images, model) is images


def test_a_folder_is_matched_by_name_not_by_number(model, tmp_path):
    images = as_images(folder(tmp_path / "f", Grey_Fox=2, dog=1), model)
    assert images.labels.tolist() == [1, 1, 2]
    assert images.ids == ("Grey_Fox/test_0.png", "Grey_Fox/test_1.png", "dog/test_0.png")
    assert as_images(folder(tmp_path / "one", dog=2), model).labels.tolist() == [2, 2]
    with pytest.raises(LabelError, match="1000 classes"):
        as_images(tmp_path / "f", Plain(classes=1000))


def test_splits_have_to_be_chosen(model, tmp_path):
    several = datasets.DatasetDict(a=table([0]), b=table([1, 2]))
    several.save_to_disk(tmp_path / "saved")
    folder(tmp_path / "f" / "train", cat=1)
    folder(tmp_path / "f" / "val", dog=2)
    for source, split in ((several, "b"), (tmp_path / "saved", "b"), (tmp_path / "f", "val")):
        with pytest.raises(DataError, match="split="):
            as_images(source, model)
        with pytest.raises(DataError, match="absent"):
            as_images(source, model, split="absent")
        assert len(as_images(source, model, split=split)) == 2


def test_columns_are_found_by_type_then_by_name(model):
    renamed = table([0, 1]).rename_columns({"image": "photo", "label": "species"})
    assert as_images(renamed, model).origin["columns"] == {"image": "photo", "label": "species"}
    two = renamed.add_column(
        "thumbnail", [{"bytes": None, "path": "x"}] * 2, feature=datasets.Image()
    )
    with pytest.raises(DataError, match="photo, species, thumbnail.*image_column="):
        as_images(two, model)
    assert len(as_images(two, model, image_column="photo")) == 2
    with pytest.raises(DataError, match="no column 'absent'"):
        as_images(two, model, image_column="absent")


def test_what_cannot_be_used_says_what_to_give(model, tmp_path):
    transformed = table([0]).with_transform(lambda rows: rows)
    refused = {
        "un-transformed": [(torch.rand(3, 4, 4) - 0.5, 0)],
        "un-transformed images": TorchData([(torch.rand(3, 4, 4) * 3, 0)]),
        "uint8 of shape": [(np.zeros((3, 4, 4)), 0)],
        "loader.dataset": torch.utils.data.DataLoader([1]),
        "set_transform": transformed,
        "does not exist": "no/such/path/here",
        "no examples": table([]),
        "must be \\(image, label\\)": [image()],
        "cannot take images from int": 3,
        "no images": folder(tmp_path / "empty", cat=0),
    }
    for message, source in refused.items():
        with pytest.raises(DataError, match=message):
            as_images(source, model)
    image().save(tmp_path / "loose.png")
    with pytest.raises(DataError, match="1 images outside a folder"):
        as_images(tmp_path, model)
    with pytest.raises(DataError, match="none of .parquet"):
        as_images(tmp_path / "loose.png", model)
    with pytest.raises(OptionError, match="on_unknown='drop'"):
        as_images([(image(), 0)], model, on_unknown="drop")


def test_torch_datasets_that_name_their_classes_are_matched_by_name(model):
    data = TorchData([(image(), 0), (image(1), 1)], classes=["cat", "dog"], targets=[0, 1])
    both = torch.utils.data.ConcatDataset([data, torch.utils.data.Subset(data, [1])])
    assert as_images(data, model).labels.tolist() == [0, 2]
    assert as_images(both, model).labels.tolist() == [0, 2, 2]
    other = TorchData([(image(), 0)], classes=["dog", "cat"])
    with pytest.raises(LabelError, match="differently"):
        as_images(torch.utils.data.ConcatDataset([data, other]), model)


def test_unreadable_images_stop_or_are_left_out_and_counted(model, tmp_path):
    root = folder(tmp_path / "f", cat=3, dog=1)
    (root / "cat" / "test_0.png").write_bytes(b"")
    whole = (root / "cat" / "test_2.png").read_bytes()
    (root / "cat" / "test_2.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"cat/test_0.png.*on_unreadable='skip'.*\(2 such images\)"):
        as_images(root, model)
    images = as_images(root, model, on_unreadable="skip")
    assert (
        images.ids == ("cat/test_1.png", "dog/test_0.png")
        and images.origin["skipped"]["unreadable"] == 2
    )
    with pytest.raises(DataError, match="missing.png"):
        as_images([(tmp_path / "missing.png", 0)], model, on_unreadable="skip")


def test_modes_become_rgb_or_grey(model):
    deep = Image.fromarray(np.full((4, 4), 300 * 256 // 3 + 7, dtype=np.uint16))
    wide = Image.fromarray(np.full((4, 4), 40 * 256, dtype=np.int32))
    clear = image(51, "P")
    clear.info["transparency"] = bytes([0] * 256)
    plain = [("L", 77, 77), ("LA", (9, 0), 9)]
    plain += [("RGBA", (50, 0, 0, 0), 50), ("CMYK", (0, 255, 255, 0), 255), ("1", 1, 255)]
    cases = [(Image.new(mode, (4, 4), colour), value) for mode, colour, value in plain]
    cases += [(deep, 100), (wide, 40), (clear, 51)]
    assert deep.mode == "I;16" and wide.mode == "I"
    assert red(as_images([(i, 0) for i, _ in cases], model)) == [value for _, value in cases]
    grey = as_images([(image(50), 0)], Plain(NAMES, channels=1))
    assert grey.pixels([0]).shape == (1, 1, 4, 4) and red(grey) == [
        np.array(image(50).convert("L"))[0, 0]
    ]
    with pytest.raises(DataError, match="floating point"):
        as_images([(Image.new("F", (4, 4)), 0)], model)
    with pytest.raises(DataError, match="takes 5 channels"):
        as_images([(image(), 0)], Plain(NAMES, channels=5, input_size=(5, 8, 8)))


def test_a_grey_timm_model_has_one_channel_and_one_mean():
    model = timm.create_model("resnet18", in_chans=1, num_classes=2)
    preprocessing = as_images([(image(), 0)], model).preprocessing
    assert preprocessing.input_size == (1, 224, 224) and len(preprocessing.mean) == 1


@pytest.mark.parametrize(
    ("raw", "names", "label_map", "expected"),
    [
        ([1, 0], ["dog", "CAT"], None, [0, 2]),
        (["grey-fox", "Cat"], None, None, [1, 0]),
        ([2.0, 0, np.int64(1), torch.tensor(1)], None, None, [2, 0, 1, 1]),
        ([0, 1], ["2", "1"], None, [2, 1]),
        (["2", "0"], None, None, [2, 0]),
        ([0, 1], ["kitty", "hound"], {"kitty": 0, "hound": "dog"}, [0, 2]),
        ([0, 1], ["kitty", "hound"], {"0": 0, 1: 2}, [0, 2]),
        (["b", "c"], None, ["a", "b", "c"], [1, 2]),
        ([1, 0], None, [2, 0], [0, 2]),
    ],
)
def test_labels_map_by_rule(raw, names, label_map, expected):
    mapped, how = map_labels(raw, Classes(3, tuple(NAMES)), names=names, label_map=label_map)
    assert mapped.tolist() == expected and how["unknown"] == 0


@pytest.mark.parametrize(
    ("raw", "names", "label_map", "message"),
    [
        ([0, None, float("nan"), -1], None, None, "3 of 4 labels are missing"),
        ([0, -1], NAMES, None, "1 of 2 labels are missing"),
        ([3], None, None, "outside the model's 3 classes"),
        ([5], NAMES, None, "names 3 classes"),
        (["10"], None, None, "outside"),
        ([0, 1], ["cats", "dog"], None, r"'cats' \(closest: 'cat'\)"),
        ([0], ["kitty"], {"dog": 2}, "not in label_map"),
        ([0], ["cat"], {"cat": 3}, "outside"),
        ([0, 1], ["1", "0"], {0: 0, 1: 2}, "not in label_map"),
        ([0], ["cat"], {"cat": "wolf"}, "the name of 0"),
        ([0], ["cat"], {"cat": None}, "to no class"),
        ([0], ["cat"], "no/such/file.txt", "no file"),
        ([0, "cat"], None, None, "some labels are names"),
        ([[0, 1]], None, None, "one class index or name"),
        ([0.5], None, None, "one class index or name"),
        ([True], None, None, "one class index or name"),
    ],
)
def test_labels_that_would_have_to_be_guessed_are_refused(raw, names, label_map, message):
    with pytest.raises(LabelError, match=message):
        map_labels(raw, Classes(3, tuple(NAMES)), names=names, label_map=label_map)


def test_label_map_from_a_file_of_names(tmp_path):
    (tmp_path / "classes.txt").write_text("dog\ncat\n\n")
    mapped, _ = map_labels(
        [0, 1], Classes(3), names=["cat", "dog"], label_map=tmp_path / "classes.txt"
    )
    assert mapped.tolist() == [1, 0]


def test_unknown_labels_can_be_left_out(model, tmp_path):
    images = as_images(folder(tmp_path, cat=1, yak=2, dog=1), model, on_unknown="skip")
    assert images.labels.tolist() == [0, 2] and images.origin["skipped"]["unknown_label"] == 2
    assert red(images) == [0, 0] and images.ids == ("cat/test_0.png", "dog/test_0.png")


def test_a_model_without_names_takes_the_dataset_s_order_only_if_complete():
    with pytest.warns(UserWarning, match="model's order"):
        assert map_labels([2, 0], Classes(3), names=["c", "a", "b"])[0].tolist() == [2, 0]
    for names, raw in ((["c", "a"], [0]), (None, ["a", "b", "c"])):
        with pytest.raises(LabelError, match="label_map="):
            map_labels(raw, Classes(3), names=names)


def test_imagenet_is_matched_by_synset_and_by_word():
    classes = Classes.of(Plain(classes=1000, tag="a1_in1k"))
    assert classes.readable[0] == "tench, Tinca tinca"
    raw = ["n01440764", "Tinca_tinca", "great white shark", "goldfish, Carassius auratus"]
    assert map_labels(raw, classes)[0].tolist() == [0, 0, 2, 1]
    for word in ("crane", "maillot"):
        with pytest.raises(LabelError, match=rf"{word}.* may mean any of \d+ \(n\d+: .*label_map="):
            map_labels([word], classes)
    complete = list(classes.readable)
    assert map_labels(range(1000), classes, names=complete)[0].tolist()[:100] == list(range(100))
    assert Classes.of(Plain(classes=1000)).names is None


def test_classes_of_a_model_that_does_not_tell():
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 7)).train()
    model.pretrained_cfg = Plain(["stale"]).pretrained_cfg
    assert Classes.of(model) == Classes(7) and model.training
    with pytest.raises(DataError, match="0 classes"):
        Classes.of(timm.create_model("resnet18", num_classes=0))
