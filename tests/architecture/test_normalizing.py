"""A path that normalizes images: exactly the original at first, in the first block, by default where
failures have a pattern, and kept where it is missed.
"""

from dataclasses import dataclass, replace

import planted
import pytest
import torch
from cases import GENTLE
from PIL import ImageEnhance
from torch import nn

from timm_repair import blocks, collect_failures, from_pretrained, repair, revert
from timm_repair.architecture.cell import build
from timm_repair.architecture.genotype import Genotype
from timm_repair.architecture.normalizing import normalized
from timm_repair.architecture.operations import OPERATIONS, PerImage
from timm_repair.architecture.skeleton import skeleton_of
from timm_repair.architecture.token_skeleton import skeleton_in
from timm_repair.methods import named
from timm_repair.methods.archrepair import GENOTYPES
from timm_repair.models.surgery import extract
from timm_repair.training.objective import Judged

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


@dataclass
class Opened:
    """As much of a site as is asked."""

    skeleton: Genotype


@pytest.mark.parametrize("pattern", [None, object()])
def test_by_default_it_is_added_where_the_failures_have_a_pattern(pattern, data, deployed):
    block = next(each for each in blocks(deployed) if each.name == "layer1")
    sites = [Opened(skeleton_of(extract(deployed, block), block.in_shape))]
    known = replace(data, pattern=pattern)
    asked = {
        genotype: named("archrepair", genotype=genotype)._normalizes(known, sites)
        for genotype in GENOTYPES
    }
    assert asked.pop("normalized") and asked.pop("auto") == (pattern is not None)
    assert not any(asked.values())
    assert not named("archrepair", mode="replace")._normalizes(known, sites)
    sites = [Opened(replace(sites[0].skeleton, edges=()))]
    assert not named("archrepair", genotype="normalized")._normalizes(known, sites)
