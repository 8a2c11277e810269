"""predict(): order, modes, and what is refused."""

import os
from pathlib import Path

import planted
import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

from timm_repair.data.predicting import predict
from timm_repair.errors import DataError, NonFiniteError
from timm_repair.images.sources import as_images
from timm_repair.runtime.runtime import Runtime

SHARED = Path(os.environ.get("TIMM_REPAIR_DATA", Path(__file__).parents[3] / "shared"))


@pytest.fixture
def model():
    """Its answers are sure, so that they do not depend on the batch."""
    return planted.classifier()


@pytest.fixture
def images(model):
    return as_images(planted.pictures(23), model)


def test_answers_come_in_example_order_whatever_the_batch(model, images):
    pixels = images.preprocessing.normalize(images.pixels(range(23)))
    with torch.no_grad():
        logits = model(pixels)
    for size in (1, 10, 256):
        got = predict(
            model, images, images.preprocessing, Runtime(progress=False, eval_batch_size=size)
        )
        assert torch.equal(got.predictions, logits.argmax(1))
        assert got.predictions.tolist() == [i % 10 for i in range(23)]
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
    model.layer2.eval()
    modes = [m.training for m in model.modules()]
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    result = predict(model, images, images.preprocessing, Runtime(progress=False))
    assert not result.losses.requires_grad
    model.fc.weight.data[0, 0] = float("nan")
    with pytest.raises(NonFiniteError, match="23 of 23"):
        predict(model, images, images.preprocessing, Runtime(progress=False))
    assert [m.training for m in model.modules()] == modes
    model.fc.weight.data[0, 0] = state["fc.weight"][0, 0]
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_what_is_no_classifier_for_these_labels_is_refused(model, images):
    with pytest.raises(DataError, match=r"shape \(N, classes\)"):
        predict(
            nn.Sequential(model.conv1, model.bn1),
            images,
            images.preprocessing,
            Runtime(progress=False),
        )
    model.fc = nn.Linear(model.fc.in_features, 3)
    with pytest.raises(DataError, match="3 outputs"):
        predict(model, images, images.preprocessing, Runtime(progress=False))


@pytest.fixture(scope="module")
def cifar():
    """A trained model and every fiftieth test image; made before `fenced` looks, as the first
    parquet sets a variable.
    """
    folder = SHARED / "models" / "resnet18_cifar10"
    if not folder.exists():
        pytest.skip("for want of models/resnet18_cifar10 in the folder that TIMM_REPAIR_DATA names")
    import datasets

    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    test = datasets.Dataset.from_parquet(str(SHARED / "data" / "cifar10" / "test.parquet"))
    return model, test.select(range(0, 10000, 50))


def test_a_trained_model_answers_as_through_plain_timm(cifar):
    model, test = cifar
    images = as_images(test, model)
    transform = timm.data.create_transform(
        **timm.data.resolve_model_data_config(model), is_training=False
    )
    with torch.no_grad():
        logits = model(
            torch.stack([transform(example["image"].convert("RGB")) for example in test])
        )
    found = predict(model, images, images.preprocessing, Runtime(progress=False))
    plain = F.cross_entropy(logits, images.labels, reduction="none")
    torch.testing.assert_close(found.losses, plain, rtol=1e-3, atol=1e-4)
    first, second = logits.topk(2).values.T
    sure = first - second > 1e-3  # no rounding exchanges these two
    assert sure.float().mean() > 0.95 and torch.equal(
        found.predictions[sure], logits.argmax(1)[sure]
    )
    assert (found.predictions == torch.tensor(test["label"][:])).float().mean() > 0.7
