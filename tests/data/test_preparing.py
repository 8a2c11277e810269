"""Images, the splits of prepare(), and what it refuses, on a model that reads the class off the red
channel.
"""

import json
import pickle
import warnings

import numpy as np
import pytest
import torch
from reddest import CLASSES, Reddest, examples

from timm_repair.data.collecting import collect_failures
from timm_repair.data.options import DataOptions
from timm_repair.data.preparing import prepare
from timm_repair.data.splits import stratified
from timm_repair.errors import DataError, NoFailuresError, NonFiniteError, OptionError
from timm_repair.images.images import Images
from timm_repair.images.pool import Pool
from timm_repair.images.sources import as_images
from timm_repair.models.weights import check_finite
from timm_repair.runtime.runtime import Runtime


@pytest.fixture
def model():
    return Reddest()


@pytest.fixture
def runtime():
    return Runtime(progress=False)


def keys(images):
    return {(id(images.pool.reader.examples), i) for i in images.ids}


def rows_of(data, population):
    """Which examples of what was given as one population are in any of its parts."""
    train = {"failing": data.failing, "retained": data.retained}[population]
    return sorted(
        i
        for part in (train, data.selection[population], data.holdout[population])
        for i in part.ids
    )


def test_splits_are_disjoint_complete_and_stratified(model, runtime):
    data = prepare(
        model, examples(60, right=False), retain=examples(90, right=True, seed=1), runtime=runtime
    )
    assert (len(data.failing), len(data.selection["failing"]), len(data.holdout["failing"])) == (
        36,
        12,
        12,
    )
    assert (len(data.retained), len(data.selection["retained"]), len(data.holdout["retained"])) == (
        63,
        9,
        18,
    )
    for name, train in (("failing", data.failing), ("retained", data.retained)):
        parts = [train, data.selection[name], data.holdout[name]]
        assert len(set.union(*map(keys, parts))) == sum(map(len, parts))
        for part in parts:
            counts = part.labels.bincount(minlength=CLASSES)
            assert counts.max() - counts.min() <= 1
    assert (data.num_classes, data.label_names, data.error_rate) == (CLASSES, None, None)


