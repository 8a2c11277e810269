"""Streams: the same examples as without streaming, in bounded memory."""

import logging
import pickle

import datasets
import numpy as np
import pytest
import torch
from images.asked import FEATURES, Asked, same
from images.sources_of_images import NAMES, Plain, TorchData, image, red, table
from PIL import Image
from reddest import Reddest

from timm_repair.data.collecting import collect_failures
from timm_repair.data.options import DataOptions
from timm_repair.errors import DataError, LabelError, OptionError
from timm_repair.images import streams as streams_module
from timm_repair.images.corruptions.corrupting import corrupt
from timm_repair.images.sources import as_images

TOKEN = "hf_SecretSecretSecret"


pytestmark = pytest.mark.usefixtures("own_cache")


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
