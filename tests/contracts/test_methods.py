"""What every repair method owes its user, run over the table in cases.py: one row is one method,
made tiny.
"""

import dataclasses
import itertools
import json
import math
import pkgutil
import warnings
from collections import Counter
from collections.abc import Mapping
from copy import deepcopy
from types import SimpleNamespace

import planted
import pytest
import torch
from cases import (
    ARCHITECTURE,
    GENTLE,
    METHOD_CASES,
    NOTHING,
    SCORER_CASES,
    STATISTICS,
    STRATEGY_CASES,
    WEIGHTS,
    Case,
)
from making import keep_the_last
from states import same, state, unchanged, unusual
from torch import nn

from timm_repair import compare, methods, repair
from timm_repair.architecture.strategies import STRATEGIES
from timm_repair.architecture.strategies.pc_darts import PCDarts
from timm_repair.data.predicting import predict
from timm_repair.errors import NoEffectWarning, OptionError, PartitionError
from timm_repair.hub.loading import from_pretrained
from timm_repair.images.sources import as_images
from timm_repair.localization.scorers import SCORERS
from timm_repair.localization.target import Target
from timm_repair.methods.archrepair import ArchRepair
from timm_repair.methods.bn_recalibration import BnRecalibration
from timm_repair.methods.finetune import FineTune
from timm_repair.methods.method import Outcome
from timm_repair.options import groups_of
from timm_repair.report.report import Report
from timm_repair.training import pace
from timm_repair.training.batches import Batches
from timm_repair.training.objective import Judged
from timm_repair.training.options import Training
from timm_repair.training.pace import Pace


@pytest.fixture
def given(failures, pictures) -> dict:
    """160 failures, 80 of each of the two confused classes, and pictures of all classes."""
    given = {"retain": pictures["train"][:200], "holdout": pictures["unseen"][:100]}
    return given | {"failures": failures.subset(range(160)), "progress": False, "diagnose": False}


def carried_out(case: Case, model: nn.Module, given: dict, **options):
    """The repair of this row; the warning that nothing was changed belongs to what claims
    nothing.
    """
    options = case.options | options
    with pytest.MonkeyPatch.context() as patched:
        closed(patched, methods.METHODS[case.method])
        if case.last:
            keep_the_last(patched)
        if case.changes != NOTHING:
            return repair(model, **given, method=case.method, **options)
    with pytest.warns(NoEffectWarning, match=f"{case.method} changed nothing"):
        return repair(model, **given, method=case.method, **options)


class Holdout(Mapping):
    """What a method must not look at."""

    def _refuse(self, *_):
        raise AssertionError("the holdout is out of bounds")

    __getitem__ = __iter__ = __len__ = _refuse


def closed(patched: pytest.MonkeyPatch, kind: type) -> None:
    """From now on methods of this kind that look at the holdout raise."""
    original = kind.repair

    def blind(self, model, data, runtime):
        return original(self, model, dataclasses.replace(data, holdout=Holdout()), runtime)

    patched.setattr(kind, "repair", blind)


def changes(model: nn.Module, original: nn.Module) -> set[str]:
    """What a repair changed, by the bits of the two models."""
    weights, before = dict(original.named_parameters()), original.state_dict()
    # in a block with added paths the raw layers have longer names:
    # layer3.0.raw.0.conv1.layer.weight
    after = {
        name.replace(".0.raw.", ".").replace(".layer.", "."): tensor
        for name, tensor in model.state_dict().items()
    }
    names = [name for name, tensor in before.items() if not torch.equal(after[name], tensor)]
    found = {WEIGHTS if name in weights else STATISTICS for name in names}
    kinds = [
        [(name, type(module)) for name, module in each.named_modules()]
        for each in (model, original)
    ]
    return found | ({ARCHITECTURE} if kinds[0] != kinds[1] else set())


def claimed(case: Case, report: Report) -> set[str]:
    """What the row claims; a search says in its report whether it added anything to the
    architecture.
    """
    added = any(genotype["edges"] for genotype in report.genotypes.values())
    return set(case.changes) | ({ARCHITECTURE} if case.searches and added else set())


