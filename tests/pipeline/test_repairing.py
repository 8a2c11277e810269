"""The pipeline as a whole, and what cannot be repaired is refused before any work. Planted faults:
meaning/.
"""

import math

import planted
import pytest
import torch
from accelerate import Accelerator
from cases import BUDGET, GENTLE
from PIL import Image
from torch import nn

from timm_repair import DataOptions, collect_failures, compare, localize, repair
from timm_repair.data.collected import Collected
from timm_repair.errors import (
    DataError,
    LabelError,
    ModelError,
    NoFailuresError,
    NonFiniteError,
    PartitionError,
    RepairError,
)
from timm_repair.hub.loading import load
from timm_repair.methods import named
from timm_repair.runtime.runtime import Runtime


def test_the_report_is_complete(deployed, failures, pictures):
    report = repair(
        deployed,
        failures,
        retain=pictures["train"],
        progress=False,
        block="layer1",
        max_latency=None,
        **GENTLE,
        seed=3,
    ).report
    assert {each.population for each in report.scores} == {"failing", "retained"}
    assert [s["name"] for s in report.stages] == [
        "prepare",
        "evaluate",
        "diagnose",
        "localize",
        "search",
        "finetune",
        "evaluate",
    ]
    assert (
        all(s["seconds"] >= 0 and s["peak_memory"] > 0 for s in report.stages) and report.seed == 3
    )
    assert {"torch", "timm", "timm_repair", "python"} <= set(report.versions)
    assert report.provenance["given"] == {"failures": len(failures), "wrong": len(failures)}
    assert report.cost["before"]["flops"] > 0 < report.cost["after"]["latency_ms"]
    assert [b["name"] for b in report.blocks if b["role"] == "body" and not b["reason"]] == [
        "layer1",
        "layer2",
        "layer3",
        "layer4",
    ]
    assert len(str(report).splitlines()) < 100 and max(map(len, str(report).splitlines())) <= 80


def test_without_retained_examples_the_report_says_so(deployed, failures):
    repaired = repair(
        deployed, failures.subset(range(100)), progress=False, method="finetune", **GENTLE
    )
    assert any("forget is not known" in note for note in repaired.report.notes)
    assert [each.population for each in repaired.report.scores] == ["failing"]


def test_without_retained_examples_one_step_that_fixes_nothing_is_survived(deployed, failures):
    repaired = repair(
        deployed,
        failures.subset(range(40)),
        progress=False,
        diagnose=False,
        method="finetune",
        steps=1,
        learning_rate=1e-6,
    )
    assert repaired.report.population("failing").fixed <= repaired.report.population("failing").n


def test_a_holdout_of_failures_alone_still_measures_forgetting(deployed, failures, pictures):
    kept, held = failures.subset(range(0, 80)), failures.subset(range(80, 110))
    given = {
        "retain": pictures["train"],
        "holdout": {"failing": held},
        "progress": False,
        "diagnose": False,
        **GENTLE | {"steps": 2},
    }
    report = repair(deployed, kept, **given, method="finetune").report
    assert report.population("failing").labels.tolist() == held.labels.tolist()
    assert {each.population for each in report.scores} == {"failing", "retained"}


def test_a_holdout_without_a_name_is_called_what_it_is(deployed, failures, pictures):
    given = {
        "retain": pictures["train"],
        "progress": False,
        "diagnose": False,
        "method": "finetune",
        **GENTLE,
    }
    unseen = repair(deployed, failures, holdout=pictures["unseen"], **given).report
    assert [each.population for each in unseen.scores] == ["failing", "holdout"]
    assert not any("is a part of the retained examples" in note for note in unseen.notes)
    own = repair(deployed, failures, **given).report
    assert [each.population for each in own.scores] == ["failing", "retained"]
    assert any("'retained' is a part of the retained examples" in note for note in own.notes)
    for report in (unseen, own):  # the failures that were set aside start at 0 % by construction
        said = " ".join(str(report).split())
        assert "'failing': only examples that the original had wrong" in said


def test_blocks_named_by_hand(deployed, failures, pictures):
    report = repair(
        deployed,
        failures,
        retain=pictures["train"],
        progress=False,
        diagnose=False,
        names=("layer2", "layer3"),
        **GENTLE,
    ).report
    assert list(report.localization["suspiciousness"]) == ["layer2", "layer3"]


def test_an_accelerator_is_given_back_as_it_came(deployed, failures, pictures):
    accelerator = Accelerator(cpu=True)
    repair(
        deployed,
        failures,
        retain=pictures["train"],
        progress=False,
        diagnose=False,
        accelerator=accelerator,
        block="layer1",
        **GENTLE,
    )
    assert accelerator._optimizers == [], "optimizers would keep every repaired model alive"


