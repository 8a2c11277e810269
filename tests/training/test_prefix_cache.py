"""The prefix cache: a repair with it is the repair without it, it keeps to its budget, and models
that cannot be entered in their middle do without.
"""

import logging

import planted
import pytest
import torch
from cases import BUDGET
from making import quiet
from torch import nn
from torch.utils.checkpoint import checkpoint
from training.prefixes import AUGMENTED, cached, options, prepared

from timm_repair.data.predicting import predict
from timm_repair.methods import named
from timm_repair.models.entering import arriving
from timm_repair.models.partition import blocks
from timm_repair.models.temporary import evaluating
from timm_repair.training.batches import Batches
from timm_repair.training.populations import SELECTION, Populations, Sample
from timm_repair.training.prefix import forward as forward_module
from timm_repair.training.prefix.forward import forward_from

FAMILIES = {
    "test_resnet": {},
    "vgg11_bn": {"mlp_ratio": 0.02},
    "densenet121": {},
    "efficientnet_b0": {},
}
MIB = 2**-10  # of a GiB


@pytest.fixture(scope="module")
def data():
    return prepared(planted.network())


def near(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Equal up to the rounding of float32, which goes with the largest logit."""
    torch.testing.assert_close(
        found, expected, rtol=0, atol=1e-5 + 2e-5 * expected.abs().max().item()
    )


# ---- what it gives


def body(name: str, **made) -> nn.Module:
    """One whose answers are sure; EfficientNet has no map left of so small an image to tell
    pictures by.
    """
    return (planted.network if name == "efficientnet_b0" else planted.classifier)(name, **made)


@pytest.mark.parametrize(("name", "made"), FAMILIES.items())
def test_logits_are_those_of_the_images(name, made):
    model, runtime = body(name, **made), quiet()
    data = prepared(model)
    supply, cache = Batches(data, options(), runtime, "test"), cached(model, data, runtime)
    assert set(cache.kept) == {"failing", "retained"} | {
        SELECTION + population for population in data.selection
    }
    with torch.no_grad(), evaluating(model):
        for _ in range(5):
            batch = supply.take()
            near(
                cache.logits(batch.parts, batch.views), model(supply.examples.images(*batch.parts))
            )
    for population, images in data.selection.items():
        found, expected = (
            cache.predict(population),
            predict(model, images, data.preprocessing, runtime),
        )
        inputs = data.preprocessing.normalize(images.pixels(range(len(images))))
        with torch.no_grad():
            first, second = model(inputs).topk(2).values.T
        sure = first - second > 1e-4  # no rounding exchanges these two
        assert sure.all() or name == "efficientnet_b0"
        assert torch.equal(found.predictions[sure], expected.predictions[sure])
        near(found.losses, expected.losses)


def test_each_view_of_an_example_is_computed_once(data, monkeypatch):
    model, runtime, computed = planted.network(), quiet(), []
    supply, cache = Batches(data, options(), runtime, "test"), cached(model, data, runtime)
    images = Populations.images

    def counted(self, *parts: Sample):
        computed.extend(
            (part.name, row, view)
            for part in parts
            for row, view in zip(part.rows.tolist(), part.views.tolist(), strict=True)
        )
        return images(self, *parts)

    monkeypatch.setattr(Populations, "images", counted)
    for _ in range(60):
        batch = supply.take()
        cache.logits(batch.parts, batch.views)
    expected = 2 * len(data.failing) + 2 * len(data.retained)
    assert len(computed) == len(set(computed)) == expected, "none twice, of both views"


def test_views_take_turns(data):
    supply = Batches(
        data, options(views=3, failing_share=1.0, batch_size=len(data.failing)), quiet(), "test"
    )
    seen = [supply.take().parts[0] for _ in range(4)]
    assert [part.views.unique().tolist() for part in seen] == [[0], [1], [2], [0]]
    flips = [part.drawn[part.rows.argsort(), 0] for part in seen]
    assert torch.equal(flips[0], flips[3]) and not torch.equal(flips[0], flips[1])


def test_what_does_not_fit_is_computed_again(data):
    model, runtime = planted.network(), quiet()
    whole = cached(model, data, runtime)
    budget = 25 * 4 * torch.Size(whole.layout.shape).numel()
    part = cached(model, data, runtime, cache_memory=budget / 2**30, cache_disk=0.0)
    assert any(0 < rows < whole.kept[name] for name, rows in part.kept.items()), (
        "some of a population fits"
    )
    supply = Batches(data, options(), runtime, "test")
    for _ in range(5):
        batch = supply.take()
        near(part.logits(batch.parts, batch.views), whole.logits(batch.parts, batch.views))
    for population in data.selection:
        near(part.predict(population).losses, whole.predict(population).losses)
    kept = [view for view in part.views.values() if view is not None]
    assert kept and sum(view.numel() * 4 for view in kept) <= budget


def test_it_spills_to_a_file_that_leaves_nothing_behind(data, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    model, runtime = planted.network(), quiet()
    supply = Batches(data, options(), runtime, "test")
    in_memory, on_disk = (
        cached(model, data, runtime),
        cached(model, data, runtime, cache_memory=0.0, cache_disk=64 * MIB),
    )
    for _ in range(5):
        batch = supply.take()
        assert torch.equal(
            on_disk.logits(batch.parts, batch.views), in_memory.logits(batch.parts, batch.views)
        )
    assert set(on_disk.room.places.values()) == {"disk"} and set(
        in_memory.room.places.values()
    ) == {"memory"}
    assert not list(tmp_path.iterdir()), "the file has no name, so a killed process leaves none"


def test_a_full_disk_is_no_reason_to_stop(data, monkeypatch, caplog):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full, raising=False)
    monkeypatch.setattr("os.truncate", full)
    model, runtime = planted.network(), quiet()
    cache, supply = (
        cached(model, data, runtime, cache_memory=0.0),
        Batches(data, options(), runtime, "test"),
    )
    with caplog.at_level(logging.WARNING, "timm_repair"):
        batch = supply.take()
        found = cache.logits(batch.parts, batch.views)
    with evaluating(model):
        near(found, model(supply.examples.images(*batch.parts)))
    assert "No space left" in caplog.text and "cache_disk" in caplog.text


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_takes_half_the_room(data, precision):
    model, runtime = planted.network(), quiet()
    exact, rounded = (
        cached(model, data, runtime),
        cached(model, data, runtime, cache_precision=precision),
    )
    batch = Batches(data, options(), runtime, "test").take()
    with torch.no_grad():
        one, other = (cache.logits(batch.parts, batch.views) for cache in (exact, rounded))
    assert rounded.room.left["memory"] - 2**30 == (exact.room.left["memory"] - 2**30) / 2
    assert one.dtype == other.dtype and 0 < (one - other).abs().max() < 1e-2


# ---- a repair with it


@pytest.mark.parametrize("method", ["archrepair", "finetune"])
def test_a_repair_is_the_same_with_it(data, method):
    given = (
        BUDGET
        | AUGMENTED
        | {"block": "layer4", "steps": 12}
        | ({"level": "block"} if method == "finetune" else {"max_latency": None})
    )
    found = {}
    for cache in ("always", "never"):
        model = planted.network()
        torch.manual_seed(0)  # added paths start from the caller's randomness
        outcome = named(method, **given | {"cache": cache}).repair(model, data, quiet())
        found[cache] = (
            [row["loss"] for row in outcome.history],
            outcome.genotypes,
            model.state_dict(),
        )
    losses, genotypes, states = zip(*found.values(), strict=True)
    assert losses[0] == pytest.approx(losses[1], rel=1e-4) and genotypes[0] == genotypes[1]
    for name, tensor in states[0].items():
        torch.testing.assert_close(tensor, states[1][name], rtol=1e-3, atol=1e-4)


def test_a_layer_beside_a_shortcut_is_entered_with_its_unit(data):
    model = planted.network()
    cache = forward_from(model, model.layer3[0].conv2, data, options(), quiet())
    assert cache.place.path == "layer3.0"
    head = forward_from(model, model.get_classifier(), data, options(), quiet())
    assert head.place.path == "fc" and len(head.layout.shape) == 1


def test_layers_of_a_dense_block_are_entered_with_all_features():
    model, runtime = planted.network("densenet121"), quiet()
    data = prepared(model)
    found = [block for block in blocks(model, granularity="pair") if block.repairable]
    block = next(block for block in found if block.paths[0].endswith("denseblock3.denselayer9"))
    cache = cached(model, data, runtime, block)
    assert cache.place.path == block.paths[0] and cache.layout.shape == block.in_shape
    batch = (supply := Batches(data, options(), runtime, "test")).take()
    with evaluating(model):
        near(cache.logits(batch.parts, batch.views), model(supply.examples.images(*batch.parts)))


class Asserting(nn.Module):
    """Takes images and nothing else."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.fc = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3), nn.Linear(4, 10)

    def forward(self, x):
        assert x.shape[1] == 1
        return self.fc(self.second(self.first(x)).mean((2, 3)))


class ByName(Asserting):
    def forward(self, x):
        return self.fc(self.second(input=self.first(x)).mean((2, 3)))


class Checkpointed(nn.Module):
    """Runs its first two parts once more in the backward pass."""

    def __init__(self):
        super().__init__()
        units = [
            nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.Tanh(), nn.Conv2d(1, 1, 3, padding=1))
            for _ in range(2)
        ]
        self.stage, self.fc = nn.Sequential(*units), nn.Linear(1, 10)

    def forward(self, x):
        return self.fc(checkpoint(self.stage, x.requires_grad_(), use_reentrant=False).mean((2, 3)))