@pytest.mark.parametrize("label", METHOD_CASES)
def test_the_contract(label, classifier, given, tmp_path):
    case = METHOD_CASES[label]
    before = state(unusual(classifier))
    with unchanged(classifier):
        repaired = carried_out(case, classifier, given)

    # a plain timm model in eval mode, ready to be trained on, and without a trace of the machinery
    model, report = repaired.model, repaired.report
    assert type(model) is type(classifier) and not any(m.training for m in model.modules())
    required = {name: p.requires_grad for name, p in classifier.named_parameters()}
    assert all(
        p.requires_grad == required.get(name, True) for name, p in model.named_parameters()
    ), "frozen stays frozen"
    assert not any(map(any, state(model)["hooks"])) and not any(state(model)["forwards"])

    # what the row claims to change is changed, and nothing else
    assert changes(model, classifier) == claimed(case, report)

    # the report says what one measures by hand
    images = as_images(given["holdout"], classifier)
    inputs = images.preprocessing.normalize(images.pixels(range(len(images))))
    with torch.no_grad():
        answers = [net.eval()(inputs).argmax(1) for net in (deepcopy(classifier), model)]
    scores = report.population("holdout")
    assert scores.n == len(images) and scores.labels.tolist() == images.labels.tolist()
    assert (scores.before.tolist(), scores.after.tolist()) == tuple(a.tolist() for a in answers)
    right = [a == images.labels for a in answers]
    assert (scores.fixed, scores.broken) == (
        int((~right[0] & right[1]).sum()),
        int((right[0] & ~right[1]).sum()),
    )
    assert right[0].tolist() == (images.labels > 1).tolist(), "the planted fault, and nothing else"
    failing = report.population("failing")
    assert failing.accuracy_before == 0 and set(failing.labels.tolist()) == {0, 1}
    assert failing.before.tolist() == (1 - failing.labels).tolist(), (
        "each class is taken for the other"
    )
    assert Report.from_dict(json.loads(json.dumps(report.to_dict()))) == report
    assert report.method == case.method and report.seed == 0 and str(report)
    assert report.cost["after"]["parameters"] == sum(p.numel() for p in model.parameters())

    # nothing outside the repaired blocks has moved
    options = case.options
    wanted = options.get("block") or [None] * options.get("blocks", 1)
    if places := ((report.localization or {}).get("details") or {}).get("places"):
        wanted = places[0]["blocks"]  # where neither blocks nor a score were asked for
    assert not report.repaired_blocks or len(report.repaired_blocks) == (
        1 if isinstance(wanted, str) else len(wanted)
    )
    if report.repaired_blocks:
        inside = tuple(f"{block}." for block in report.repaired_blocks)
        state_after = model.state_dict()
        for name, tensor in before["state"].items():
            if not name.startswith(inside):
                assert torch.equal(state_after[name], tensor), name
        for block in inside:
            own = {
                name: tensor for name, tensor in before["state"].items() if name.startswith(block)
            }
            assert any(
                name not in state_after or not torch.equal(state_after[name], tensor)
                for name, tensor in own.items()
            ), block
    assert len(report.history) == 0 or [row["stage"] for row in report.history][-1] == "finetune"
    assert sum(1 for _ in report.history) in (
        0,
        options["steps"],
    ), "an architecture step counts as a step"

    again = carried_out(case, classifier, given)
    assert (
        same(dict(again.model.state_dict()), dict(model.state_dict()))
        and again.report.scores == report.scores
    )

    # saved and loaded it answers the same
    loaded = from_pretrained(str(repaired.save_pretrained(tmp_path / "out"))).eval()
    assert torch.equal(loaded(inputs), model(inputs))
    assert same(dict(loaded.state_dict()), dict(model.state_dict()))


def interrupted(patched: pytest.MonkeyPatch, case: Case) -> None:
    """From now on the repair of this row is stopped in its middle."""
    place, last = case.middle
    original, calls = pkgutil.resolve_name(place), []

    def fail(*given):
        calls.append(1)
        if len(calls) == last:
            raise KeyboardInterrupt
        return original(*given)

    patched.setattr(place, fail)


@pytest.mark.parametrize("label", METHOD_CASES)
def test_an_error_in_the_middle_leaves_the_model_alone(label, classifier, given, monkeypatch):
    case = METHOD_CASES[label]
    interrupted(monkeypatch, case)
    with unchanged(unusual(classifier)), pytest.raises(KeyboardInterrupt):
        repair(classifier, **given, method=case.method, **case.options)


