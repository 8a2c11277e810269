"""One model of each of timm's families, cut at every granularity; benchmarks/models/blocks.py does the
same for all of timm's models.
"""

import json
import runpy
from pathlib import Path

import pytest
import timm

ROOT = Path(__file__).parents[2]
BENCHMARK = runpy.run_path(str(ROOT / "benchmarks" / "models" / "blocks.py"))
RECORDED = json.loads((ROOT / "benchmarks" / "results" / "blocks.json").read_text())

MODELS = """
resnet10t vgg16 densenet121 efficientnet_lite0 resnetv2_18d regnetx_002 mobilenetv3_small_050 convnext_atto_rms cspnext_tiny
ese_vovnet19b_slim resnest14d skresnet18 legacy_seresnet18 darknet17 dla34 resnext26ts halonet26t hgnet_tiny starnet_s050
lowformer_e1 cpubone_nano selecsls42 lcnetv2_small convmixer_1536_20 hardcorenas_a mobilevitv2_050 coatnet_0_224 fasternet_t0
nf_ecaresnet26 levit_128s levit_conv_128s hiera_tiny_224 coat_lite_tiny res2net50_48w_2s samvit_base_patch16_224
efficientvim_m1 visformer_tiny legacy_xception xception41p deit_tiny_patch16_224 mambaout_femto efficientvit_b0 efficientvit_m0
dpn48b rexnet_100 vit_tiny_patch16_224 vit_tiny_r_s16_p8_224 sam2_hiera_tiny beit_base_patch16_224 shvit_s1 ghostnet_050
repghostnet_050 pit_ti_224 efficientformer_l1 efficientformerv2_s0 swin_tiny_patch4_window7_224 swiftformer_xs nest_tiny
swinv2_cr_tiny_224 inception_next_atto repvit_m0_9 fastvit_t8 edgenext_xx_small poolformerv2_s12 gcvit_xxtiny focalnet_tiny_srf
davit_tiny csatv2 pvt_v2_b0 crossvit_9_240 hrnet_w18_small tresnet_m tiny_vit_5m_224 xcit_nano_12_p16_224 mixer_s32_224 convit_tiny
""".split()


@pytest.mark.parametrize("name", MODELS)
def test_the_partition_keeps_its_rules_and_is_the_recorded_one(name):
    _, row, broken = BENCHMARK["examine"](name)
    assert not broken
    if timm.__version__ == RECORDED["versions"]["timm"]:  # another may have other layers
        assert row == RECORDED["models"][name]


def test_the_sample_is_large_and_has_every_outcome():
    # levit in both of its forms
    assert len({BENCHMARK["module_of"](name) for name in MODELS}) >= len(MODELS) - 1 >= 40
    rows = [RECORDED["models"][name] for name in MODELS]
    kinds = BENCHMARK["GRANULARITIES"]
    outcomes = [BENCHMARK["outcome"](row[kind]) for row in rows for kind in kinds]
    assert min(outcomes.count(each) for each in ("all", "some")) >= 3


def test_the_record_is_complete_and_meets_its_targets():
    totals = RECORDED["totals"]
    assert totals["models"] == len(RECORDED["models"]) and totals == BENCHMARK["totals"](
        RECORDED["models"]
    )
    if timm.__version__ == RECORDED["versions"]["timm"]:
        assert sorted(RECORDED["models"]) == sorted(BENCHMARK["names"]())
    assert totals["stage"]["all"] >= 850
    for module, count in {"resnet": 81, "vgg": 8, "densenet": 6, "efficientnet": 115}.items():
        assert totals["modules"][module] == {"all": count}


def test_an_error_that_does_not_help_is_noticed():
    reason = BENCHMARK["reason"]
    assert (
        reason(
            "no block of X can be repaired: 2 x tokens. Pass names=[...], or granularity='layer'"
        )
        == "2 x tokens"
    )
    assert reason("no block of X can be repaired: 2 x tokens. Bad luck") == reason("cannot") == ""
