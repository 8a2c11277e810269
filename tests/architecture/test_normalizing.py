"""A path that normalizes images: exactly the original at first, in the first block, by default where
failures have a pattern, and kept where it is missed.
"""

from copy import deepcopy
from dataclasses import replace

import numpy as np
import planted
import pytest
import torch
from cases import GENTLE
from PIL import Image, ImageEnhance
from torch import nn

from timm_repair import as_images, blocks, collect_failures, from_pretrained, repair, revert
from timm_repair.architecture import strategies
from timm_repair.architecture.cell import build
from timm_repair.architecture.genotype import Genotype
from timm_repair.architecture.normalizing import normalized, undoes_pattern
from timm_repair.architecture.operations import OPERATIONS, PerImage
from timm_repair.architecture.sites import Site, slowdown
from timm_repair.architecture.skeleton import skeleton_of
from timm_repair.architecture.token_skeleton import skeleton_in
from timm_repair.data.repair_data import RepairData
from timm_repair.methods import named
from timm_repair.methods.archrepair import GENOTYPES, UNSEARCHED
from timm_repair.models.surgery import extract
from timm_repair.runtime.runtime import Runtime
from timm_repair.training.job import Job
from timm_repair.training.objective import Judged
from timm_repair.training.options import Training

NORMALIZING = "timm_repair.architecture.normalizing"
GIVEN = GENTLE | {"genotype": "normalized", "max_latency": None, "progress": False}


def test_each_channel_of_each_image_has_mean_0_and_variance_1():
    x = 3 + 2 * torch.randn(2, 4, 5, 6, generator=torch.Generator().manual_seed(0))
    found = PerImage()(x)
    torch.testing.assert_close(found, nn.InstanceNorm2d(4)(x))
    torch.testing.assert_close(PerImage()(0.1 * x - 7), found, atol=2e-3, rtol=0)
    assert not PerImage()(x[:, :, :1, :1]).any(), "of one pixel nothing is left"


