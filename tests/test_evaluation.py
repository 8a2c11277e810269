"""predict(): order, modes, and what is refused."""

import os
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from timm_repair.data.predicting import predict
from timm_repair.errors import DataError, NonFiniteError
from timm_repair.images.sources import as_images
from timm_repair.runtime.runtime import Runtime

SHARED = Path(os.environ.get("TIMM_REPAIR_DATA", Path(__file__).parents[2] / "shared"))


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Dropout(0.5), nn.Flatten(), nn.LazyLinear(5)
    )
    model.pretrained_cfg = {"input_size": (3, 8, 8), "crop_pct": 1.0}
    model(torch.zeros(2, 3, 8, 8))
    return model.eval()


@pytest.fixture
def images(model):
    noise = np.random.default_rng(0)
    arrays = [noise.integers(0, 256, (8, 8, 3), dtype=np.uint8) for _ in range(23)]
    return as_images([(Image.fromarray(a), i % 5) for i, a in enumerate(arrays)], model)


def test_answers_come_in_example_order_whatever_the_batch(model, images):
    pixels = images.preprocessing.normalize(images.pixels(range(23)))
    with torch.no_grad():
        logits = model(pixels)
    for size in (1, 10, 256):
        got = predict(
            model, images, images.preprocessing, Runtime(progress=False, eval_batch_size=size)
        )
        assert torch.equal(got.predictions, logits.argmax(1))
        torch.testing.assert_close(
            got.losses, F.cross_entropy(logits, images.labels, reduction="none")
        )
    few = predict(model, images.subset([5, 2]), images.preprocessing, Runtime(progress=False))
    assert few.predictions.tolist() == got.predictions[[5, 2]].tolist()
    assert (
        len(predict(model, images.subset([]), images.preprocessing, Runtime(progress=False)).losses)
        == 0
    )


def test_every_module_keeps_its_mode_also_after_an_error(model, images):
    model.train()
    model[2].eval()
    modes = [m.training for m in model.modules()]
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    result = predict(model, images, images.preprocessing, Runtime(progress=False))
    assert not result.losses.requires_grad
    model[4].weight.data[0, 0] = float("nan")
    with pytest.raises(NonFiniteError, match="23 of 23"):
        predict(model, images, images.preprocessing, Runtime(progress=False))
    assert [m.training for m in model.modules()] == modes
    model[4].weight.data[0, 0] = state["4.weight"][0, 0]
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_what_is_no_classifier_for_these_labels_is_refused(model, images):
    with pytest.raises(DataError, match=r"shape \(N, classes\)"):
        predict(model[:2], images, images.preprocessing, Runtime(progress=False))
    model[4] = nn.Linear(model[4].in_features, 3)
    with pytest.raises(DataError, match="3 outputs"):
        predict(model, images, images.preprocessing, Runtime(progress=False))


def test_a_trained_model_answers_as_through_plain_timm():
    folder = SHARED / "models" / "resnet18_cifar10"
    if not folder.exists():
        pytest.skip(f"no trained model at {folder}; set TIMM_REPAIR_DATA")
    import datasets

    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    test = datasets.Dataset.from_parquet(str(SHARED / "data" / "cifar10" / "test.parquet")).select(
        range(0, 10000, 50)
    )
    images = as_images(test, model)
    transform = timm.data.create_transform(
        **timm.data.resolve_model_data_config(model), is_training=False
    )
    with torch.no_grad():
        plain = model(
            torch.stack([transform(example["image"].convert("RGB")) for example in test])
        ).argmax(1)
    predictions = predict(model, images, images.preprocessing, Runtime(progress=False)).predictions
    assert torch.equal(predictions, plain)
    assert (predictions == torch.tensor(test["label"][:])).float().mean() > 0.7