@pytest.mark.long
@pytest.mark.parametrize("label", METHOD_CASES)
def test_what_was_interrupted_ends_with_the_same_bits(
    label, classifier, given, monkeypatch, tmp_path
):
    case = METHOD_CASES[label]
    through = carried_out(case, classifier, given, output_dir=tmp_path / "through")
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        interrupted(patched, case)
        carried_out(case, classifier, given, output_dir=tmp_path / "interrupted")
    resumed = carried_out(case, classifier, given, output_dir=tmp_path / "interrupted")
    assert same(dict(resumed.model.state_dict()), dict(through.model.state_dict()))
    assert resumed.report.genotypes == through.report.genotypes


# of these no step is a part of the budget
WITHOUT_STEPS = {"noop", "wise_ft of nothing", "bn_recalibration", "linear_program"}


@pytest.mark.parametrize("label", [label for label in METHOD_CASES if label not in WITHOUT_STEPS])
def test_a_budget_in_seconds_is_kept(label, classifier, given, monkeypatch):
    """Where a step takes a second, and there are half as many seconds, half of the steps of every
    loop are made.
    """
    tick, ticks = Pace.tick, Counter()

    def counted(own: Pace) -> None:
        ticks[own] += 1
        tick(own)

    monkeypatch.setattr(pace, "time", SimpleNamespace(perf_counter=itertools.count().__next__))
    monkeypatch.setattr(Pace, "tick", counted)
    case = METHOD_CASES[label]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NoEffectWarning)  # with so few steps
        repaired = repair(
            classifier, **given, method=case.method, **case.options, seconds=GENTLE["steps"] / 2
        )
    assert ticks and all(ticks[each] == math.ceil(each.steps / 2) for each in ticks)
    (note,) = (each for each in repaired.report.notes if each.startswith("the time was up"))
    assert note.startswith(f"the time was up (seconds={GENTLE['steps'] / 2:g}) after ")


@pytest.mark.parametrize("label", [label for label, case in METHOD_CASES.items() if case.searches])
def test_every_architecture_parameter_gets_a_gradient(label, classifier, given, monkeypatch):
    """Only the architecture is trained by Adam; the weights are by SGD."""
    case, seen, step = METHOD_CASES[label], [], torch.optim.Adam.step
    # so that a warm-up of 10 % is a step, and opens the gates
    long = {"steps": 12, "search_share": 0.75}

    def watched(self, *rest, **options):
        seen.append(
            [
                None if p.grad is None else p.grad.clone()
                for group in self.param_groups
                for p in group["params"]
            ]
        )
        return step(self, *rest, **options)

    monkeypatch.setattr(torch.optim.Adam, "step", watched)
    report = repair(classifier, **given, method=case.method, **case.options | long).report
    assert len(seen) == sum("architecture" in row for row in report.history) > 0
    for gradients in seen:
        assert gradients and all(gradient is not None for gradient in gradients)
        assert all(gradient.isfinite().all() and gradient.count_nonzero() for gradient in gradients)


@pytest.mark.parametrize("label", METHOD_CASES)
def test_options_come_back_from_the_report(label):
    case = METHOD_CASES[label]
    method = methods.named(case.method, **case.options)
    plain = json.loads(json.dumps(methods.options_of(method)))
    groups = groups_of(type(method))
    rebuilt = type(method)(**{k: groups[k](**v) if k in groups else v for k, v in plain.items()})
    assert rebuilt == method
    assert methods.named(method) is method


def test_every_method_and_scorer_has_a_row():
    assert {case.method for case in METHOD_CASES.values()} == set(methods.METHODS)
    assert set(SCORER_CASES) == set(SCORERS) and set(STRATEGY_CASES) == set(STRATEGIES)
    assert {NOTHING, (STATISTICS,), (WEIGHTS,)} <= {case.changes for case in METHOD_CASES.values()}


@pytest.mark.parametrize("score", SCORER_CASES)
def test_every_scorer_can_choose(score, classifier, given):
    options = {"method": "finetune", "level": "block", "score": score} | GENTLE | {"steps": 4}
    with unchanged(unusual(classifier)):
        repaired = repair(classifier, **given, **options)
    report = repaired.report
    assert report.localization["scorer"] == score
    suspiciousness = report.localization["suspiciousness"]
    assert set(suspiciousness) == {
        b["name"] for b in report.blocks if not b["reason"] and b["role"] == "body"
    }
    assert report.block == max(suspiciousness, key=suspiciousness.get)
    again = repair(classifier, **given, **options).report
    assert again.localization == report.localization and again.weights == report.weights


