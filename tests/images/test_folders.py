"""Folders and paths: all that is there is read or counted, and a path is not taken for a Hub id."""

import json
import os
import unicodedata

import datasets
import pytest
from images.sources_of_images import NAMES, Plain, image, red

from timm_repair.errors import DataError, LabelError
from timm_repair.images.classes import Classes
from timm_repair.images.labels import map_labels
from timm_repair.images.sources import as_images


@pytest.fixture
def model():
    return Plain(NAMES)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


@pytest.fixture
def root(tmp_path):
    """Two images of a cat, one of a dog."""
    for i, name in enumerate(("cat", "cat", "dog")):
        (tmp_path / "root" / name).mkdir(parents=True, exist_ok=True)
        image(i).save(tmp_path / "root" / name / f"{i}.png")
    return tmp_path / "root"


def test_links_are_followed_and_circles_are_not(root, model, tmp_path, caplog):
    (tmp_path / "elsewhere" / "deep").mkdir(parents=True)
    image(7).save(tmp_path / "elsewhere" / "7.png")
    os.symlink(tmp_path / "elsewhere", root / "grey fox", target_is_directory=True)
    os.symlink(root / "dog" / "2.png", root / "cat" / "linked.png")
    assert not caplog.records
    assert red(as_images(root, model)) == [0, 1, 2, 2, 7]
    assert as_images(root, model).labels.tolist() == [0, 0, 0, 2, 1] and not caplog.records
    os.symlink(root, root / "dog" / "circle", target_is_directory=True)
    os.symlink(tmp_path / "nowhere.png", root / "dog" / "nowhere.png")
    images = as_images(root, model)
    assert len(images) == 5
    assert images.summary().left_out == {"links in a circle": 1, "links that lead nowhere": 1}
    assert "links in a circle: 1" in caplog.text


def test_what_is_hidden_or_no_image_is_counted_in_one_warning(root, model, caplog):
    for place in (".ipynb_checkpoints/0.png", "cat/.hidden.png", "__MACOSX/cat/0.png"):
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        image(9).save(root / place)
    for place in ("cat/notes.txt", "cat/more.TXT", "dog/array.npy", "dog/README"):
        (root / place).write_text("no image")
    image(5).save(root / "dog" / "LOUD.JPG", "PNG")
    images = as_images(root, model)
    assert red(images) == [0, 1, 2, 5] and set(images.summary().classes) == {"cat", "dog"}
    expected = {"hidden": 3, ".txt": 2, ".npy": 1, "no ending": 1}
    assert images.summary().left_out == expected
    (warning,) = caplog.records
    assert all(f"{kind}: {count}" in warning.message for kind, count in expected.items())


def test_an_empty_folder_and_a_folder_without_images(model, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"holds no images \(it is empty\); check the path"):
        as_images(tmp_path / "empty", model)
    (tmp_path / "empty" / "a.txt").write_text("")
    with pytest.raises(DataError, match=r"holds no images \(.txt: 1\)"):
        as_images(tmp_path / "empty", model)


def test_a_foreign_metadata_file_is_named_and_left_out(root, model, caplog):
    (root / "metadata.csv").write_text("station,depth\nA,3\n")
    images = as_images(root, model)
    assert images.labels.tolist() == [0, 0, 2] and "metadata.csv" in caplog.text
    (root / "metadata.csv").write_text("file_name,caption,weather\ncat/0.png,a cat,rain\n")
    assert as_images(root, model).labels.tolist() == [0, 0, 2]
    (root / "metadata.csv").unlink()
    (root / "metadata.jsonl").write_text("not json at all")
    assert as_images(root, model).labels.tolist() == [0, 0, 2]
    assert list(as_images(root, model).summary().left_out) == [
        "metadata.jsonl (no file_name with a label)"
    ]


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_a_metadata_file_that_lists_the_images(ending, root, model, caplog):
    rows = [("cat/0.png", "dog"), ("dog/2.png", "grey fox")]
    text = "file_name,label\n" + "".join(f"{path},{label}\n" for path, label in rows)
    if ending == "jsonl":
        text = "".join(json.dumps({"file_name": p, "label": y}) + "\n" for p, y in rows)
    (root / f"metadata.{ending}").write_text(text)
    images = as_images(root, model)
    assert images.labels.tolist() == [2, 1] and red(images) == [0, 2]
    assert images.summary().left_out == {"images that it does not list": 1}
    assert "images that it does not list: 1" in caplog.text


