"""Streams: the same examples as without streaming, in bounded memory, and every failure to load one
as DataError without a token.
"""

import gc
import io
import json
import logging
import pickle
import subprocess
import sys
import traceback
import weakref

import datasets
import numpy as np
import pytest
import torch
from huggingface_hub import HfApi, constants
from huggingface_hub import errors as hub_errors
from images.sources_of_images import NAMES, Plain, TorchData, image, red, table
from loopback.server import HubServer, hub_environment
from PIL import Image
from reddest import Reddest, examples

from timm_repair.data.collecting import collect_failures
from timm_repair.data.options import DataOptions
from timm_repair.data.preparing import prepare
from timm_repair.errors import DataError, LabelError, NoFailuresError, OptionError
from timm_repair.images import streams as streams_module
from timm_repair.images.corruptions.corrupting import corrupt
from timm_repair.images.sources import as_images
from timm_repair.runtime.runtime import Runtime

FEATURES = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=NAMES)})
TOKEN = "hf_SecretSecretSecret"
NotFound = datasets.exceptions.DatasetNotFoundError


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path_factory.mktemp("home") / "token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)


@pytest.fixture
def model():
    return Plain(NAMES)


class Asked:
    """A generator of examples that counts how many it was asked for."""

    def __init__(self, pairs, columns=("image", "label")):
        self.pairs, self.columns, self.count = pairs, columns, 0

    def __call__(self):
        for pair in self.pairs:
            self.count += 1
            yield dict(zip(self.columns, pair, strict=True))

    def stream(self, features=None):
        return datasets.IterableDataset.from_generator(self, features=features)


def same(streamed, plain):
    assert streamed.labels.tolist() == plain.labels.tolist()
    assert torch.equal(streamed.pixels(range(len(streamed))), plain.pixels(range(len(plain))))


def test_every_form_of_stream_gives_the_images_of_the_dataset(model, tmp_path):
    data = table([2, 0, 1, 2])
    plain = as_images(data, model)
    data.to_parquet(tmp_path / "data.parquet")
    for i in range(4):
        image(i).save(tmp_path / f"{i}.png")
    (tmp_path / "data.csv").write_text(
        "image,label\n" + "".join(f"{i}.png,{NAMES[y]}\n" for i, y in enumerate(data["label"]))
    )
    (tmp_path / "data.jsonl").write_text(
        "".join(
            f'{{"img": "{i}.png", "target": "{NAMES[y]}"}}\n' for i, y in enumerate(data["label"])
        )
    )
    loaded = datasets.load_dataset(
        "parquet", data_files=str(tmp_path / "data.parquet"), streaming=True
    )
    pairs = [(image(i), label) for i, label in enumerate(data["label"])]
    streams = [
        data.to_iterable_dataset(),
        data.to_iterable_dataset(num_shards=2),
        data.to_iterable_dataset().with_format("torch"),
        loaded,
        loaded["train"],
        loaded["train"].map(lambda example: example),
        Asked(pairs).stream(FEATURES),
        Asked(pairs).stream(),
        Asked([(np.array(i), NAMES[label]) for i, label in pairs]).stream(),
        Asked(
            [(str(tmp_path / f"{i}.png"), NAMES[label]) for i, (_, label) in enumerate(pairs)]
        ).stream(),
    ]
    for stream in streams:
        same(as_images(stream, model), plain)
    for file in ("data.parquet", "data.csv", "data.jsonl"):
        same(as_images(tmp_path / file, model, streaming=True), plain)
    images = as_images(loaded, model, split="train", max_examples=3)
    assert images.origin["stream"] == {"read": 3, "kept": 3} and images.origin["columns"] == {
        "image": "image",
        "label": "label",
    }
    assert as_images(data.to_iterable_dataset(), Plain(NAMES[::-1])).labels.tolist() == [0, 2, 1, 0]
    same(pickle.loads(pickle.dumps(images)), images)
    assert red(as_images(streams[-1].skip(2), model)) == [2, 3]
    assert len(corrupt(data.to_iterable_dataset(), "brightness")) == 4