@pytest.mark.parametrize("score", SCORER_CASES)
def test_an_error_after_localizing_leaves_the_model_alone(score, classifier, given, monkeypatch):
    """Scores are taken with hooks and gradients: none of them is left where training fails."""

    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Batches, "take", fail)
    with unchanged(unusual(classifier)), pytest.raises(KeyboardInterrupt):
        repair(classifier, **given, method="finetune", level="block", score=score, **GENTLE)


# ---- yours instead of ours


@dataclasses.dataclass(frozen=True)
class NudgeBias:
    """A method of one's own: no base class, no registration."""

    size: float = 3.0
    training: Training = Training(**GENTLE)
    name = "nudge"

    def repair(self, model, data, runtime):
        with torch.no_grad():
            model.fc.bias[data.failing.labels.bincount().argmax()] += self.size
        return Outcome(model, notes=("nudged",))


@dataclasses.dataclass(frozen=True)
class Mend:
    """A method whose outcome is known: rows of the head are exchanged, 0 and 1 back, then 2 and
    3.
    """

    training: Training = Training(**GENTLE)
    name = "mend"

    def repair(self, model, data, runtime):
        mended = planted.confused(planted.confused(model), 2, 3)
        model.load_state_dict(mended.state_dict())
        return Outcome(model)


def test_the_report_names_what_was_fixed_and_what_was_broken(classifier, given):
    report = repair(classifier, **given, method=Mend()).report
    failing, retained = report.population("failing"), report.population("holdout")
    assert failing.after.tolist() == failing.labels.tolist() and (
        failing.fixed,
        failing.broken,
    ) == (failing.n, 0)
    exchanged = {0: 1, 1: 0, 2: 3, 3: 2}
    labels = [label for _, label in given["holdout"]]
    assert retained.labels.tolist() == labels
    assert retained.before.tolist() == [
        exchanged[label] if label < 2 else label for label in labels
    ]
    assert retained.after.tolist() == [
        exchanged[label] if 2 <= label < 4 else label for label in labels
    ]
    assert (retained.fixed, retained.broken) == (20, 20) and retained.change == 0


def test_own_method_scorer_and_strategy(classifier, given):
    report = repair(classifier, **given, method=NudgeBias()).report
    assert (
        report.method == "nudge" and report.notes == ("nudged",) and report.options["size"] == 3.0
    )

    def narrowest(job, blocks):
        return {b.name: 1 / b.num_params for b in blocks}

    @dataclasses.dataclass(frozen=True)
    class Uniform:
        partial: int = 2
        edge_normalization: bool = False
        warmup: float = 0.0
        learning_rate: float | None = 0.1

        def weights(self, alpha, *, progress, generator):
            assert 0 <= progress <= 1
            return torch.softmax(alpha, 1)

    free = GENTLE | {"max_latency": None}
    report = repair(classifier, **given, score=narrowest, strategy=Uniform(), **free).report
    assert report.localization["scorer"] == "narrowest"
    assert (
        report.block
        == min(
            (b for b in report.blocks if b["role"] == "body" and not b["reason"]),
            key=lambda b: b["num_params"],
        )["name"]
    )
    assert (
        report.options["strategy"]["partial"] == 2
        and sum("architecture" in row for row in report.history) == 1
    )
    assert json.dumps(report.to_dict())


def test_objects_carry_their_own_options(classifier, given):
    method = ArchRepair(
        target=Target(block="layer1"), strategy=PCDarts(partial=2), training=Training(**GENTLE)
    )
    assert repair(classifier, **given, method=method).report.options["strategy"]["partial"] == 2
    with pytest.raises(OptionError, match="set them on your object"):
        repair(classifier, **given, method=method, steps=3)


# ---- nothing done, and wrong use


def test_no_effect_is_said(classifier, given):
    case = METHOD_CASES["finetune too small"]
    with pytest.warns(NoEffectWarning, match="finetune changed nothing"):
        repaired = repair(classifier, **given, method="finetune", **case.options)
    assert same(dict(repaired.model.state_dict()), dict(classifier.state_dict()))
    scores = repaired.report.population("failing")
    assert scores.fixed == scores.broken == 0


def test_no_batch_norm_no_recalibration(pictures):
    plain = nn.Sequential(
        nn.Conv2d(1, 4, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10)
    ).eval()
    plain.num_classes, plain.pretrained_cfg = (
        10,
        {"input_size": (1, 32, 32), "mean": (0.5,), "std": (0.5,), "crop_pct": 1.0},
    )
    # some that it gets right, for the second note
    pairs = planted.mislabelled(plain, pictures["pool"][:50])
    pairs += [
        (image, (label - 1) % 10)
        for image, label in planted.mislabelled(plain, pictures["pool"][50:60])
    ]
    with (
        pytest.warns(NoEffectWarning),
        pytest.warns(UserWarning, match="gets 10 of the 60 failures right already"),
    ):
        repaired = repair(plain, pairs, progress=False, method="bn_recalibration", diagnose=False)
    assert (
        "no batch norm" in repaired.report.notes[0]
        and "forget is not known" in repaired.report.notes[1]
    )


