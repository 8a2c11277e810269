"""Labels against the model's own answers, and which images are the same: what may be trained on,
and what may not.
"""

import datasets
import numpy as np
import planted
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from images.sources_of_images import TorchData
from PIL import Image

from timm_repair.data.collecting import collect_failures
from timm_repair.data.options import DataOptions
from timm_repair.data.preparing import prepare
from timm_repair.errors import DataError, LabelError, OptionError
from timm_repair.images.sources import as_images
from timm_repair.runtime.runtime import Runtime

QUIET = Runtime(progress=False)


def write(root, pairs, name):
    """A folder of images; `name` gives a class's folder."""
    for i, (picture, label) in enumerate(pairs):
        (root / name(label)).mkdir(parents=True, exist_ok=True)
        picture.save(root / name(label) / f"{i:03}.png")
    return root


@pytest.fixture
def confused_failures(pictures):
    return [pair for pair in pictures["pool"] if pair[1] < 2][:40]


def as_text(label):
    """The folder of a class of a model that was trained on 1 to 10 in the order of text."""
    return sorted(map(str, range(1, 11)))[label]


@pytest.mark.filterwarnings("ignore:.*the classes are called by numbers")
def test_numbers_in_another_order_are_found_by_the_model_s_answers(deployed, pictures, tmp_path):
    """Folders 1 to 10 of a model trained with torchvision, which sorts them 1, 10, 2, …"""
    retain = write(tmp_path / "retain", pictures["train"][:100], as_text)
    with pytest.raises(
        LabelError, match="retain: .*counted from 1, .*% right; by another reading, .*order of text"
    ):
        prepare(deployed, [p for p in pictures["pool"] if p[1] < 2], retain=retain, runtime=QUIET)
    with pytest.raises(LabelError, match="'10' is 9, or 1.*label_map="):
        collect_failures(deployed, retain, runtime=QUIET)
    told = {as_text(label): label for label in range(10)}
    found = collect_failures(deployed, retain, label_map=told, runtime=QUIET)
    assert found.error_rate == 0.2, "the two classes that are confused"


def test_failures_that_are_right_as_they_were_read_and_wrong_as_they_could_be(
    deployed, pictures, tmp_path
):
    """Failures in the folders 1 to 9 of a model with ten classes: 1-based, or indices?"""
    wrong = planted.mislabelled(deployed, pictures["pool"][:100])
    one_based = [(picture, label) for picture, label in wrong if label < 9]
    right_if_read_as_index = [
        (picture, label - 1) for picture, label in pictures["pool"][:100] if 2 < label
    ]
    root = write(tmp_path / "f", one_based + right_if_read_as_index, lambda label: str(label + 1))
    with pytest.raises(LabelError, match="as these numbers.*counted from 1, it has 0.0%.*As fail"):
        prepare(deployed, root, runtime=QUIET)


@pytest.mark.parametrize("order", ["shifted", "reversed"])
def test_retained_examples_whose_labels_are_in_another_order(
    order, deployed, pictures, confused_failures
):
    moved = {"shifted": lambda y: (y + 1) % 10, "reversed": lambda y: 9 - y}[order]
    retain = [(picture, moved(label)) for picture, label in pictures["train"]]
    with pytest.raises(
        LabelError, match=r"retain: .*model has \d+.\d% right; by another.*label_map"
    ):
        prepare(deployed, confused_failures, retain=retain, runtime=QUIET)


def test_retained_examples_with_labels_at_random_are_said(
    deployed, pictures, confused_failures, caplog
):
    rng = np.random.default_rng(0)
    retain = [(picture, int(rng.integers(10))) for picture, _ in pictures["train"]]
    prepare(deployed, confused_failures, retain=retain, runtime=QUIET)
    assert "retain: the model has only" in caplog.text and "cannot be kept" in caplog.text


def test_what_the_model_confuses_is_no_misreading(deployed, pictures, confused_failures, caplog):
    """The planted fault exchanges two classes: on a population of these all labels are wrong."""
    data = prepare(
        deployed,
        confused_failures,
        retain=pictures["train"],
        holdout={"failing": [p for p in planted.pictures(100, 9) if p[1] < 2]},
        runtime=QUIET,
    )
    assert len(data.holdout["failing"]) == 20 and "order of the classes" not in caplog.text
    read = data.provenance["read"]
    assert read["retain"]["accuracy"] == 0.8 and read["retain"]["asked"] == 300
    assert read["failures"]["accuracy"] == 0.0 and read["failures"]["n"] == 40
    assert set(read) == {"failures", "retain", "holdout failing"}


