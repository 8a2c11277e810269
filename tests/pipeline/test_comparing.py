"""compare(): rows are what the methods do on their own; a folder from which it goes on; rows that
fail; seeds; the paper's protocol.
"""

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import planted
import pytest
import torch
from cases import GENTLE

import timm_repair
from timm_repair import compare, read_comparison
from timm_repair.errors import (
    ConfigError,
    DataError,
    OptionError,
    OutputError,
    PartitionError,
    RepairError,
)
from timm_repair.hub.folder import REPORT
from timm_repair.hub.loading import from_pretrained
from timm_repair.images.preprocessing import Preprocessing
from timm_repair.methods import bn_recalibration, named
from timm_repair.methods.method import Outcome
from timm_repair.pipeline import comparing, entrants, protocols, shared, shelf
from timm_repair.pipeline.evidence import Evidence
from timm_repair.pipeline.protocols import REST
from timm_repair.runtime.journal import FOLDER
from timm_repair.runtime.runtime import Runtime
from timm_repair.training.batches import Batches
from timm_repair.training.options import Training

TRAINING = Training(**GENTLE)


@dataclass(frozen=True, kw_only=True)
class Shift:
    """Adds a number to the bias of class 2, and nothing else; the planted classifier then answers
    it too often, or as ever.
    """

    by: float = 0.0
    training: Training = field(default_factory=lambda: TRAINING)
    name = "shift"

    def repair(self, model, data, runtime):
        with torch.no_grad():
            model.get_classifier().bias[2] += self.by
        return Outcome(model, notes=(f"by {self.by}",))


@dataclass(frozen=True, kw_only=True)
class Mend:
    """Undoes the planted fault; `fails` in this seed."""

    fails: int | None = None
    training: Training = field(default_factory=lambda: TRAINING)
    name = "mend"

    def repair(self, model, data, runtime):
        if runtime.seed == self.fails:
            raise KeyError("of no good reason")
        model.load_state_dict(planted.confused(model).state_dict())
        return Outcome(model)


@pytest.fixture
def given(failures, pictures) -> dict:
    unseen = {"clean": pictures["unseen"][:60]}
    given = {"failures": failures.subset(range(60)), "retain": pictures["train"][:60]}
    return given | {"holdout": unseen, "progress": False, "diagnose": False}


@pytest.fixture(autouse=True)
def undrawn(monkeypatch):
    """Repairs are saved without their figures: they take long."""
    monkeypatch.setattr("timm_repair.hub.saving.find_spec", lambda name: None)


@pytest.fixture
def work(monkeypatch) -> Counter:
    """Counts what is done."""
    done: Counter = Counter()

    def counting(module, step: str):
        real = getattr(module, step)

        def counted(*arguments):
            done[step] += 1
            return real(*arguments)

        monkeypatch.setattr(module, step, counted)

    counting(comparing, "run_method")
    counting(shared, "measure")
    return done


BOTH = {"good": Mend(), "bad": Shift(by=1000.0)}


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# ---- rows


def test_surgical_may_fail_as_a_row_where_it_names_nothing(monkeypatch):
    """It has no block to try in a network of vectors; the others go on."""
    method = named("surgical")
    monkeypatch.setattr(
        type(method), "candidates_of", lambda *_: pytest.fail("asked before any work")
    )
    data = type("Data", (), {"preprocessing": Preprocessing((1, 32, 32), (0.5,), (0.5,), {})})()
    runtime = Runtime(progress=False)
    entrants.require_all_fit(planted.classifier(), {"surgical": method}, data, runtime)