def test_the_first_examples_are_taken_and_no_more_are_read(model, caplog, monkeypatch):
    asked = Asked([(image(i), i % 3) for i in range(50)])
    assert (
        red(as_images(asked.stream(FEATURES), model, max_examples=7)) == list(range(7))
        and asked.count == 7
    )
    assert not caplog.records
    monkeypatch.setattr(streams_module, "BUFFER", 5)
    with caplog.at_level(logging.WARNING):
        assert red(as_images(asked.stream(), model, name="failures")) == list(range(5))
    assert (
        asked.count == 7 + 6
        and "failures: only the first 5 examples" in caplog.text
        and "max_examples=" in caplog.text
    )
    shuffled = [
        as_images(asked.stream().shuffle(seed=3, buffer_size=50), model, max_examples=9).ids
        for _ in range(2)
    ]
    assert shuffled[0] == shuffled[1] != as_images(asked.stream(), model, max_examples=9).ids


def test_images_stay_encoded_and_in_all_modes(model):
    modes = ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "I"]
    pairs = [
        (
            (
                Image.fromarray(np.full((4, 4), 9000, np.uint16))
                if mode == "I;16"
                else image(50, mode)
            ),
            0,
        )
        for mode in modes
    ]
    images = as_images(Asked(pairs).stream(), model)
    assert all(isinstance(raw, bytes) for raw in images.pool.reader.raws)
    same(images, as_images(pairs, model))
    files = [
        {"bytes": b"no image", "path": None},
        {"bytes": images.pool.reader.raws[0], "path": "1.png"},
    ]
    # not decoded where features tell that it could be
    stream = Asked([(file, 0) for file in files]).stream(FEATURES)
    assert as_images(stream, model, check_readable=False).pool.reader.raws == files


def test_columns_are_chosen_as_without_streaming(model):
    pairs = [(image(1), image(2), 0, 1)]
    features = {
        "a": datasets.Image(),
        "b": datasets.Image(),
        "label": datasets.ClassLabel(names=NAMES),
        "y": datasets.Value("int64"),
    }
    for given in (datasets.Features(features), None):
        stream = Asked(pairs, features).stream(given)
        with pytest.raises(DataError, match="a, b, label, y.*image_column="):
            as_images(stream, model)
        with pytest.raises(DataError, match="no column 'absent'"):
            as_images(stream, model, image_column="a", label_column="absent")
        chosen = as_images(stream, model, image_column="b", label_column="y")
        assert (red(chosen), chosen.labels.tolist()) == ([2], [1])
    uneven = datasets.IterableDataset.from_generator(
        lambda: iter([{"image": image(), "label": 0}, {"image": image()}])
    )
    with pytest.raises(DataError, match="example 1 has image; all must have image and label"):
        as_images(uneven, model)
    with pytest.raises(DataError, match="choose one with split="):
        as_images(datasets.IterableDatasetDict(a=Asked([]).stream(), b=Asked([]).stream()), model)


def test_what_cannot_be_streamed_is_refused_before_any_work(model, tmp_path):
    asked = Asked([(image(), 0)])
    for source in (
        [(image(), 0)],
        TorchData([(image(), 0)]),
        table([0]),
        tmp_path,
        as_images([(image(), 0)], model),
    ):
        with pytest.raises(
            OptionError, match="streaming=True is for Hub ids and files.*leave it out"
        ):
            as_images(source, model, streaming=True)
        with pytest.raises(OptionError, match="max_examples=3 is for streams"):
            as_images(source, model, max_examples=3)
    with pytest.raises(OptionError, match="set streaming=True"):
        as_images("no/such", model, max_examples=3)
    for wrong in (0, -1, True, 2.5, "3"):
        with pytest.raises(OptionError, match="max_examples="):
            as_images(asked.stream(), model, max_examples=wrong)
        with pytest.raises(OptionError, match="max_examples="):
            DataOptions(max_examples=wrong)
    for token in ("", f"{TOKEN}\n", f" {TOKEN}", f"{TOKEN}é"):
        with pytest.raises(OptionError, match="token= is empty, or holds white space") as refused:
            as_images("no/such", model, token=token)
        assert TOKEN not in str(refused.value)
    for options in (
        {"max_examples": 0},
        {"on_unknown": "drop"},
        {"token": ""},
        {"max_failures": 0},
    ):
        with pytest.raises(OptionError, match=next(iter(options))):
            collect_failures("no model at all", asked.stream(), **options)
    with pytest.raises(OptionError, match="did you mean 'max_examples'"):
        collect_failures(Reddest(), asked.stream(), max_example=3)
    with pytest.raises(DataError, match="IterableDataset .*holds no examples"):
        as_images(Asked([]).stream(FEATURES), model)
    assert asked.count == 0


