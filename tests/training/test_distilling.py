"""Distillation of features: by hand, from the original as it was, from what is kept, in pieces; and
what it does to a repair.
"""

from dataclasses import replace

import planted
import pytest
import torch
from cases import GENTLE
from making import keep_the_last, quiet
from PIL import ImageEnhance
from torch import nn
from training.prefixes import last_block, options, prepared

from timm_repair import as_images, blocks
from timm_repair.errors import OptionError
from timm_repair.methods import named
from timm_repair.models.surgery import extract, swap
from timm_repair.models.temporary import only_trainable
from timm_repair.models.weights import part_of
from timm_repair.training.batches import Batches
from timm_repair.training.distilling import FeatureDistillation
from timm_repair.training.job import Job
from timm_repair.training.losses import batch_losses

FAMILIES = {"test_resnet": {}, "vgg11_bn": {"mlp_ratio": 0.02}, "densenet121": {}, "test_vit": {}}


def patterned(model: nn.Module):
    """Data whose pattern is half of the contrast; three populations to draw from."""
    data = prepared(model)
    pairs = planted.pictures(120)[20:60]  # as `prepared` retains them
    made = [(ImageEnhance.Contrast(image).enhance(0.5), label) for image, label in pairs]
    return replace(data, pattern=as_images(made, model))


def opened(name: str = "test_resnet", block=None, strength: float = 2.0, **given):
    """A job, the loss, its batches and forward, once the block was swapped for a cell's like."""
    model = planted.network(name, **FAMILIES[name]).eval()
    data, block = patterned(model), block or last_block(model)
    job = Job(model, data, options(**given), quiet())
    forward = job.forward(part_of(model, block))
    loss = FeatureDistillation.of(job, block, strength)
    assert loss is not None
    swap(model, block, extract(model, block))
    return job, block, loss, Batches(data, job.training, job.runtime, "test"), forward


def total(losses, batches, forward) -> torch.Tensor:
    with torch.enable_grad():
        return torch.stack(list(losses(batches, forward))).sum()


def left(model: nn.Module, path: str, x: torch.Tensor) -> torch.Tensor:
    found = []
    handle = model.get_submodule(path).register_forward_hook(lambda *a: found.append(a[2]))
    model(x)
    handle.remove()
    return found[0]


@pytest.mark.parametrize("name", FAMILIES)
def test_it_adds_the_squared_distance_to_what_left_the_block_before(name):
    job, block, loss, batches, forward = opened(name, cache="never", views=None)
    _, _, _, same, _ = opened(name, cache="never", views=None)
    inside = f"{block.paths[0]}.0"
    before = {k: v.clone() for k, v in job.model.state_dict().items()}
    with torch.no_grad():  # a repair has begun
        for parameter in job.model.get_submodule(inside).parameters():
            parameter.mul_(1.1)
    found = total(loss, batches, forward)
    plain = total(batch_losses, same, forward)

    _, _, _, again, _ = opened(name, cache="never", views=None)
    batch, examples, data = again.take(), again.examples, job.data
    distances = []
    for part in batch.parts:
        if part.name in ("retained", "pattern"):
            pixels = (getattr(data, part.name).pixels(part.rows), data.retained.pixels(part.rows))
            seen, known = (
                data.preprocessing.normalize(examples.augmentation(x, part.drawn), "cpu")
                for x in pixels
            )
            present = left(job.model, inside, seen)
            now = {k: v.clone() for k, v in job.model.state_dict().items()}
            job.model.load_state_dict(before)
            expected = left(job.model, inside, known)
            job.model.load_state_dict(now)
            distances.append((present - expected).square().flatten(1).mean(1))
    assert len(distances) == 2, "of the pattern and of retained ones"
    rows = data.retained.pixels(torch.arange(len(data.retained)))
    job.model.load_state_dict(before)
    variance = left(job.model, inside, data.preprocessing.normalize(rows, "cpu")).var()
    mean = torch.cat(distances).sum() / job.training.batch_size / variance
    assert mean > 0
    torch.testing.assert_close(found - plain, 2 * mean, rtol=1e-3, atol=1e-5)