def test_a_plain_module_is_repaired_too(pictures):
    def unit(c_in, c_out):
        return nn.Sequential(nn.Conv2d(c_in, c_out, 3, 2, 1), nn.BatchNorm2d(c_out), nn.ReLU())

    model = nn.Sequential(
        unit(1, 8),
        unit(8, 8),
        unit(8, 16),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 10),
    ).eval()
    model.num_classes, model.pretrained_cfg = (
        10,
        {"input_size": (1, 32, 32), "mean": (0.3,), "std": (0.35,), "crop_pct": 1.0},
    )
    wrong = planted.mislabelled(model, pictures["pool"][:200])
    failures = collect_failures(model, wrong, runtime=Runtime(progress=False))
    assert failures.labels.tolist() == [label for _, label in wrong], "all of them"
    # its statistics are those of no data: renewed ones could make it worse
    repaired = repair(
        model,
        failures,
        progress=False,
        diagnose=False,
        method="finetune",
        batch_norm="frozen",
        **BUDGET,
    )
    assert (
        repaired.report.model == "Sequential"
        and torch.isfinite(repaired.model(torch.zeros(1, 1, 32, 32))).all()
    )


def test_half_precision(deployed, failures, pictures, monkeypatch):
    with torch.autocast("cpu", torch.bfloat16):
        wrong, right = planted.wrong_by(deployed, pictures["pool"])
    assert [{label for _, label in pairs} for pairs in (wrong, right)] == [
        {0, 1},
        set(range(2, 10)),
    ]
    assert len(wrong) == 200 and len(right) == 800, "bfloat16 crosses no margin"
    monkeypatch.setattr(Accelerator, "autocast", lambda self: torch.autocast("cpu", torch.bfloat16))
    given = {
        "retain": pictures["train"][:200],
        "holdout": pictures["unseen"][:60],
        "progress": False,
        "diagnose": False,
        "block": "layer2",
        **GENTLE,
    }
    half = repair(deployed, failures.subset(range(160)), **given, genotype="random")
    assert all(math.isfinite(row["loss"]) for row in half.report.history)
    assert {p.dtype for p in half.model.parameters()} == {torch.float32}
    failing, retained = half.report.population("failing"), half.report.population("holdout")
    assert failing.before.tolist() == (1 - failing.labels).tolist()
    assert (retained.before == retained.labels).tolist() == (retained.labels > 1).tolist()


def test_the_training_options_reach_a_scorer_that_asks_for_them(deployed, failures):
    seen = []

    def curious(job, blocks):
        seen.append(job.training.steps)
        return {block.name: 0.0 for block in blocks}

    assert localize(deployed, failures, score=curious, steps=8, progress=False).scorer == "curious"
    assert seen == [8]


@pytest.mark.filterwarnings("ignore:.* changed nothing")
def test_a_comparison_tells_one_block_from_several(deployed, failures, pictures):
    given = {
        "retain": pictures["train"][:100],
        "holdout": pictures["unseen"][:40],
        "progress": False,
        "diagnose": False,
    }
    tiny = {"steps": 1, "batch_size": 8, "evaluations": 1}
    rows = {
        "finetune block": {"level": "block"},
        "finetune 2 blocks": {"level": "block", "blocks": 2},
        "finetune 2 layers": {"level": "layer", "blocks": 2},
        "finetune layer1": {"level": "block", "block": "layer1"},
        "finetune layer1+layer2": {"level": "block", "block": ("layer1", "layer2")},
        "archrepair 2 blocks": {"blocks": 2, "genotype": "raw"},
    }
    methods = [
        named(label.split()[0], score="random", **options, **tiny)
        for label, options in rows.items()
    ]
    comparison = compare(deployed, failures.subset(range(60)), methods=methods, **given)
    assert list(comparison.rows) == list(rows)
    assert [len(row.report.repaired_blocks) for row in comparison.rows.values()] == [
        1,
        2,
        2,
        1,
        2,
        2,
    ]
    assert max(map(len, str(comparison).splitlines())) <= 80


# ---- errors before work


@pytest.fixture
def no_work(monkeypatch):
    """Fails the test if anything is trained."""

    def refuse(*_, **__):
        raise AssertionError("work had begun")

    for name in (
        "architecture.search.fit",
        "training.tuning.fit",
        "training.tuning.Batches",
        "architecture.search.Batches",
    ):
        monkeypatch.setattr(f"timm_repair.{name}", refuse)