def test_rows_keep_their_models_and_say_what_they_did(classifier, given, pictures):
    made = compare(classifier, methods=BOTH, **given)
    good, bad = made.rows["good"], made.rows["bad"]
    assert (good.kind, bad.kind) == ("helpful", "harmful")
    assert str(made).startswith("bad: Harmful"), "first and loudly"
    images = planted.inputs(classifier, pictures["unseen"])
    labels = torch.tensor([label for _, label in pictures["unseen"]])
    with torch.no_grad():
        assert (good.repaired.model(images).argmax(1) == labels).all()
        assert (bad.repaired.model(images).argmax(1) == 2).all()
    reverted = timm_repair.revert(good.repaired.model).state_dict()
    assert all(torch.equal(reverted[k], v) for k, v in classifier.state_dict().items())
    (pair,) = made.pairs("clean")
    right = sum(label == 2 for _, label in pictures["unseen"][:60])
    assert (pair.found.fixed, pair.found.broken) == (60 - right, 0) and pair.p_value < 1e-9
    assert made.rows["bad"].report.notes[0] == "by 1000.0" and "by 1000.0" in str(made)


def test_a_row_is_what_the_method_does_on_its_own_under_each_seed(classifier, given):
    options = {**GENTLE, "block": "layer3"}
    made = compare(classifier, methods=["finetune"], seeds=[3, 5], **options, **given)
    assert list(made.rows) == ["finetune layer3"] and made.seeds == (3, 5)
    alone = timm_repair.repair(classifier, method="finetune", seed=5, **options, **given).report
    found = made.rows["finetune layer3"].reports[5]
    assert found.scores == alone.scores and found.weights == alone.weights
    assert found.provenance == alone.provenance


def test_a_method_that_fails_is_a_row(classifier, given, caplog):
    methods = {"never": Mend(fails=1), "good": Mend()}
    made = compare(classifier, methods=methods, seeds=[1, 2], **given)
    assert made.rows["never"].errors == {1: "KeyError: 'of no good reason'"}
    assert list(made.rows["never"].reports) == [2] and list(made.rows["good"].reports) == [1, 2]
    assert "never failed, the others go on" in caplog.text
    assert "never (seed 1): KeyError: 'of no good reason'" in str(made)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"seeds": [1, 1]}, OptionError, "seeds=.* must be different"),
        ({"seeds": []}, OptionError, "at least one"),
        ({"protocol": "papers"}, OptionError, "did you mean 'paper'"),
        ({"protocol": "paper", "passing": []}, OptionError, "leave passing= out"),
        ({"methods": ["finetune", "finetune"]}, OptionError, "two methods are called"),
        ({"methods": ["archrepair", "finetune"], "block": "layer9"}, PartitionError, "'layer9'"),
        ({"methods": [named("surgical", candidates=["layr1"])]}, PartitionError, "'layer1'"),
        (
            {"methods": [named("wise_ft", of="finetune", options={"block": "layr1"})]},
            PartitionError,
            "'layr1'",
        ),
        ({"methods": ["finetune"], "blocks": 9}, OptionError, "the model has 4"),
        ({"methods": ["finetune"], "block": "layer1", "level": "layer"}, PartitionError, "layer1"),
        ({"holdout": {"clean": []}}, DataError, "no examples"),
    ],
)
def test_wrong_input_is_refused_before_any_work(changes, error, message, classifier, given, work):
    with pytest.raises(error, match=message):
        compare(classifier, **given | {"methods": BOTH} | changes)
    assert not work


def test_what_is_done_is_on_the_error(classifier, given, monkeypatch):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(Shift, "repair", stopped)
    with pytest.raises(KeyboardInterrupt) as caught:
        compare(classifier, methods=BOTH, **given)
    assert list(caught.value.finished.rows) == ["good"]
    assert caught.value.finished.rows["good"].repaired is not None


# ---- a folder


def test_the_folder_holds_every_model_and_is_read_back(classifier, given, tmp_path, work):
    made = compare(classifier, methods=BOTH, seeds=[0, 1], output_dir=tmp_path / "out", **given)
    good = made.rows["good"]
    assert good.repaired is None and good.folder == tmp_path / "out" / "seed-0" / "good"
    assert from_pretrained(good.folder) is not None
    assert (tmp_path / "out" / "figures" / "pareto.png").is_file()
    assert not list((tmp_path / "out").rglob(FOLDER)), "nothing is left of the work"
    read = read_comparison(tmp_path / "out")
    assert read == made and read.rows["good"].folder == good.folder and str(read) == str(made)
    assert work == {"run_method": 4, "measure": 2}
    before = files(tmp_path / "out")
    again = compare(classifier, methods=BOTH, seeds=[0, 1], output_dir=tmp_path / "out", **given)
    assert again == made and work == {"run_method": 4, "measure": 2}, "nothing was computed"
    assert {k: v for k, v in files(tmp_path / "out").items() if "pareto" not in k} == {
        k: v for k, v in before.items() if "pareto" not in k
    }