@pytest.mark.filterwarnings("ignore:.*the model has no label names")
def test_sources_that_name_their_classes_differently(deployed, pictures, tmp_path):
    names = ["airplane", "car", *"cdefghij"]
    failing = write(tmp_path / "f", pictures["pool"][:40], lambda y: names[y])
    other = ["airplane", "automobile", *"cdefghij"]
    retain = write(tmp_path / "r", pictures["train"], lambda y: other[y])
    with pytest.raises(
        LabelError, match="name their classes differently: .*'automobile'.*label_map="
    ):
        prepare(
            deployed,
            failing,
            retain=retain,
            options=DataOptions(max_right=1.0),
            runtime=QUIET,
        )


# ---- the same image


def groups(data, population):
    """Digests of each part of a population."""
    train = {"failing": data.failing, "retained": data.retained}[population]
    parts = (train, data.selection[population], data.holdout[population])
    return [set(part.digests()) for part in parts if part is not None]


def disjoint(*sets):
    return sum(map(len, sets)) == len(set.union(*sets))


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("kind", ["list", "files", "columns"])
def test_copies_are_in_one_split_and_counted(
    large, kind, deployed, pictures, confused_failures, monkeypatch, caplog, tmp_path
):
    """Five copies of each retained image; two of the failures among them."""
    if large:  # as if they were too many to decode
        monkeypatch.setattr("timm_repair.images.images.COMPARED_BYTES", 0)
    pairs = pictures["train"][:60] * 5 + confused_failures[:2]
    failures = confused_failures * 2
    if kind == "files":
        for i, (picture, _) in enumerate(pairs + failures):
            picture.save(tmp_path / f"{i}.png")
        named = [(tmp_path / f"{i}.png", y) for i, (_, y) in enumerate(pairs + failures)]
        pairs, failures = named[: len(pairs)], named[len(pairs) :]
    if kind == "columns":
        pairs, failures = (
            datasets.Dataset.from_dict(
                {"image": [p for p, _ in each], "label": [y for _, y in each]}
            ).cast_column("image", datasets.Image())
            for each in (pairs, failures)
        )
    data = prepare(deployed, failures, retain=pairs, runtime=QUIET)
    assert disjoint(*groups(data, "failing"), *groups(data, "retained"))
    assert sum(map(len, groups(data, "failing"))) == 40
    assert sum(map(len, groups(data, "retained"))) == 60
    assert "retain: 240 exact duplicates left out" in caplog.text
    assert "retain: 2 examples left out that are among the failures too" in caplog.text
    assert data.provenance["read"]["retain"]["left_out"] == {
        "exact duplicates": 240,
        "also among the failures": 2,
    }


@pytest.mark.parametrize("large", [False, True])
def test_a_holdout_with_copies_of_what_is_trained_on_is_refused(
    large, deployed, pictures, confused_failures, monkeypatch
):
    if large:
        monkeypatch.setattr("timm_repair.images.images.COMPARED_BYTES", 0)
    unseen = pictures["unseen"][2:10]
    for shared, among in (
        (confused_failures[:3], "failures"),
        (pictures["train"][5:8], "retained"),
    ):
        copies = [(picture.copy(), label) for picture, label in shared]
        with pytest.raises(DataError, match=f"3 of its examples are among the {among}"):
            prepare(
                deployed,
                confused_failures,
                retain=pictures["train"],
                holdout={"clean": unseen + copies},
                runtime=QUIET,
            )


def test_an_image_with_two_labels_is_left_out(deployed, pictures, confused_failures, caplog):
    retain = pictures["train"][:60] + [(p, (y + 1) % 10) for p, y in pictures["train"][:4]]
    data = prepare(deployed, confused_failures, retain=retain, runtime=QUIET)
    assert sum(map(len, groups(data, "retained"))) == 56
    assert "8 examples left out, the same image has several labels (4 images)" in caplog.text


def test_what_cannot_be_compared_is_said(
    deployed, pictures, confused_failures, monkeypatch, caplog
):
    monkeypatch.setattr("timm_repair.images.images.COMPARED_BYTES", 0)
    retain = TorchData(pictures["train"][:60])
    prepare(deployed, confused_failures, retain=retain, runtime=QUIET)
    assert "retain: 60 images are too many to compare them by their pixels" in caplog.text


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, 59), min_size=20, max_size=80), st.integers(0, 5))
def test_whatever_is_repeated_no_image_is_in_two_parts(repeated, seed):
    model, runtime = planted_model(), Runtime(seed=seed, progress=False)
    pool, train = planted_pictures()
    retain = train + [train[i] for i in repeated] + pool[:3]
    data = prepare(model, pool + [pool[i % 40] for i in repeated], retain=retain, runtime=runtime)
    parts = groups(data, "failing") + groups(data, "retained")
    assert disjoint(*parts) and sum(map(len, parts)) == 100


_MADE = {}


def planted_model():
    return _MADE.setdefault("model", planted.confused(planted.classifier()))