@pytest.mark.parametrize("titles", ["file_name,label", "File_Name,Label", "filename,class"])
@pytest.mark.parametrize("between", [",", ";", "\t"])
def test_a_metadata_file_as_other_programs_write_it(titles, between, root, model):
    rows = [titles.split(","), ["cat/0.png", "dog"], ["dog/2.png", "grey fox"]]
    (root / "metadata.csv").write_text("".join(f"{between.join(row)}\n" for row in rows))
    images = as_images(root, model)
    assert images.labels.tolist() == [2, 1] and red(images) == [0, 2]


def test_a_metadata_file_of_images_that_are_elsewhere_is_foreign(root, model, caplog):
    (root / "metadata.csv").write_text("image,label\nelsewhere/0.png,dog\n")
    assert as_images(root, model).labels.tolist() == [0, 0, 2]
    image().save(root / "loose.png")
    with pytest.raises(DataError, match=r"metadata.csv lists none: it has image, label, and must"):
        as_images(root, model)


def test_a_class_that_is_called_as_a_split_is(model, tmp_path):
    model.pretrained_cfg["label_names"] = ["train", "bus", "tram"]
    (tmp_path / "train").mkdir()
    image(3).save(tmp_path / "train" / "3.png")
    assert as_images(tmp_path, model).labels.tolist() == [0]
    (tmp_path / "train" / "bus").mkdir()
    image(4).save(tmp_path / "train" / "bus" / "4.png")
    with pytest.raises(DataError, match="holds splits"):
        as_images(tmp_path, model)


def test_a_tsv_with_paths_and_classes(root, model):
    (root / "list.tsv").write_text("path\tclass\ncat/0.png\tdog\ndog/2.png\tgrey fox\n")
    assert as_images(root / "list.tsv", model).labels.tolist() == [2, 1]


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_names_are_the_same_in_any_unicode_form(form, model, tmp_path):
    model.pretrained_cfg["label_names"] = ["Café", "Ångström", "naïve"]
    for name in ("Café", "naïve"):
        (tmp_path / unicodedata.normalize(form, name)).mkdir()
        image().save(tmp_path / unicodedata.normalize(form, name) / "0.png")
    assert as_images(tmp_path, model).labels.tolist() == [0, 2]
    other = {"NFC": "NFD", "NFD": "NFC"}[form]
    table = {unicodedata.normalize(other, "Café"): 2, "naïve": 1}
    assert as_images(tmp_path, model, label_map=table).labels.tolist() == [2, 1]
    for raw in ("CAFÉ", unicodedata.normalize(form, "café")):
        named = Classes(2, (unicodedata.normalize(other, "Café"), "x"))
        assert map_labels([raw], named)[0].tolist() == [0]


def test_a_path_that_is_not_there_is_no_hub_id(root, model, monkeypatch, offline):
    monkeypatch.chdir(root.parent)
    for given, message in (
        ("root/dgo", r"no such folder or file: root/dgo does not exist; did you mean 'root/dog'"),
        ("root/absent", r"'root' is a folder here, the Hub was not asked.*'hfds/root/absent'"),
        ("other/table.csv", "no such file: other/table.csv"),
        ("./other/absent", "no such folder"),
        ("a/b/c", "no such folder"),
        ("rot", "did you mean 'root'"),
        (" ", "the path is empty"),
        ("x" * 5000, "cannot be read|does not exist"),
        ("a\0b", "does not exist"),
    ):
        with pytest.raises(DataError, match=message):
            as_images(given, model, name="retain")


def test_what_is_packed_is_to_be_unpacked(model, tmp_path):
    (tmp_path / "images.zip").write_bytes(b"PK")
    with pytest.raises(DataError, match="unpack it, and give the folder"):
        as_images(tmp_path / "images.zip", model)
    (tmp_path / "broken.parquet").write_bytes(b"nothing")
    with pytest.raises(DataError, match="broken.parquet cannot be read"):
        as_images(tmp_path / "broken.parquet", model)
    for text, message in (("", "holds no examples"), ("image,label\n", "holds no examples")):
        (tmp_path / "table.csv").write_text(text)
        with pytest.raises(DataError, match=message):
            as_images(tmp_path / "table.csv", model)


# ---- label maps, in the forms that are around