@pytest.mark.parametrize(("c_in", "c_out", "stride"), [(4, 4, 1), (4, 6, 1), (4, 4, 2), (4, 8, 2)])
def test_it_leads_from_any_map_to_any_other(c_in, c_out, stride):
    operation = OPERATIONS["instance_norm"]
    assert operation is not None
    found = operation(c_in, c_out, stride)(torch.randn(2, c_in, 8, 8))
    assert found.shape == (2, c_out, 8 // stride, 8 // stride)


@pytest.mark.parametrize("level", ["unit", "layer"])
def test_it_starts_as_exactly_the_original_on_all_channels(level, classifier):
    block = next(each for each in blocks(classifier) if each.name == "layer2")
    assert block.in_shape is not None
    raw = extract(classifier, block)
    plan = normalized(skeleton_of(raw, block.in_shape, level=level))
    assert plan is not None and Genotype.from_dict(plan.to_dict()) == plan
    cell = build(plan, raw).eval()
    x = torch.randn(2, *block.in_shape)
    assert torch.equal(cell(x), raw(x))
    (gain,) = [p for name, p in cell.named_parameters() if ".gains." in name]
    assert gain.shape == (block.in_shape[0],)
    with torch.no_grad():
        gain.fill_(0.3)
    first = cell.raw.get_submodule(plan.nodes[0].layer)
    seen = []
    first.layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    cell(x)
    torch.testing.assert_close(seen[0], x + 0.3 * PerImage()(x))


def test_there_is_none_among_tokens_in_line():
    model = planted.network("test_vit")
    block = next(each for each in blocks(model) if each.repairable)
    size = tuple(model.pretrained_cfg["input_size"])
    skeleton = skeleton_in(model, block, size, level="unit", partial=4, max_span=3)
    grid = any(not node.in_line for node in skeleton.nodes)
    assert (normalized(skeleton) is not None) == grid


@pytest.fixture
def washed(classifier):
    """Pictures of another contrast, which the network has wrong; and those that it knows."""
    known = planted.pictures(400, seed=1)
    pool = [(ImageEnhance.Contrast(x).enhance(0.12), k) for x, k in planted.pictures(600, seed=2)]
    found = collect_failures(classifier, pool)
    assert len(found) >= 60, "planted: its filters were made for another contrast"
    return {"failures": found, "retain": known, "diagnose": False}


def test_the_path_is_in_the_first_block_and_comes_back_from_disk(
    washed, classifier, tmp_path, monkeypatch
):
    monkeypatch.setattr("timm_repair.methods.archrepair.unless_missed", lambda *_: ())
    repaired = repair(
        classifier, **washed, block=("layer1", "layer2"), output_dir=tmp_path, **GIVEN
    )
    plans = repaired.report.genotypes
    assert [edge["operation"] for edge in plans["layer1"]["edges"]] == ["instance_norm"]
    assert plans["layer1"]["partial"] == 1 and not plans["layer2"]["edges"]
    assert "operations see all of the channels" in str(repaired.report)
    assert [row["stage"] for row in repaired.report.history] == ["finetune"] * GENTLE["steps"]
    x = torch.randn(3, *classifier.pretrained_cfg["input_size"])
    torch.testing.assert_close(from_pretrained(tmp_path)(x), repaired.model(x))
    assert torch.equal(revert(repaired.model)(x), classifier(x))


@pytest.mark.filterwarnings("ignore::timm_repair.NoEffectWarning")
@pytest.mark.parametrize("better", [True, False])
def test_it_stays_where_it_is_missed(better, washed, classifier, monkeypatch):
    def judged(forward, *_) -> Judged:
        there = any(isinstance(each, PerImage) for each in forward.model.modules())
        return Judged(float(there == better), {})

    monkeypatch.setattr(f"{NORMALIZING}.judged", judged)
    report = repair(classifier, **washed, block="layer1", **GIVEN).report
    assert bool(report.genotypes["layer1"]["edges"]) == better
    assert any("taken out of layer1 again" in note for note in report.notes) != better


def test_where_it_is_too_slow_it_is_left_out(washed, classifier, monkeypatch):
    monkeypatch.setattr("timm_repair.architecture.keeping.slowdown", lambda *_: 1.5)
    report = repair(classifier, **washed, block="layer1", **GIVEN | {"max_latency": 1.1}).report
    assert not report.genotypes["layer1"]["edges"]
    assert any("with it an image takes 1.50 times as long" in note for note in report.notes)


def washed_out(image: Image.Image, _) -> Image.Image:
    return ImageEnhance.Contrast(image).enhance(0.5)


def noisy(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    pixels = np.asarray(image)
    return Image.fromarray((pixels + rng.normal(0, 15, pixels.shape)).clip(0, 255).astype("uint8"))


def opened(model: nn.Module, block: str) -> Site:
    (found,) = (each for each in blocks(model) if each.name == block)
    size = model.pretrained_cfg["input_size"]
    return named("archrepair")._open(model, found, strategies.named("pc_darts"), size)


def patterned(model: nn.Module, data: RepairData, change, runtime: Runtime) -> Job:
    """Pictures, darker and brighter ones, of which `change` made the pattern."""
    rng, pairs = np.random.default_rng(0), planted.pictures(300, seed=1)
    exposed = [ImageEnhance.Brightness(image).enhance(rng.uniform(0.3, 1)) for image, _ in pairs]
    known = [(image, label) for image, (_, label) in zip(exposed, pairs, strict=True)]
    made = as_images([(change(image, rng), label) for image, label in known], model)
    known = as_images(known, model)
    return Job(model, replace(data, retained=known, pattern=made), Training(), runtime)


def test_what_else_the_machine_does_makes_no_path_too_slow(data, classifier, runtime, monkeypatch):
    site = opened(classifier, "layer1")
    job, raw = Job(classifier, data, Training(), runtime), site.present
    # of eight turns five are disturbed: some in both, some in one of them
    still, both = [1.0, 1.05], [3.0, 3.15]
    seconds = np.array([still] * 3 + [both] * 3 + [[1.0, 9.0], [9.0, 1.05]])
    monkeypatch.setattr("timm_repair.architecture.sites.in_turns", lambda *_, **__: seconds)
    assert slowdown(job, [site], [raw], [raw], "a path") == pytest.approx(1.05)


# at the stem arrive the pixels, of which contrast is an affine function, image by image
@pytest.mark.parametrize(("change", "undone"), [(washed_out, True), (noisy, False)])
def test_a_pattern_is_undone_where_it_changes_images_as_a_whole(
    change, undone, classifier, data, runtime
):
    job = patterned(classifier, data, change, runtime)
    site = opened(classifier, "conv1")
    raw = site.present
    assert undoes_pattern(job, site) == undone
    assert site.present is raw


@pytest.mark.parametrize("undone", [True, False])
def test_by_default_it_is_added_where_it_undoes_the_pattern(
    undone, data, classifier, runtime, monkeypatch
):
    monkeypatch.setattr("timm_repair.methods.archrepair.undoes_pattern", lambda *_: undone)
    sites = [opened(classifier, "layer1")]
    known = Job(classifier, replace(data, pattern=data.retained), Training(), runtime)
    asked = {
        genotype: named("archrepair", genotype=genotype)._normalizes(known, sites)
        for genotype in GENOTYPES
    }
    assert asked.pop("normalized") and asked.pop("auto") == undone
    assert not any(asked.values())
    assert not named("archrepair", mode="replace")._normalizes(known, sites)
    unknown = replace(known, data=data)
    assert not named("archrepair")._normalizes(unknown, sites)
    sites[0].skeleton = replace(sites[0].skeleton, edges=())
    assert not named("archrepair", genotype="normalized")._normalizes(known, sites)


@pytest.mark.parametrize(
    ("options", "searched"),
    [({}, False), ({"genotype": "search"}, True), ({"mode": "replace"}, True)],
)
def test_where_failures_have_a_pattern_nothing_is_searched(
    options, searched, data, classifier, runtime, monkeypatch
):
    monkeypatch.setattr("timm_repair.methods.archrepair.undoes_pattern", lambda *_: False)
    known = replace(data, pattern=data.retained)
    given = GENTLE | {"max_latency": None, "block": "layer3"}
    method = named("archrepair", **given, **options)
    outcome = method.repair(classifier, known, runtime)
    assert any(row["stage"] == "search" for row in outcome.history) == searched
    assert (UNSEARCHED in outcome.notes) != searched
    assert searched or not outcome.genotypes["layer3"].edges


def test_only_the_forward_pass_is_timed(data, classifier, runtime, monkeypatch):
    """What exchanges the blocks takes time as well, of both alike, and would hide a slow one."""
    site = opened(classifier, "layer1")
    job, raw, seen = Job(classifier, data, Training(), runtime), site.present, []
    other = deepcopy(raw).train()

    def turns(first, second, *, ready):
        for compute, prepare in zip((first, second), ready, strict=True):
            prepare()
            seen.append((site.present, site.present.training))
            compute()
            assert site.present is seen[-1][0], "exchanged while it was timed"
        return np.array([[1.0, 2.0]])

    monkeypatch.setattr("timm_repair.architecture.sites.in_turns", turns)
    assert slowdown(job, [site], [raw], [other], "another") == 2.0
    assert seen == [(raw, False), (other, False)]
    assert other.training, "its mode is its own again"