def planted_pictures():
    if "pictures" not in _MADE:
        failing = [p for p in planted.pictures(200, 2) if p[1] < 2]
        _MADE["pictures"] = failing, planted.pictures(60, 1)
    return _MADE["pictures"]


# ---- what a repair calls its options, and what collect_failures takes


def test_an_error_names_the_options_that_a_repair_has(deployed, pictures, confused_failures):
    splits = datasets.DatasetDict(
        {
            name: datasets.Dataset.from_dict({"image": [Image.new("L", (32, 32))], "label": [0]})
            for name in ("train", "test")
        }
    )
    for sources, options in (
        ({"failures": splits}, "failures_split"),
        ({"failures": confused_failures, "retain": splits}, "retain_split"),
        ({"failures": confused_failures, "holdout": splits}, "holdout_split"),
        ({"failures": [*confused_failures, (None, 1)]}, "on_unreadable"),
        ({"failures": confused_failures, "retain": [*pictures["train"], (None, 1)]}, "on_unread"),
    ):
        with pytest.raises(DataError, match=rf"DataOptions\({options}.*--data {options}") as error:
            prepare(deployed, runtime=QUIET, **sources)
        role = next(reversed(sources))
        assert str(error.value).startswith(role)


def test_unreadable_retained_examples_are_left_out(deployed, pictures, confused_failures):
    retain = [*pictures["train"][:60], (None, 1), (b"nothing", 2)]
    options = DataOptions(on_unreadable="skip")
    data = prepare(deployed, confused_failures, retain=retain, options=options, runtime=QUIET)
    assert data.provenance["read"]["retain"]["left_out"] == {"unreadable": 2}


def test_collected_failures_come_with_what_passed(deployed, pictures):
    pool = pictures["pool"][:200]
    found = collect_failures(deployed, pool, runtime=QUIET)
    assert sorted([*found.ids, *found.passing.ids]) == list(range(200))
    assert torch.equal(found.passing.labels, found.passing.answers)
    assert (found.answers != found.labels).all() and found.error_rate == 0.2
    few = [
        collect_failures(deployed, pool, max_passing=10, max_failures=5, seed=s, runtime=QUIET)
        for s in (1, 1, 2)
    ]
    assert [len(each) for each in few] == [5, 5, 5] and len(few[0].passing) == 10
    assert few[0].passing.ids == few[1].passing.ids != few[2].passing.ids
    only = [pair for pair in pool if pair[1] < 2]
    assert collect_failures(deployed, only, runtime=QUIET).passing is None
    # what it gives is what `repair` takes, for either role
    data = prepare(deployed, found, retain=found.passing, runtime=QUIET)
    assert data.error_rate == 0.2 and data.retained is not None


def test_what_passed_of_a_stream_is_a_random_sample_of_bounded_size(deployed, pictures):
    pool = pictures["pool"][:200]
    runtime = Runtime(progress=False, eval_batch_size=16)
    found = [
        collect_failures(deployed, (pair for pair in pool), max_passing=20, seed=s, runtime=runtime)
        for s in (1, 1, 2)
    ]
    assert [len(each.passing) for each in found] == [20, 20, 20]
    assert found[0].passing.ids == found[1].passing.ids != found[2].passing.ids
    whole = collect_failures(deployed, pool, runtime=runtime)
    assert set(found[0].digests()) == set(whole.digests())
    assert set(found[0].passing.digests()) < set(whole.passing.digests())
    assert torch.equal(found[0].passing.labels, found[0].passing.answers)
    # not the first ones
    assert set(found[0].passing.digests()) != set(whole.passing.subset(range(20)).digests())


def test_collecting_takes_the_options_of_a_repair(deployed, pictures):
    table = datasets.Dataset.from_dict(
        {
            "scan": [p for p, _ in pictures["pool"][:50]],
            "digit": [y for _, y in pictures["pool"][:50]],
        }
    ).cast_column("scan", datasets.Image())
    data = DataOptions(label_column="digit", failures_split="b")
    splits = datasets.DatasetDict(a=table.select([0]), b=table)
    found = collect_failures(deployed, splits, data=data, runtime=QUIET)
    assert len(found) + len(found.passing) == 50
    one = collect_failures(deployed, splits, data=data, split="a", runtime=QUIET)
    assert len(one) == 1
    for wrong in ({"data": {}}, {"max_passing": 0}, {"max_failures": True}):
        with pytest.raises(OptionError, match=next(iter(wrong))):
            collect_failures(deployed, splits, runtime=QUIET, **wrong)


def test_images_that_were_read_before_are_taken_as_they_are(deployed, pictures):
    images = as_images(pictures["pool"][:50], deployed, name="mine")
    assert len(collect_failures(deployed, images, runtime=QUIET)) == 10