CLASSES = Classes(3, tuple(NAMES))
MAPS = {
    "name to index": {"kitty": 0, "hound": 2},
    "name to name": {"kitty": "cat", "hound": "dog"},
    "it adds to the model's names": {"kitty": 0, "hound": 2, "absent": 1},
    "text for an index": {"kitty": "0", "hound": "2"},
    "floats": {"kitty": 0.0, "hound": 2.0},
    "id2label": {0: "kitty", 1: "fox", 2: "hound"},
    "id2label of JSON": {"0": "kitty", "1": "fox", "2": "hound"},
    "with aliases": {"0": ["n01", "kitty"], "1": ["n02", "fox"], "2": ["n03", "hound"]},
    "a configuration": {"id2label": {"0": "kitty", "1": "fox", "2": "hound"}, "layers": 3},
    "label2id": {"label2id": {"kitty": 0, "fox": 1, "hound": 2}, "layers": 3},
    "names in order": ["kitty", "fox", "hound"],
}


@pytest.mark.parametrize("form", MAPS)
@pytest.mark.parametrize("kept", ["value", "file"])
def test_forms_of_label_maps(form, kept, tmp_path):
    label_map = MAPS[form]
    if kept == "file":
        (tmp_path / "map.json").write_text(json.dumps(label_map))
        label_map = tmp_path / "map.json"
    raw, expected = ["kitty", "hound", "kitty", "cat"], [0, 2, 0, 0]
    mapped, how = map_labels(raw, CLASSES, label_map=label_map)
    assert mapped.tolist() == expected and how["label_mapping"]["by"].startswith("label_map")
    named = map_labels([0, 1], CLASSES, names=["hound", "kitty"], label_map=label_map)[0]
    # an index to a name may be of the dataset's or of the model's: by the names it is told
    assert named.tolist() == [2, 0]


@pytest.mark.parametrize(
    ("label_map", "message"),
    [
        ({}, "label_map is empty. label_map takes .name: index."),
        (3, "label_map is a int"),
        ({"kitty": [1, 2]}, "no class index"),
        ({"kitty": True}, "no class index"),
        ({"kitty": "wolf"}, "the name of 0 .*label_map takes"),
        (
            {0: "dog", 1: "cat", 2: "grey fox"},
            "may send 'cat' to 'dog', or name the model's class 1",
        ),
    ],
)
def test_a_label_map_of_another_form_says_which_are_taken(label_map, message):
    names = ["cat", "dog"] if isinstance(label_map, dict) and 0 in label_map else ["kitty", "dog"]
    with pytest.raises(LabelError, match=message):
        map_labels([0, 1], CLASSES, names=names, label_map=label_map)


def test_a_label_map_that_names_none_of_the_labels_is_said(caplog):
    assert map_labels(["cat"], CLASSES, label_map={"hound": 2})[0].tolist() == [0]
    assert "names none of the labels" in caplog.text
    with pytest.raises(LabelError, match="not in label_map nor in the model's .*'wolf'"):
        map_labels(["wolf"], CLASSES, label_map={"hound": 2})


# ---- names that are numbers

READINGS = [
    (["0", "1", "2"], 3, "as these numbers", [0, 1, 2], []),
    (["1", "2", "3"], 3, "counted from 1", [0, 1, 2], []),
    (["1", "2"], 3, "as these numbers", [1, 2], ["counted from 1"]),
    (
        [str(i) for i in range(1, 13)],
        12,
        "counted from 1",
        list(range(12)),
        ["order of text"],
    ),
    ([str(i) for i in range(12)], 12, "as these numbers", list(range(12)), ["order of text"]),
    (["7", "20", "3"], 3, "order of text", [2, 0, 1], ["in their order"]),
]


@pytest.mark.parametrize(("names", "count", "by", "expected", "others"), READINGS)
@pytest.mark.filterwarnings("ignore:images. the classes are called by numbers")
def test_readings_of_names_that_are_numbers(names, count, by, expected, others):
    mapped, how = map_labels(names, Classes(count), names=sorted(names))
    assert mapped.tolist() == expected and by in how["label_mapping"]["by"]
    found = list(how["label_mapping"].get("others", {}))
    assert len(found) == len(others)
    assert all(any(other in rule for rule in found) for other in others)


def test_a_guess_about_numbers_is_said(caplog):
    with pytest.warns(UserWarning, match="counted from 1: '1' is class 0 .cat.*label_map="):
        map_labels(["1", "2", "3"], CLASSES)
    map_labels(["1", "2"], CLASSES)
    assert "'1' is class 1 (grey fox)" in caplog.text