def without_costs(comparison) -> dict:
    """Of a comparison what does not depend on how busy the machine is."""
    data = json.loads(json.dumps(comparison.to_dict()))
    for runs in data["rows"].values():
        for run in runs:
            for name in ("cost", "stages"):
                run["report"].pop(name)
    return data


@pytest.mark.parametrize("stopped_in", ["the first row", "the last row", "between the rows"])
def test_killed_and_resumed_it_ends_with_the_same(
    stopped_in, classifier, given, tmp_path, monkeypatch, work
):
    methods = ["finetune", "bn_recalibration"]
    tiny = {"steps": 4, "batch_size": 16, "evaluations": 2, "learning_rate": 0.001}
    run = {"methods": methods, "seeds": [0, 1], **tiny, **given}
    monkeypatch.setattr(shelf, "draw", lambda *_: None)
    whole = compare(classifier, output_dir=tmp_path / "whole", **run)
    owner, name, nth = {
        "the first row": (Batches, "take", 3),
        "the last row": (bn_recalibration, "recalibrate", 1),
        "between the rows": (shelf, "write", 2),
    }[stopped_in]
    calls, real = [], getattr(owner, name)

    class Killed(BaseException):
        """What stands for a kill."""

    def dies(*arguments, **options):
        calls.append(name)
        if len(calls) == nth:
            raise Killed
        return real(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, dies)
        with pytest.raises(Killed):
            compare(classifier, output_dir=tmp_path / "killed", **run)
    done = len(list((tmp_path / "killed").rglob(REPORT)))
    work.clear()
    resumed = compare(classifier, output_dir=tmp_path / "killed", **run)
    assert work["run_method"] == 4 - done, "finished rows are not computed anew"
    assert without_costs(resumed) == without_costs(whole)
    assert without_costs(read_comparison(tmp_path / "killed")) == without_costs(whole)


def test_rows_and_seeds_can_be_added(classifier, given, tmp_path, work):
    first = compare(classifier, methods={"good": Mend()}, output_dir=tmp_path, **given)
    more = compare(classifier, methods=BOTH, seeds=[0, 1], output_dir=tmp_path, **given)
    assert work["run_method"] == 4 and more.rows["good"].reports[0] == first.rows["good"].report


def test_what_failed_is_tried_again(classifier, given, tmp_path, monkeypatch, work):
    methods = {"sometimes": Mend(fails=0), "good": Mend()}
    made = compare(classifier, methods=methods, output_dir=tmp_path, **given)
    assert made.rows["sometimes"].kind == "failed" and read_comparison(tmp_path) == made
    repair = Mend.repair

    def mended(self, model, data, runtime):
        return repair(Mend(), model, data, runtime)

    monkeypatch.setattr(Mend, "repair", mended)
    work.clear()
    again = compare(classifier, methods=methods, output_dir=tmp_path, **given)
    assert again.rows["sometimes"].kind == "helpful" and work["run_method"] == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": {"good": Mend(fails=7)}}, "options"),
        ({"methods": {"good": Shift()}}, 'method: "mend" then, "shift" now'),
        ({"retain": None}, "data: "),
        ({"diagnose": True}, "data: diagnose false then, true now"),
    ],
)
def test_another_comparison_is_refused_and_nothing_is_lost(
    changes, message, classifier, given, tmp_path, work
):
    compare(classifier, methods={"good": Mend()}, output_dir=tmp_path, **given)
    before, run = files(tmp_path), {"methods": {"good": Mend()}} | given | changes
    work.clear()
    with pytest.raises(OutputError, match=message):
        compare(classifier, output_dir=tmp_path, **run)
    assert files(tmp_path) == before and not work
    if "retain" in changes:
        compare(classifier, output_dir=tmp_path, overwrite=True, **run)
        assert work["run_method"] == 1