class Together(Asserting):
    """What it computes for an image depends on the others."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, track_running_stats=False))

    def forward(self, x):
        return self.fc(self.second(self.first(x)).mean((2, 3)))


@pytest.mark.parametrize(
    ("kind", "path"),
    [(Asserting, "second"), (ByName, "second"), (Checkpointed, "stage.1"), (Together, "second")],
)
def test_models_that_cannot_be_entered_are_run_from_the_images(data, kind, path):
    model, runtime = kind().eval(), quiet()
    cache = forward_from(model, model.get_submodule(path), data, options(), runtime)
    supply = Batches(data, options(), runtime, "test")
    batch = supply.take(cache.keeps)
    assert not cache.kept
    assert torch.equal(
        cache.logits(batch.parts, batch.views), model(supply.examples.images(*batch.parts))
    )


class Tied(nn.Module):
    """Its second part has the weights of the first."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.fc = nn.Conv2d(1, 1, 3), nn.Conv2d(1, 1, 3), nn.Linear(1, 10)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.fc(self.second(self.first(x)).mean((2, 3)))


def test_weights_that_come_before_the_part_too_are_not_cached(data):
    model = Tied().eval()
    assert not forward_from(model, model.second, data, options(), quiet()).kept
    model.second.weight = nn.Parameter(torch.ones(1, 1, 3, 3))
    assert forward_from(model, model.second, data, options(), quiet()).kept


def test_a_view_is_filled_in_the_same_batches_whoever_asks(data, monkeypatch):
    """So that a run that goes on after a kill reads the bits that it would have read."""
    sizes = []

    def noted(model, places, batches):
        sizes.append(len(batches[0]))
        return arriving(model, places, batches)

    monkeypatch.setattr(forward_module, "arriving", noted)
    for batch_size in (4, 16):
        model, runtime = planted.network(), quiet()
        batch = Batches(data, options(batch_size=batch_size), runtime, "test").take()
        cached(model, data, runtime).logits(batch.parts, batch.views)
    assert sizes[: len(sizes) // 2] == sizes[len(sizes) // 2 :]
