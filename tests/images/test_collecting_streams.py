"""Failures of a stream, collected piece by piece, and streams for every role of a repair."""

import gc
import io
import json
import logging
import weakref

import datasets
import pytest
from images.asked import FEATURES, Asked, same
from images.sources_of_images import NAMES, Plain, image
from reddest import Reddest, examples

from timm_repair.data.collecting import collect_failures
from timm_repair.data.options import DataOptions
from timm_repair.data.preparing import prepare
from timm_repair.errors import DataError, LabelError, NoFailuresError
from timm_repair.images.sources import as_images
from timm_repair.runtime.runtime import Runtime

TOKEN = "hf_SecretSecretSecret"


pytestmark = pytest.mark.usefixtures("own_cache")


def pool():
    """Right and wrong answers in turn: 30 and 10 examples."""
    right, wrong = examples(30, right=True), examples(10, right=False, seed=1)
    return [pair for i in range(10) for pair in (*right[3 * i : 3 * i + 3], wrong[i])]


@pytest.mark.parametrize("batch", [1, 7, 256])
def test_failures_of_a_stream_are_those_of_the_dataset(batch, caplog):
    runtime = Runtime(progress=False, eval_batch_size=batch)
    plain, asked = collect_failures(Reddest(), pool(), runtime=runtime), Asked(pool())
    for options in ({}, {"max_examples": 11}, {"max_failures": 10}):
        streamed = collect_failures(Reddest(), asked.stream(), runtime=runtime, **options)
        same(streamed, plain)
        assert streamed.error_rate == plain.error_rate == 0.25 and streamed.origin["stream"] == {
            "read": 40,
            "kept": 10,
        }
        assert json.loads(json.dumps(streamed.describe())) == streamed.describe()
        assert prepare(Reddest(), streamed, runtime=runtime).error_rate == 0.25
    with pytest.raises(NoFailuresError, match="all 2 examples"):
        collect_failures(Reddest(), Asked(pool()[:2]).stream(), runtime=runtime)
    assert not caplog.records


def test_reading_stops_where_there_are_failures_enough(caplog, monkeypatch):
    runtime, asked = Runtime(progress=False, eval_batch_size=4), Asked(pool())
    few = collect_failures(Reddest(), asked.stream(), max_failures=3, runtime=runtime)
    assert (len(few), asked.count, few.error_rate, few.origin["stream"]) == (
        3,
        12,
        0.25,
        {"read": 12, "kept": 3},
    )
    same(few, collect_failures(Reddest(), pool(), runtime=runtime).subset(range(3)))
    assert not caplog.records
    monkeypatch.setattr("timm_repair.data.collecting_streams.BUFFER", 5)
    with caplog.at_level(logging.WARNING):
        assert len(collect_failures(Reddest(), asked.stream(), runtime=runtime)) == 5
    assert (
        "reading stopped at 5 failures, after 20 examples" in caplog.text
        and "max_failures=" in caplog.text
    )


class Held(dict):
    """An encoded image that can be weakly referenced."""


def test_examples_that_the_model_gets_right_are_forgotten():
    references = []

    def alive():
        gc.collect()
        return sum(reference() is not None for reference in references)

    def generate():
        for number, (picture, label) in enumerate(
            examples(200, right=True) + examples(2, right=False, seed=1)
        ):
            assert number % 50 or alive() <= 3 * 16 + 8, "the stream is held in memory"
            file = io.BytesIO()
            picture.save(file, "PNG")
            held = Held(bytes=file.getvalue(), path=None)
            references.append(weakref.ref(held))
            yield {"image": held, "label": label}

    runtime = Runtime(progress=False, eval_batch_size=16)
    failures = collect_failures(
        Reddest(),
        datasets.IterableDataset.from_generator(generate),
        runtime=runtime,
        max_passing=8,
    )
    assert failures.error_rate == 2 / 202 and len(references) == 202
    assert (
        all(isinstance(raw, Held) for raw in failures.pool.reader.raws)
        and alive() == len(failures) + 8 == len(failures) + len(failures.passing) == 10
    )