def test_a_folder_of_something_else_is_refused(classifier, given, tmp_path, work):
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(OutputError, match="holds precious.txt"):
        compare(classifier, methods=BOTH, output_dir=tmp_path, overwrite=True, **given)
    with pytest.raises(OptionError, match="saved in one folder"):
        compare(
            classifier,
            methods={"a b": Mend(), "a/b": Shift()},
            output_dir=tmp_path / "out",
            **given,
        )
    assert not work and (tmp_path / "precious.txt").read_text() == "mine"
    with pytest.raises(ConfigError, match="holds no comparison"):
        read_comparison(tmp_path)


def test_a_full_disk_is_no_fault_of_a_method(classifier, given, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("timm_repair.hub.saving.safetensors.torch.save_file", full)
    with pytest.raises(RepairError, match="No space left") as caught:
        compare(classifier, methods=BOTH, output_dir=tmp_path, **given)
    assert any("goes on in" in note for note in caught.value.__notes__)


@pytest.mark.parametrize(
    ("label", "folder"),
    [
        ("finetune layer1+layer2", "finetune-layer1+layer2"),
        ("../up", "up"),
        ("a/b\\c", "a-b-c"),
        ("…", "row"),
        ("x" * 300, "x" * 100),
    ],
)
def test_labels_make_names_of_folders(label, folder, tmp_path):
    assert shelf.place(tmp_path, label, 7) == tmp_path / "seed-7" / folder


# ---- the paper's protocol


def test_the_papers_protocol_draws_failures_from_the_test_set(
    classifier, given, pictures, monkeypatch
):
    monkeypatch.setattr(protocols, "FAILURES", 30)
    test = pictures["pool"][:300]  # 60 of the two confused classes
    run = given | {"failures": test, "protocol": "paper"}
    made = compare(classifier, methods={"good": Mend()}, seeds=[0, 1], **run)
    assert made.protocol == "paper" and made.populations == (REST, "clean")
    reports = list(made.rows["good"].reports.values())
    for report in reports:
        rest = report.population(REST)
        assert rest.n == 270 and rest.fixed == 30 and rest.accuracy_before == 240 / 270
        parts = [report.provenance["failing"]["n"], report.provenance["selection"]["failing"]["n"]]
        assert sum(parts) == 30 and "failing" not in report.provenance["holdout"]
    assert (
        reports[0].population(REST).labels.tolist() != reports[1].population(REST).labels.tolist()
    )
    told = " ".join(str(made).split())
    assert (
        "Protocol 'paper': as in the paper, the failures (30) were drawn from the test set" in told
    )
    assert "88.9% of it right, and 80.0% of the whole" in told


def test_copies_of_what_was_drawn_are_not_measured(classifier, given, pictures):
    test = [*pictures["pool"][:60], *pictures["pool"][:60]]
    run = given | {"failures": test, "protocol": "paper"}
    made = compare(classifier, methods={"good": Mend()}, **run)
    rest = made.rows["good"].report.population(REST)
    assert rest.n == 48 and rest.accuracy_before == 1, "all failures, and their copies, were drawn"


def test_a_test_set_without_failures_is_refused(classifier, given, pictures):
    right = [pair for pair in pictures["pool"][:100] if pair[1] > 1]
    with pytest.raises(RepairError, match="gets all 80 examples of the test set right"):
        compare(classifier, methods=BOTH, **given | {"failures": right, "protocol": "paper"})


def test_a_diagnosis_that_all_rows_share_is_in_none_of_their_times(classifier, given, monkeypatch):
    monkeypatch.setattr(shared, "looked_at", lambda model, data, *_, **__: (data, Evidence({})))
    made = compare(classifier, methods=BOTH, **given | {"diagnose": True})
    notes = [report.notes for row in made.rows.values() for report in row.reports.values()]
    assert len(notes) == 2 and all("diagnosed once" in " ".join(each) for each in notes)
    assert str(made).count("diagnosed once") == 1, "told once"