def test_unreadable_images_of_a_stream(model):
    pairs = [
        ({"bytes": None if i else b"no image", "path": f"{i}.none"} if i < 2 else image(i), 0)
        for i in range(4)
    ]
    with pytest.raises(
        DataError, match=r"on_unreadable='skip' \(example 0 of the stream\) \(2 such images\)"
    ):
        as_images(Asked(pairs).stream(), model)
    images = as_images(Asked(pairs).stream(), model, on_unreadable="skip")
    assert red(images) == [2, 3] and images.origin["skipped"]["unreadable"] == 2
    with pytest.raises(DataError, match="un-transformed"):
        as_images(Asked([(torch.rand(3, 4, 4) - 0.5, 0)]).stream(), model)


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


def errors_of(module):
    return [
        kind
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, Exception)
    ]


def test_every_error_of_the_hub_becomes_a_data_error_without_the_token(model, monkeypatch, caplog):
    kinds = errors_of(hub_errors) + errors_of(datasets.exceptions) + [ConnectionError, RuntimeError]
    assert len(kinds) > 60
    caplog.set_level(logging.DEBUG)
    said = {
        "__init__": lambda self: None,
        "__str__": lambda self: f"illegal header value 'Bearer {TOKEN}'",
    }
    for kind in kinds:
        for nested in (False, True):  # the token in the error itself, or in the one that caused it

            def fail(*_, kind=kind, nested=nested, **options):
                assert {
                    "token": TOKEN,
                    "revision": "v1",
                    "split": "train",
                    "streaming": True,
                }.items() <= options.items()
                error = type(kind.__name__, (kind,), said)()
                if nested:
                    raise ValueError("wrong") from error
                raise error

            monkeypatch.setattr(datasets, "load_dataset", fail)
            with pytest.raises(
                DataError, match=r"failures: ns/name cannot be loaded.*[.] [A-Z]\w+"
            ) as refused:
                as_images(
                    "ns/name",
                    model,
                    name="failures",
                    token=TOKEN,
                    revision="v1",
                    split="train",
                    streaming=True,
                )
            shown = "".join(traceback.format_exception(refused.value))
            assert TOKEN not in shown + caplog.text and refused.value.__cause__ is None
    monkeypatch.setenv("HF_TOKEN", TOKEN)  # that of the login is not shown either
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: fail_with(ValueError(TOKEN)))
    with pytest.raises(DataError, match=r"\*\*\*") as refused:
        as_images("ns/name", model)
    assert TOKEN not in "".join(traceback.format_exception(refused.value))


def fail_with(error):
    raise error


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            NotFound("Dataset 'a/b' is a gated dataset on the Hub."),
            "Accept its conditions.*hf auth login.*token=",
        ),
        (
            NotFound("Dataset 'a/b' doesn't exist on the Hub or cannot be accessed."),
            "private, log in with `hf auth login`.*token=",
        ),
        (
            hub_errors.RevisionNotFoundError.__new__(hub_errors.RevisionNotFoundError),
            "Check revision=",
        ),
        (
            ValueError("Bad split: absent. Available splits: ['train']"),
            r"Available splits.*Check split=",
        ),
        (
            ConnectionError("Couldn't reach 'a/b' on the Hub (OfflineModeIsEnabled)"),
            "HF_HUB_OFFLINE",
        ),
        (ValueError("Config name is missing."), "datasets.load_dataset"),
        (
            RuntimeError("Dataset scripts are no longer supported, but found b.py"),
            "refs/convert/parquet",
        ),
        (OSError("disk"), "split= and your access"),
    ],
)
def test_errors_of_the_hub_say_what_to_do(error, message, model, monkeypatch):
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: fail_with(error))
    with pytest.raises(DataError, match=message) as refused:
        as_images("a/b", model)
    assert refused.value.__cause__ is error