def pairs(count: int, label) -> list:
    return [(Image.new("L", (32, 32), i), label) for i in range(count)]


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda d: [], NoFailuresError, "no failures were given"),
        (
            lambda d: d["train"][:100],
            NoFailuresError,
            r"right already.*labels are true.*preprocessing",
        ),
        (lambda d: [(image, 10) for image, _ in d["pool"][:50]], LabelError, "10"),
        (lambda d: [(image, -1) for image, _ in d["pool"][:50]], LabelError, "-1"),
        (lambda d: [(image, "nine") for image, _ in d["pool"][:50]], LabelError, "nine"),
        (lambda d: "/no/such/place", DataError, "does not exist"),
        (lambda d: 7, DataError, "cannot take images from int"),
    ],
)
def test_failures_that_cannot_be_used(make, error, message, deployed, pictures, no_work):
    _, right = planted.wrong_by(deployed, pictures["train"][:100], at_least=20)
    assert [label for _, label in right] == list(range(2, 10)) * 10, "all but the confused classes"
    sources = pictures | {"train": right}  # only what the model has right, for the second row
    with pytest.raises(error, match=message) as caught:
        repair(deployed, make(sources), progress=False)
    assert isinstance(caught.value, RepairError) and any(
        "while repairing" in note for note in caught.value.__notes__
    )


def test_few_failures_retained_of_one_class_or_leaking_are_refused(
    deployed, failures, pictures, no_work
):
    with pytest.raises(DataError, match="too few for the splits"):
        repair(deployed, failures.subset(range(4)), progress=False)
    ones = [pair for pair in pictures["train"] if pair[1] == 1]
    with pytest.raises(DataError, match="of one class"):
        repair(deployed, failures, retain=ones, progress=False)
    with pytest.raises(DataError, match="leave them out of one"):
        repair(deployed, failures, holdout=failures, progress=False)


def test_passing_examples_that_are_too_few_are_left_out_and_named(deployed, collected, no_work):
    few = Collected.of(collected, collected.passing.subset(range(4)))
    with pytest.raises(UserWarning, match="passing: 4 .* they were left out. At least 6"):
        repair(deployed, few, progress=False)  # warnings are errors here
    with pytest.raises(DataError, match="passing.*4 examples are too few for the splits"):
        repair(deployed, collected, passing=few.passing, progress=False)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_no_numbers(value, classifier, failures, no_work):
    classifier.layer3[0].conv2.weight.data[0, 0, 0, 0] = value
    with pytest.raises(NonFiniteError, match=r"layer3\.0\.conv2\.weight"):
        repair(classifier, failures, progress=False)


@pytest.mark.parametrize("method", ["archrepair", "finetune", "wise_ft"])
def test_a_block_that_the_model_lacks_is_told_before_any_work(
    method, classifier, failures, pictures, monkeypatch
):
    for work in ("measure", "looked_at", "run_method"):
        monkeypatch.setattr(
            f"timm_repair.pipeline.repairing.{work}", lambda *_, **__: pytest.fail()
        )
    given = {"retain": pictures["train"], "method": method, "progress": False}
    block = {"options": {"block": "layer9"}} if method == "wise_ft" else {"block": "layer9"}
    with pytest.raises(PartitionError, match="no block 'layer9'"):
        repair(classifier, failures, **given, **block)


def test_no_repairable_block(pictures, no_work):
    model = nn.Sequential(nn.Flatten(), nn.Linear(1024, 32), nn.ReLU(), nn.Linear(32, 10)).eval()
    model.num_classes, model.pretrained_cfg = (
        10,
        {"input_size": (1, 32, 32), "mean": (0.5,), "std": (0.5,), "crop_pct": 1.0},
    )
    failures = planted.mislabelled(model, pictures["pool"][:100])
    with pytest.raises(PartitionError, match="no block of Sequential can be repaired"):
        repair(model, failures, progress=False)


def test_options_of_the_data_are_checked():
    for options in (
        {"selection_share": 0},
        {"selection_share": 0.6, "holdout_share": 0.6},
        {"max_right": 2},
    ):
        with pytest.raises(RepairError):
            DataOptions(**options)


def test_load(classifier):
    assert load(classifier) == ("test_resnet", classifier) and load(nn.Linear(1, 1))[0] == "Linear"
    name, model = load("test_resnet", pretrained=False)
    assert name == "test_resnet" and not model.training


def test_a_folder_that_is_not_there_is_told_with_what_was_meant(tmp_path):
    (tmp_path / "resnet18_cifar10").mkdir()
    for name, said in (
        ("resnet18_cifar", "there is no folder .*; did you mean '.*resnet18_cifar10'"),
        ("qqq/model", "there is no folder '.*model'$"),
        ("resnet18_cifar10", "not a folder saved by timm: it has no config.json"),
    ):
        with pytest.raises(ModelError, match=said):
            repair(f"local-dir:{tmp_path / name}", [])