def test_labels_that_come_piece_by_piece_are_mapped_as_all_at_once():
    labels = ["yak"] * 4 + ["cat", "dog", "yak"] * 2 + ["grey fox"] * 2
    pairs = [
        (picture, label)
        for (picture, _), label in zip(examples(12, right=True), labels, strict=True)
    ]
    runtime, model = Runtime(progress=False, eval_batch_size=2), Reddest()
    model.pretrained_cfg = model.pretrained_cfg | {"label_names": NAMES}
    plain = collect_failures(model, pairs, on_unknown="skip", runtime=runtime)
    streamed = collect_failures(model, Asked(pairs).stream(), on_unknown="skip", runtime=runtime)
    same(streamed, plain)
    assert (
        streamed.error_rate == plain.error_rate
        and streamed.origin["skipped"] == plain.origin["skipped"]
    )
    assert streamed.origin["label_mapping"] == plain.origin["label_mapping"]
    for labels, options, message in (
        (["yak"] * 5, {"on_unknown": "skip"}, "'yak'"),
        (["cat", "cat", "yak"], {}, "'yak'"),
        (["cat", "cat", None], {}, "missing"),
        (["cat", "cat", 1], {}, "some labels are names"),
        (["1", "1", "cat"], {"on_unknown": "skip"}, "came later"),
    ):
        stream = Asked([(image(i), label) for i, label in enumerate(labels)]).stream()
        with pytest.raises(LabelError, match=message):
            collect_failures(model, stream, runtime=runtime, **options)


def test_unreadable_images_are_left_out_of_the_failures(caplog):
    pairs = pool()
    pairs[5], pairs[6] = (b"no image", 0), (b"nor this", 0)
    runtime = Runtime(progress=False, eval_batch_size=2)
    with pytest.raises(DataError, match=r"example 5 of the stream"):
        collect_failures(Reddest(), Asked(pairs).stream(), runtime=runtime)
    with caplog.at_level(logging.WARNING):
        failures = collect_failures(
            Reddest(), Asked(pairs).stream(), on_unreadable="skip", runtime=runtime
        )
    assert (
        len(failures) == 10
        and failures.error_rate == 10 / 38
        and failures.origin["skipped"]["unreadable"] == 2
    )
    assert "2 unreadable images left out" in caplog.text
    with pytest.raises(DataError, match="no image can be read"):
        collect_failures(
            Reddest(), Asked(pairs[5:7]).stream(), on_unreadable="skip", runtime=runtime
        )


def test_streams_for_every_role_of_a_repair(tmp_path):
    failing, retain, holdout = (
        examples(30, right=False),
        examples(60, right=True, seed=1),
        examples(20, right=True, seed=2),
    )
    rows = {"image": [picture for picture, _ in retain], "label": [label for _, label in retain]}
    datasets.Dataset.from_dict(
        rows,
        features=datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")}),
    ).to_parquet(tmp_path / "retain.parquet")
    runtime, options = Runtime(progress=False), DataOptions(streaming=True, max_examples=25)
    given = {
        "retain": tmp_path / "retain.parquet",
        "holdout": datasets.IterableDatasetDict(test=Asked(holdout).stream()),
    }
    # the failures are a list: read as ever
    data = prepare(Reddest(), failing, **given, options=options, runtime=runtime)
    sizes = {name: len(images) for name, images in data.holdout.items()}
    assert sizes == {"failing": 6, "holdout": 20} and data.provenance["retained"]["stream"] == {
        "read": 25,
        "kept": 25,
    }
    # the same example is recognised at another place of another stream
    stream = Asked(holdout).stream()
    one, other = as_images(stream, Reddest()), as_images(stream.skip(15), Reddest())
    assert set(other.keys) == set(one.keys[15:])


def test_a_stream_that_breaks_off_says_where():
    def generate():
        yield {"image": image(), "label": 0}
        raise ConnectionError(f"reset, header Bearer {TOKEN}")

    stream = datasets.IterableDataset.from_generator(generate, features=FEATURES)
    with pytest.raises(
        DataError,
        match="failures: the stream broke off after 1 examples.*ConnectionError: reset.*connection",
    ):
        as_images(stream, Plain(NAMES), name="failures")
