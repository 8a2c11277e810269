"""What values mean: 0 to 1, to 255 or to 65535, alike for all images of a source."""

import io

import numpy as np
import pytest
import torch
from images.sources_of_images import NAMES, Plain, TorchData, red
from PIL import Image

from timm_repair.errors import DataError
from timm_repair.images.sources import as_images


def flat(*values, dtype=np.float32, size=4):
    """Images of (size, size, 3) that have one value each."""
    return [np.full((size, size, 3), value, dtype) for value in values]


def grey(*values, mode="I"):
    kind = np.int32 if mode == "I" else np.uint16
    return [Image.fromarray(np.full((4, 4), value, kind)) for value in values]


def labelled(images):
    return [(image, 0) for image in images]


def filed(image, kind):
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


TOGETHER = {  # all of them are there to decide by
    "a dark image of floats to 255": (flat(1, 1, 200), [1, 1, 200]),
    "of floats to 1": (flat(1, 0.2, 0), [255, 51, 0]),
    "rounding": (flat(1.0000002, 0.2), [255, 51]),
    "uint16 of 8 bits": (flat(200, 7, 0, dtype=np.uint16), [200, 7, 0]),
    "uint16": (flat(200, 1000, 25600, dtype=np.uint16), [0, 3, 100]),
    "integer images of 8 bits": (grey(200, 7), [200, 7]),
    "integer images of 16 bits": (grey(200, 1000, 25600), [0, 3, 100]),
    "I;16 of 8 bits": (grey(200, 7, mode="I;16"), [200, 7]),
    "I;16": (grey(200, 1000, 25600, mode="I;16"), [0, 3, 100]),
    "files of 16 bits": ([filed(i, "PNG") for i in grey(200, 2560, mode="I;16")], [0, 10]),
    "files of 16 bits, TIFF": ([filed(i, "TIFF") for i in grey(200, 2560, mode="I;16")], [0, 10]),
    "files of 32 bits": ([filed(i, "TIFF") for i in grey(200, 7)], [200, 7]),
}


@pytest.mark.parametrize("case", TOGETHER)
def test_all_images_of_a_source_have_one_scale(case, model):
    images, expected = TOGETHER[case]
    assert red(as_images(labelled(images), model)) == expected
    assert red(as_images(TorchData(labelled(images)), model)) == expected
    if isinstance(images[0], np.ndarray):
        x, y = np.stack(images), [0] * len(images)
        assert red(as_images((x, y), model)) == expected
        if x.dtype.kind == "f":
            tensors = torch.from_numpy(x).permute(0, 3, 1, 2)
            assert red(as_images((tensors, y), model)) == expected


REFUSED = {
    "12 bits": (flat(3000, dtype=np.uint16), "12 bits or of 16; scale it to uint8"),
    "12 bits of an integer image": (grey(3000), "12 bits or of 16; scale it to uint8"),
    "12 bits of I;16": (grey(3000, mode="I;16"), "12 bits or of 16; scale it to uint8"),
    "two scales": (flat(200, 0.5), "image 1 .*go to 0.5, so from 0 to 1, .* from 0 to 255: conv"),
    "too much": (grey(70000), "values 70000 to 70000; give uint8"),
    "files of two scales": (
        [filed(each, "TIFF") for each in grey(200, 25600)],
        "those of others from 0 to .*convert all to uint8",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_images_that_contradict_each_other_are_refused(case, model):
    images, message = REFUSED[case]
    for source in (labelled(images), TorchData(labelled(images))):
        with pytest.raises(DataError, match=message):
            as_images(source, model)


def test_an_image_that_comes_later_must_fit_those_before(model, monkeypatch):
    monkeypatch.setattr("timm_repair.images.pool.CHUNK", 1)  # nothing is seen beforehand
    monkeypatch.setattr("timm_repair.images.images.CHUNK", 1)
    data = TorchData(labelled(flat(200, 1)))
    assert red(as_images(data, model)) == [200, 1]
    with pytest.raises(DataError, match="image 1 .*so from 0 to 255, those of others from 0 to 1:"):
        as_images(TorchData(labelled(flat(1, 200))), model)
    with pytest.raises(DataError, match="those of others from 0 to 255: convert all"):
        as_images(iter(labelled(flat(200, 0.5))), model)


def test_tensors_of_any_kind_are_read_as_one_by_one(model):
    x, y = torch.full((2, 3, 4, 4), 0.2), [0, 1]
    for tensor in (x.bfloat16(), x.half(), x.clone().requires_grad_()):
        assert red(as_images((tensor, y), model)) == red(
            as_images([*zip(tensor, y, strict=True)], model)
        )
        assert as_images((tensor, y), model).pool.file_digests(torch.arange(2))[0]


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (Image.new("RGB", (0, 0)), "0 x 0 pixels"),
        (Image.new("RGB", (0, 5)), "0 x 5 pixels"),
    ],
)
def test_what_has_no_pixels_is_unreadable(raw, message, model):
    with pytest.raises(DataError, match=f"{message}.*on_unreadable='skip'"):
        as_images([(raw, 0)], model)
    kept = as_images([(raw, 0), *labelled(flat(1))], model, on_unreadable="skip")
    assert kept.ids == (1,) and kept.labels.tolist() == [0]


@pytest.mark.filterwarnings("ignore::UserWarning")  # torch is about to drop them
def test_a_quantized_or_sparse_tensor_is_refused(model):
    raw = torch.quantize_per_tensor(torch.rand(3, 4, 4), 0.01, 0, torch.quint8)
    with pytest.raises(DataError, match="a quantized tensor is no image; give image.dequantize"):
        as_images([(raw, 0)], model)
    with pytest.raises(DataError, match="a sparse tensor is no image; give image.to_dense"):
        as_images([(torch.rand(3, 4, 4).to_sparse(), 0)], model)


def test_what_a_transform_makes_has_one_scale(model):
    model = Plain(NAMES)
    pictures = [(Image.new("RGB", (4, 4), (value, 0, 0)), 0) for value in (1, 200)]
    with pytest.raises(DataError, match="those of others from 0 to .*convert all to uint8"):
        as_images(pictures, model, transform=lambda picture: np.float32(picture))