def test_it_learns_from_the_block_and_the_original_stays():
    job, block, loss, batches, forward = opened(cache="never")
    names = [n for n, _ in job.model.named_parameters() if n.startswith(f"{block.paths[0]}.")]
    before = {k: v.clone() for k, v in loss.original.state_dict().items()}
    parameters = dict(job.model.named_parameters())
    with torch.no_grad():
        for name in names:
            parameters[name].mul_(1.1)
    _, _, _, same, _ = opened(cache="never")
    with only_trainable(job.model, names):
        more = total(loss, batches, forward) - total(batch_losses, same, forward)
        more.backward()
        assert all(parameters[name].grad.norm() > 1e-4 for name in names)
    assert not any(p.requires_grad or p.grad is not None for p in loss.original.parameters())
    for name, value in loss.original.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("name", ["test_resnet", "vgg11_bn", "densenet121"])
@pytest.mark.parametrize("which", [-1, -2])
def test_what_is_kept_gives_what_the_images_give(name, which):
    model = planted.network(name, **FAMILIES[name])
    block = [each for each in blocks(model) if each.repairable][which]
    found = {}
    for cache in ("never", "always"):
        job, _, loss, batches, forward = opened(name, block, cache=cache)
        assert bool(forward.kept) == (cache == "always")
        with torch.no_grad():
            for parameter in job.model.get_submodule(block.paths[0]).parameters():
                parameter.mul_(1.1)
        found[cache] = torch.stack([total(loss, batches, forward) for _ in range(3)])
    torch.testing.assert_close(found["always"], found["never"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("cache", ["never", "always"])
@pytest.mark.parametrize(("size", "pieces"), [(24, 3), (6, 6)])
def test_pieces_of_a_batch_add_up(cache, size, pieces, monkeypatch):
    """Also where a piece has failures alone."""
    sums = []
    for number in (1, pieces):
        job, _, loss, batches, forward = opened(cache=cache, strength=5.0, batch_size=size)
        accelerator = job.runtime.accelerator
        monkeypatch.setattr(accelerator, "gradient_accumulation_steps", number)
        with torch.no_grad():
            job.model.get_submodule(loss.path)[0].conv1.weight.mul_(1.5)
        sums.append(total(loss, batches, forward))
    torch.testing.assert_close(*sums)


def test_a_block_that_gives_nothing_has_nothing_to_be_distilled(data, runtime, classifier):
    block = next(each for each in blocks(classifier) if each.name == "layer2")
    with torch.no_grad():
        for parameter in classifier.layer2.parameters():
            parameter.zero_()
    job = Job(classifier, replace(data, pattern=data.retained), options(), runtime)
    assert FeatureDistillation.of(job, block, 1.0) is None
    losses, notes = named("archrepair")._losses(job, block)
    assert losses is batch_losses and "cannot be compared" in notes[0]


def test_without_a_pattern_and_at_0_nothing_is_distilled(data, runtime, classifier):
    block = next(each for each in blocks(classifier) if each.name == "layer2")
    job = Job(classifier, data, options(), runtime)
    known = replace(job, data=replace(data, pattern=data.retained))
    assert named("archrepair")._losses(job, block) == (batch_losses, ())
    off = named("archrepair", feature_distillation=0.0)
    assert off._losses(known, block) == (batch_losses, ())
    found, notes = named("archrepair")._losses(known, block)
    assert isinstance(found, FeatureDistillation) and not notes
    with pytest.raises(OptionError, match="must not be negative"):
        named("archrepair", feature_distillation=-1.0)


@pytest.mark.parametrize("genotype", ["raw", "search", "normalized"])
def test_a_repair_brings_what_leaves_the_blocks_nearer_to_what_left_them(
    genotype, data, classifier, runtime, monkeypatch
):
    """With a strength that leaves labels next to nothing to say."""
    pairs = planted.pictures(300, seed=1)
    made = [(ImageEnhance.Contrast(image).enhance(0.4), label) for image, label in pairs]
    known, made = as_images(pairs, classifier), as_images(made, classifier)
    known = replace(data, retained=known, pattern=made)
    x, target = (
        data.preprocessing.normalize(images.pixels(torch.arange(200)), "cpu")
        for images in (made, known.retained)
    )
    expected = left(classifier.eval(), "layer2", target)
    keep_the_last(monkeypatch)
    given = GENTLE | {"max_latency": None, "max_clean_loss": None, "max_class_loss": None}
    given |= {
        "block": ("layer2", "layer1"),
        "genotype": genotype,
        "steps": 60,
        "learning_rate": 0.01,
    }
    apart = []
    for strength in (0.0, 30.0):
        method = named("archrepair", **given, feature_distillation=strength)
        model = method.repair(planted.classifier(), known, runtime).model.eval()
        apart.append((left(model, "layer2", x) - expected).square().mean().item())
    assert apart[1] < 0.5 * apart[0]