@pytest.mark.parametrize("streamed", [False, True])
def test_synsets_and_english_words_are_mapped_to_imagenet(streamed):
    def labels(names, raw=None, **options):
        data = table(list(range(len(names))) if raw is None else raw, names)
        source = data.to_iterable_dataset() if streamed else data
        return as_images(source, imagenet, check_readable=False, **options).labels.tolist()

    imagenet = Plain(classes=1000, tag="a1_in1k")
    assert labels(["n01443537", "n01440764", "n15075141"]) == [1, 0, 999]
    assert labels(["great white shark", "Tinca_tinca", "goldfish", "toilet paper"]) == [
        2,
        0,
        1,
        999,
    ]
    for word in ("crane", "maillot"):
        with pytest.raises(LabelError, match=rf"{word}.* may mean any of \d+ \(n\d+: .*label_map="):
            labels(["goldfish", word])
        assert labels(["goldfish", word], [0, 0]) == [1, 1]
    assert labels(
        ["goldfish", "crane"], label_map={"goldfish": "n01443537", "crane": "n02012849"}
    ) == [1, 134]
    with pytest.raises(LabelError, match="'n99999999'"):
        labels(["n01440764", "n99999999"])


READ = """
import logging, sys, traceback
logging.basicConfig(level=logging.INFO)  # of timm_repair all that is logged, so that the token would be seen
from images.sources_of_images import NAMES, Plain, red
from timm_repair.errors import DataError
from timm_repair.images.sources import as_images

token, other = sys.argv[1:]
for streaming in (True, False):  # in this order: what is in the cache of datasets, it gives to everybody
    def read(**options):
        return as_images("me/private", Plain(NAMES), streaming=streaming, **{"token": token, "split": "test"} | options)

    for wrong, fix in (
        ({"token": False}, "hf auth login"), ({"token": other}, "hf auth login"), ({"token": "hf_wrong"}, "hf auth login"),
        ({"revision": "v9"}, "Check revision="), ({"split": "absent"}, "Check split="), ({"split": None}, "split="),
    ):
        try:
            read(**wrong)
            raise SystemExit(f"{wrong} was taken")
        except DataError as error:
            shown = "".join(traceback.format_exception(error))
            assert fix in str(error) and not any(each in shown for each in (token, other, "hf_wrong")), shown
    images = read(revision="v1")
    assert (red(images), images.labels.tolist(), images.origin["source"]) == ([0, 1], [2, 1], "me/private@v1"), images.origin
    assert red(read()) == [0, 1, 2] and token not in repr((images, images.describe(), vars(images.pool.reader)))
"""


def test_a_private_dataset_of_the_hub_streamed_and_not(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    with HubServer(regular_only=True) as hub:
        hub.add_user("me", TOKEN)
        api = HfApi(endpoint=hub.url, token=TOKEN)
        api.create_repo("me/private", repo_type="dataset", private=True)

        def push(split, labels):
            table(labels).to_parquet(tmp_path / "part.parquet")
            data = (tmp_path / "part.parquet").read_bytes()
            api.upload_file(
                path_or_fileobj=data,
                path_in_repo=f"data/{split}-0.parquet",
                repo_id="me/private",
                repo_type="dataset",
            )

        push("train", [0])
        push("test", [2, 1])
        api.create_tag("me/private", tag="v1", repo_type="dataset")
        push("test", [2, 1, 0])
        environment = hub_environment(hub.url, tmp_path / "home") | {
            "PYTHONPATH": ":".join(filter(None, sys.path))
        }
        script = [sys.executable, "-c", READ, TOKEN, "hf_other"]
        done = subprocess.run(
            script, env=environment, capture_output=True, text=True, cwd=tmp_path, timeout=120
        )
        assert done.returncode == 0, done.stderr
        assert TOKEN not in done.stderr + done.stdout and hub.errors == []