@pytest.mark.parametrize(
    ("options", "level"),
    [
        ({}, "network"),
        ({"block": "layer1"}, "block"),
        ({"blocks": 2}, "block"),
        ({"block": "layer1.0.conv1", "level": "layer"}, "layer"),
    ],
)
def test_naming_blocks_implies_the_level(options, level):
    assert methods.named("finetune", **options).level == level


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"method": "archrepare"}, OptionError, "did you mean 'archrepair'"),
        ({"stepps": 3}, OptionError, "did you mean 'steps'"),
        ({"steps": 3, "training": Training()}, OptionError, "not both"),
        ({"genotype": "rnd"}, OptionError, "unknown genotype"),
        ({"strategy": "pc_dart"}, OptionError, "did you mean 'pc_darts'"),
        ({"search_share": 1.0}, OptionError, "between 0 and 1"),
        ({"method": "finetune", "level": "blok"}, OptionError, "did you mean 'block'"),
        (
            {"method": "finetune", "level": "network", "block": "layer1"},
            OptionError,
            "needs level='block'",
        ),
        ({"block": "layer9"}, PartitionError, "no block 'layer9'; did you mean"),
        ({"block": "fc"}, PartitionError, "cannot be repaired: a single layer"),
        ({"score": "rng", **GENTLE}, OptionError, "did you mean 'rgn'"),
        ({"blocks": 0}, OptionError, "blocks must be at least 1"),
        ({"blocks": 2, "block": "layer1"}, OptionError, "not both"),
        ({"blocks": 9}, OptionError, "blocks=9, but the model has 4 that can be repaired"),
        (
            {"method": "finetune", "level": "layer", "blocks": 99},
            OptionError,
            "blocks=99, but the model has",
        ),
        (
            {"method": "finetune", "level": "network", "blocks": 2},
            OptionError,
            "blocks=2 needs level='block'",
        ),
        ({"block": ["layer1", "layer9"]}, PartitionError, "no block 'layer9'"),
        ({"block": ("layer1", "layer1")}, OptionError, "several different names"),
        ({"block": []}, OptionError, "several different names"),
        ({"block": 3}, OptionError, "block=3 must be a name"),
    ],
)
def test_wrong_use_is_refused(options, error, message, classifier, given):
    with pytest.raises(error, match=message) as caught:
        repair(classifier, **given, **options)
    assert len(getattr(caught.value, "__notes__", [])) <= 1


# ---- several blocks together


EVERY_EDGE = "timm_repair.architecture.keeping.discretize", lambda relaxed, _: relaxed.skeleton


def test_the_most_suspicious_blocks_are_repaired_together(classifier, given):
    report = repair(
        classifier, **given, method="finetune", level="block", score="rgn", blocks=3, **GENTLE
    ).report
    assert (
        report.repaired_blocks == tuple(report.localization["ranking"][:3])
        and report.block == report.localization["ranking"][0]
    )
    assert report.genotypes == {} and "Repaired blocks: " + ", ".join(
        report.repaired_blocks
    ) in str(report)
    named = repair(
        classifier,
        **given,
        method="finetune",
        level="block",
        block=report.repaired_blocks,
        **GENTLE,
    ).report
    assert named.scores == report.scores and named.repaired_blocks == report.repaired_blocks, (
        "named or chosen, it is the same repair"
    )