def test_the_seed_decides_the_split_and_the_caller_keeps_his_model(model):
    failures = examples(30, right=False)
    before, state = pickle.dumps(model.state_dict()), torch.get_rng_state()
    ids = [
        prepare(model.train(), failures, runtime=Runtime(seed=s, progress=False)).failing.ids
        for s in (0, 0, 1)
    ]
    assert ids[0] == ids[1] != ids[2]
    assert model.training and pickle.dumps(model.state_dict()) == before
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("imbalance", [[1] * 5, [97, 2, 1], [50, 0, 50]])
def test_stratified_takes_its_share_of_every_label(imbalance):
    labels = torch.repeat_interleave(torch.arange(len(imbalance)), torch.tensor(imbalance))
    sizes = [len(labels) // 5, len(labels) - len(labels) // 5]
    first, second = stratified(labels, sizes, torch.Generator().manual_seed(3))
    assert sorted([*first.tolist(), *second.tolist()]) == list(range(len(labels)))
    expected = torch.tensor(imbalance) * sizes[0] / len(labels)
    assert ((labels[first].bincount(minlength=len(imbalance)) - expected).abs() <= 1).all()


def test_a_given_holdout_is_measured_and_leaves_the_retained_whole(model, runtime):
    holdout = examples(20, right=True, seed=2)
    retain = examples(50, right=True, seed=1)
    data = prepare(
        model, examples(30, right=False), retain=retain, holdout=holdout, runtime=runtime
    )
    assert {name: len(images) for name, images in data.holdout.items()} == {
        "failing": 6,
        "holdout": 20,
    }
    assert len(data.retained) == 45
    named = {"failing": examples(9, right=False, seed=4), "drift": holdout}
    data = prepare(model, examples(30, right=False), holdout=named, runtime=runtime)
    assert {name: len(images) for name, images in data.holdout.items()} == {
        "failing": 9,
        "drift": 20,
    }
    assert len(data.failing) == 24 and data.retained is None and set(data.selection) == {"failing"}


def test_failures_that_are_right_are_left_out_with_a_warning(model, runtime):
    mixed = examples(24, right=False) + examples(6, right=True, seed=1)
    with pytest.warns(UserWarning, match="6 of the 30 failures right"):
        data = prepare(model, mixed, runtime=runtime)
    assert rows_of(data, "failing") == list(range(24)), "the six others are right"
    with pytest.raises(DataError, match="24 of the 30"):
        prepare(model, examples(6, right=False) + examples(24, right=True, seed=1), runtime=runtime)
    with pytest.raises(NoFailuresError, match="30 of the 30"):
        prepare(model, examples(30, right=True), runtime=runtime)


def test_too_little_is_refused_before_any_work(model, runtime):
    with pytest.raises(NoFailuresError, match="no failures were given"):
        prepare(model, [], runtime=runtime)
    with pytest.raises(DataError, match="at least 6"):
        prepare(model, examples(5, right=False), runtime=runtime)
    assert len(prepare(model, examples(6, right=False), runtime=runtime).failing) == 2
    with pytest.raises(DataError, match="of one class"):
        prepare(
            model,
            examples(9, right=False),
            retain=examples(30, right=True, seed=1)[::3],
            runtime=runtime,
        )
    one_class = examples(30, right=False)[::3]
    assert len(prepare(model, one_class, runtime=runtime).failing) == 6


def test_a_holdout_with_failures_or_retained_examples_is_refused(model, runtime):
    failures, retain = examples(20, right=False), examples(40, right=True, seed=1)
    copies = [(image.copy(), label) for image, label in failures[:3]]
    with pytest.raises(DataError, match="3 of its examples are among the failures"):
        prepare(model, failures, holdout=examples(9, right=True, seed=2) + copies, runtime=runtime)
    with pytest.raises(DataError, match="5 of its examples are among the retained"):
        prepare(model, failures, retain=retain, holdout={"clean": retain[:5]}, runtime=runtime)


def test_no_failure_is_retained_and_none_counts_twice(model, runtime):
    failures, retain = examples(20, right=False), examples(40, right=True, seed=1)
    data = prepare(model, failures + failures[:5], retain=retain + failures, runtime=runtime)
    assert rows_of(data, "failing") == list(range(20)) and rows_of(data, "retained") == list(
        range(40)
    )


@pytest.mark.parametrize("role", ["failures", "retain", "passing", "holdout"])
def test_a_role_of_which_nothing_is_left_says_why(role, model, runtime):
    given = {"failures": examples(30, right=False), "retain": examples(60, right=True, seed=1)}
    given |= {
        "passing": examples(30, right=True, seed=2),
        "holdout": examples(30, right=True, seed=3),
    }
    given[role] = [(image, (y + i) % CLASSES) for image, y in given[role] for i in range(2)]
    failures = given.pop("failures")
    with pytest.raises(DataError, match=f"{role}.*all .* left out, as each image has several lab"):
        prepare(model, failures, **given, runtime=runtime)


def test_retained_examples_that_are_all_among_the_passing_ones_are_told(model, runtime):
    failures, right = examples(30, right=False), examples(30, right=True, seed=2)
    with pytest.raises(DataError, match="retain: all 30 .* left out, as they are among the pass"):
        prepare(model, failures, retain=right, passing=right, runtime=runtime)


def test_collect_failures_gives_the_wrong_ones_and_their_share(model, runtime):
    pool = examples(30, right=True) + examples(10, right=False, seed=1)
    failures = collect_failures(model, pool, runtime=runtime)
    assert failures.ids == tuple(range(30, 40)) and failures.error_rate == 0.25
    assert failures.labels.tolist() == [(i + 1) % CLASSES for i in range(10)], (
        "the labels that were given"
    )
    few = [collect_failures(model, pool, max_failures=4, seed=s, runtime=runtime) for s in (5, 5)]
    assert few[0].ids == few[1].ids and len(few[0]) == 4 and few[0].error_rate == 0.25
    assert set(few[0].ids) <= set(failures.ids)
    assert prepare(model, failures, runtime=runtime).error_rate == 0.25
    with pytest.raises(NoFailuresError, match="all 30"):
        collect_failures(model, pool[:30], runtime=runtime)


def test_provenance_is_plain_json_and_tells_labels_apart(model, runtime):
    data = prepare(
        model, examples(30, right=False), retain=examples(30, right=True, seed=1), runtime=runtime
    )
    assert json.loads(json.dumps(data.provenance)) == data.provenance
    assert data.provenance["failing"]["n"] == 18
    assert data.provenance["failing"]["skipped"] == {"unknown_label": 0, "unreadable": 0}
    images = as_images([(image, 0) for image, _ in examples(3, right=True)], model)
    other = as_images([(image, 1) for image, _ in examples(3, right=True)], model)
    assert images.describe()["sha256"] != other.describe()["sha256"]


def test_weights_that_are_not_finite_are_named(model):
    check_finite(model)
    model.centres.data[1] = float("nan")
    with pytest.raises(NonFiniteError, match="'centres'"):
        check_finite(model)


def test_images_of_another_model_are_refused(model, runtime):
    other = Reddest()
    other.pretrained_cfg = other.pretrained_cfg | {"input_size": (3, 16, 16)}
    with pytest.raises(DataError, match="another model"):
        prepare(model, as_images(examples(30, right=False), other), runtime=runtime)


@pytest.mark.parametrize(
    "wrong",
    [{"selection_share": 0}, {"holdout_share": 0.9}, {"max_right": 2}, {"retained_holdout_max": 0}],
)
def test_options_out_of_range(wrong):
    with pytest.raises(OptionError, match=next(iter(wrong)).split("_")[0]):
        DataOptions(**wrong)


class Counting:
    """Reader that counts how often each row is read."""

    key = "counting"

    def __init__(self, items):
        self.items, self.read_rows = items, []

    def read(self, rows):
        self.read_rows += rows
        return [self.items[row][0] for row in rows]


def test_pixels_are_decoded_once_shared_by_subsets_and_kept_within_the_budget(model):
    items = examples(10, right=True)
    expected = torch.stack(
        [torch.from_numpy(np.array(image)).permute(2, 0, 1) for image, _ in items]
    )
    whole = as_images(items, model)
    for kept in (10, 4):
        reader = Counting(items)
        pool = Pool(reader, range(10), whole.preprocessing, budget=kept * 8 * 8 * 3 + 1)
        images = Images(pool, torch.arange(10), whole.labels, name="images")
        again = images.subset([7, 2, 2]), images.subset(torch.arange(10) >= 8)
        for _ in range(2):
            assert torch.equal(images.pixels(range(10)), expected)
        assert torch.equal(again[0].pixels([0, 1]), images.pixels([7, 2])) and again[1].ids == (
            8,
            9,
        )
        assert len([row for row in reader.read_rows if row < kept]) == kept
        assert (len(reader.read_rows) == 10) == (kept == 10)


def test_images_survive_pickling_without_their_pixels(model):
    images = as_images(examples(200, right=True), model).subset(range(50, 60))
    size = len(pickle.dumps(images))
    copy = pickle.loads(pickle.dumps(images))
    images.pool.fetch(torch.arange(200))
    assert len(pickle.dumps(images)) <= size
    assert torch.equal(copy.pixels(range(10)), images.pixels(range(10))) and copy.ids == images.ids
    image, label = copy[3]
    assert (
        image.dtype == torch.uint8 and image.shape == (3, 8, 8) and label == int(images.labels[3])
    )
    with pytest.raises(IndexError):
        copy[10]


def test_normalize_is_timm_s(model):
    model.pretrained_cfg = model.pretrained_cfg | {"mean": (0.1, 0.2, 0.3), "std": (0.5, 0.6, 0.7)}
    images = as_images(examples(4, right=True), model)
    pixels = images.pixels(range(4))
    mean, std = (
        torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1),
        torch.tensor([0.5, 0.6, 0.7]).view(3, 1, 1),
    )
    expected = (pixels / 255 - mean) / std
    torch.testing.assert_close(images.preprocessing.normalize(pixels, "cpu"), expected)
    assert pixels.dtype == torch.uint8


def test_an_unreadable_retained_image_is_met_late_and_replaced_by_its_class(
    model, runtime, tmp_path
):
    retain = examples(30, right=True, seed=1)
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"not an image")
    retain[4] = (broken, retain[4][1])
    with pytest.raises(DataError, match="broken.png"):
        prepare(model, examples(9, right=False), retain=retain, runtime=runtime)
    lazily = as_images(retain, model, name="retain", check_readable=False, on_unreadable="skip")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(lazily.pixels([3, 4, 5]), lazily.pixels([3, 7, 5]))
