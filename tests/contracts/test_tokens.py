"""Every method that claims to repair blocks repairs those of tokens: a tiny ViT, and a Swin whose
windows stand in the batch.
"""

from copy import deepcopy

import planted
import pytest
import torch
from architecture.token_models import classifier, original
from cases import GENTLE, METHOD_CASES, SCORER_CASES, SWARM
from making import keep_the_last
from states import unchanged

from timm_repair import blocks, from_pretrained, localize, methods, repair

# of failures alone: what a random body forgets in so few steps would keep the original
ALONE = {"retain": None, "learning_rate": 0.003, "steps": 12}

METHODS = {
    "archrepair": ("archrepair", ALONE | {"search_share": 0.5}),
    "archrepair layers": (
        "archrepair",
        ALONE | {"level": "layer", "genotype": "random", "block": "blocks.0"},
    ),
    "archrepair two blocks": ("archrepair", ALONE | {"blocks": 2, "score": "rgn"}),
    "finetune block": ("finetune", ALONE | {"level": "block"}),
    "finetune layer": ("finetune", ALONE | {"level": "layer", "score": "shift"}),
    "birdnn_retrain": ("birdnn_retrain", {"block": "blocks.0", "imitate": "layers"}),
    "birdnn_finetune": ("birdnn_finetune", SWARM | {"block": "blocks.1"}),
    "birdnn": ("birdnn", SWARM | {"retrain_share": 0.5}),
    "linear_program": ("linear_program", {}),
}
# all others, as in the table of cases; what is named there is no block of a ViT
OTHERS = {
    name: (name, {k: v for k, v in case.options.items() if k not in ("block", "candidates")})
    for name, case in METHOD_CASES.items()
    if name in methods.METHODS and name not in {method for method, _ in METHODS.values()}
}
OTHERS["surgical"][1]["candidates"] = ["blocks.0", "head"]
del OTHERS["neu_recover"]  # its checkpoint is of another model


@pytest.fixture(scope="module")
def vit():
    return planted.confused(classifier())


@pytest.fixture(scope="module")
def given() -> dict:
    seen, unseen = (planted.pictures(160, seed=seed, mode="RGB") for seed in (0, 1))
    failing, right = [p for p in seen if p[1] < 2], [p for p in unseen if p[1] > 1]
    return {"failures": failing, "retain": right, "progress": False, "diagnose": False}


# whether so few steps change an answer is luck
@pytest.mark.filterwarnings("ignore::timm_repair.errors.NoEffectWarning")
@pytest.mark.parametrize(
    "label", [*METHODS, *(pytest.param(each, marks=pytest.mark.long) for each in OTHERS)]
)
def test_a_vit_is_repaired_saved_and_loaded_by(label, vit, given, tmp_path, monkeypatch):
    method, options = (METHODS | OTHERS)[label]
    if method.startswith("birdnn"):  # so few steps need not bring anything
        keep_the_last(monkeypatch)
    with unchanged(vit):
        options = given | GENTLE | options | {"output_dir": tmp_path / "repaired"}
        repaired = repair(vit, method=method, **options)
    named = {block.name for block in blocks(vit) if block.repairable}
    chosen = set(repaired.report.repaired_blocks)
    assert chosen <= named or options.get("level") == "layer"
    x = planted.inputs(vit, planted.pictures(3, mode="RGB"))
    with torch.no_grad():
        after = repaired.model(x)
        assert torch.equal(from_pretrained(tmp_path / "repaired").eval()(x), after)
    weights = dict(repaired.model.named_parameters())
    outside = [
        name
        for name, parameter in vit.named_parameters()
        if name in weights and not torch.equal(weights[name], parameter)
    ]
    if chosen:
        assert all(any(name.startswith(f"{block}.") for block in chosen) for name in outside)


def test_the_same_seed_gives_the_same_result(vit, given):
    # what is too slow depends on the machine, and on its moment
    searched = {"block": "blocks.1", "search_share": 0.5, "max_latency": None}
    options = given | GENTLE | ALONE | searched
    one, other = (repair(vit, method="archrepair", **options).model for _ in "12")
    states = one.state_dict(), other.state_dict()
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


@pytest.mark.parametrize("score", SCORER_CASES)
def test_blocks_of_windows_have_scores(score):
    swin = deepcopy(original("swin_tiny_patch4_window7_224"))
    failures = planted.mislabelled(swin, planted.pictures(24, classes=5, mode="RGB"))
    found = localize(
        swin, failures, score=score, progress=False, **({} if score != "probe" else {"steps": 2})
    )
    assert set(found.suspiciousness) == {"layers.0", "layers.1"}