@pytest.mark.parametrize("genotype", ["search", "random"])
def test_blocks_searched_together_are_saved_and_loaded(
    genotype, classifier, given, pictures, tmp_path, monkeypatch, offline
):
    monkeypatch.setattr(*EVERY_EDGE)
    monkeypatch.setattr(
        "timm_repair.architecture.keeping.judged",
        lambda forward, *_: Judged(float(sum(p.numel() for p in forward.model.parameters())), {}),
    )
    repaired = repair(
        classifier,
        **given,
        score="rgn",
        blocks=2,
        genotype=genotype,
        **GENTLE | {"steps": 12, "max_latency": None},
    )
    report = repaired.report
    assert list(report.genotypes) == list(report.repaired_blocks) and all(
        each["edges"] for each in report.genotypes.values()
    )
    assert [edit["paths"] for edit in repaired.edits] == [
        [block] for block in report.repaired_blocks
    ]
    assert [edit["genotype"] for edit in repaired.edits] == list(report.genotypes.values())
    assert (
        len(report.history) == 12 and [s["name"] for s in report.stages].count("finetune") == 1
    ), "the budget is that of one block"
    if genotype == "search":
        last = next(row for row in report.history if "alpha" in row)
        assert last["edges"] == [len(genotype["edges"]) for genotype in report.genotypes.values()]
        assert sum(last["edges"]) == len(last["alpha"])
    with torch.no_grad():
        for name, parameter in repaired.model.named_parameters():
            if ".gains." in name:
                parameter.add_(0.1)
    # the gains are no longer those that were measured
    repaired = dataclasses.replace(repaired, report=dataclasses.replace(report, weights=None))
    again, x = (
        from_pretrained(str(repaired.save_pretrained(tmp_path / "out"))).eval(),
        torch.randn(4, 1, 32, 32),
    )
    assert torch.equal(again(x), repaired.model(x)) and len(again._model_args["edits"]) == 2
    assert (tmp_path / "out" / "README.md").read_text().count("```mermaid") == 2
    given["failures"] = planted.mislabelled(again, pictures["pool"][:160])
    second = repair(again, **given, block=report.repaired_blocks, genotype="random", **GENTLE)
    assert len(second.model._model_args["edits"]) == 4, "a repair of the same two blocks on top"
    loaded = from_pretrained(str(second.save_pretrained(tmp_path / "second"))).eval()
    assert torch.equal(loaded(x), second.model(x))


@pytest.mark.parametrize("kept", [("layer1",), ("layer3",), ("layer1", "layer3"), ()])
def test_each_block_keeps_the_raw_architecture_if_that_is_better(
    kept, classifier, given, monkeypatch
):
    def judged(forward, *_):
        """Higher for the wanted choice, block by block."""
        added = {
            name.partition(".")[0]
            for name, _ in forward.model.named_parameters()
            if ".gains." in name
        }
        wanted = sum((block in added) == (block not in kept) for block in ("layer1", "layer3"))
        return Judged(float(wanted), {})

    monkeypatch.setattr(*EVERY_EDGE)
    monkeypatch.setattr("timm_repair.architecture.keeping.judged", judged)
    free = GENTLE | {"max_latency": None}
    repaired = repair(classifier, **given, block=("layer3", "layer1"), **free)
    assert {name for name, plan in repaired.report.genotypes.items() if not plan["edges"]} == set(
        kept
    )
    assert [edit["paths"] for edit in repaired.edits] == [
        [block] for block in ("layer3", "layer1") if block not in kept
    ]
    for block in ("layer1", "layer3"):
        assert any(
            f"kept the raw architecture of {block}:" in note for note in repaired.report.notes
        ) == (block in kept)
        assert (
            type(repaired.model.get_submodule(block)) is type(classifier.get_submodule(block))
        ) == (block in kept)


# ---- side by side


def test_compare_measures_all_on_the_same_examples(classifier, given):
    own = {
        "network": FineTune(training=Training(**GENTLE)),
        "statistics": BnRecalibration(batches=2),
        "mine": NudgeBias(),
    }
    with unchanged(classifier):
        comparison = compare(classifier, **given, methods=own)
    assert list(comparison.rows) == ["network", "statistics", "mine"] and "statistics" in str(
        comparison
    )
    alone = repair(classifier, **given, method="finetune", **GENTLE).report
    assert comparison.rows["network"].report.scores == alone.scores, (
        "a row is what the method does on its own"
    )
    named = compare(classifier, **given, methods=["archrepair", "finetune"], **GENTLE)
    assert list(named.rows) == ["archrepair", "finetune network"]
    with pytest.raises(OptionError, match="two methods are called 'finetune network'"):
        compare(classifier, **given, methods=["finetune", "finetune"])


def test_predictions_of_the_report_are_those_of_the_returned_model(classifier, given, runtime):
    repaired = repair(
        classifier,
        **given,
        method="archrepair",
        **GENTLE | {"block": "layer3", "genotype": "random"},
    )
    images = as_images(given["holdout"], repaired.model)
    found = predict(repaired.model, images, images.preprocessing, runtime)
    assert found.predictions.tolist() == repaired.report.population("holdout").after.tolist()
