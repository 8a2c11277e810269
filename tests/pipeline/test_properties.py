"""Repairs of networks with properties, whose violating regions are known exactly."""

import dataclasses
import json
import math

import networks as made
import pytest
import torch
from states import unchanged

import timm_repair
from timm_repair.cli import main
from timm_repair.errors import NoFailuresError, OptionError, PartitionError, PropertyError
from timm_repair.methods.method import Outcome
from timm_repair.properties import networks as files
from timm_repair.properties import pac, vnnlib
from timm_repair.properties.preparing import is_property, prepare
from timm_repair.properties.property import Property
from timm_repair.properties.sampling import Sampling, outputs_of
from timm_repair.properties.vectors import Judge, Vectors
from timm_repair.report.report import Report
from timm_repair.runtime.runtime import Runtime
from timm_repair.training.imitation import neighbours
from timm_repair.training.job import Job
from timm_repair.training.objective import objective
from timm_repair.training.options import Choosing, Training
from timm_repair.training.populations import Populations
from timm_repair.training.prefix.forward import Forward

FEW = Sampling(violations=100, draws=20_000, retained=300, ascent=10, epsilon=0.01, eta=0.01)
BUDGET = {"steps": 60, "batch_size": 32, "learning_rate": 0.05, "progress": False, "data": FEW}


def unsafe(answer: str = "highest", text: str = made.UNSAFE) -> Property:
    return vnnlib.parse(text, name="unsafe", answer=answer)


METHODS = {
    "birdnn_retrain": {"learning_rate": 0.02, "steps": 150},
    "birdnn_finetune": {"particles": 10},
    "birdnn": {"particles": 10},
    "care": {"particles": 10, "steps": 20},
    "arachne": {"population": 10, "steps": 20},
    "finetune": {"hflip": 0.5, "shift": 0.1},
    "finetune layer": {"method": "finetune", "level": "layer", "block": "0"},
    "linear_program": {"limit": 10.0},
}


@pytest.mark.parametrize("answer", ["highest", "lowest"])
@pytest.mark.parametrize("label", METHODS)
def test_every_method_repairs_a_network_with_a_property(label, answer):
    """For the lowest the network's outputs are exchanged: the same inputs violate."""
    network = made.ramp()
    if answer == "lowest":
        text = made.UNSAFE.replace("(<= Y_1 Y_0)", "(<= Y_0 Y_1)")
        with torch.no_grad():
            network[2].weight.neg_()
            network[2].bias.neg_()
    else:
        text = made.UNSAFE
    prop, options = unsafe(answer, text), BUDGET | {"method": label} | METHODS[label]
    with unchanged(network):
        repaired = timm_repair.repair(network, prop, **options)
        again = timm_repair.repair(network, prop, **options)
    assert [type(m) for m in repaired.model.modules()] == [type(m) for m in network.modules()]
    assert not repaired.model._forward_hooks
    assert all(
        torch.equal(a, b)
        for a, b in zip(repaired.model.parameters(), again.model.parameters(), strict=True)
    )
    (checked,) = repaired.report.properties
    assert abs(checked["before"]["rate"] - 0.4) < 0.15 and checked["samples"] == pac.samples_needed(
        0.01, 0.01
    )
    assert checked["after"]["rate"] < checked["before"]["rate"]
    inputs = torch.rand(2000, 2)
    rate = (
        prop.violated(outputs_of(repaired.model, inputs), torch.zeros(2000, dtype=torch.long))
        .float()
        .mean()
    )
    low, high = pac.interval(checked["after"]["violations"], checked["samples"], level=1 - 1e-6)
    assert low - 0.05 <= rate <= high + 0.05, "the report says what one measures by hand"
    assert Report.from_dict(json.loads(json.dumps(repaired.report.to_dict()))) == repaired.report
    assert "Properties" in str(repaired.report) and checked["pac"]["statement"] in " ".join(
        repaired.report.notes
    )


def test_splits_share_no_input_and_labels_are_those_of_neighbours():
    data = prepare(
        made.ramp(),
        unsafe(),
        retain=None,
        holdout=None,
        options=FEW,
        runtime=Runtime(progress=False),
    )
    sets = [data.failing, data.retained, *data.selection.values(), *data.holdout.values()]
    keys = [key for each in sets for key in each.keys]
    assert len(keys) == len(set(keys))
    for name in ("failing", "retained", "passing"):
        parts = (data.train.get(name), data.selection[name], data.holdout.get(name))
        for images in filter(None, parts):
            assert set(images.labels.tolist()) == {1}, (
                "the only answer that is allowed in the square"
            )
            assert ((images.inputs[:, 0] >= 0.6) == (name == "failing")).all()
    assert data.violation_rate == pytest.approx(0.4, abs=0.02)


@pytest.mark.parametrize(
    ("slope", "threshold", "mended", "new"),
    [
        (1, 0.99, 0, 0.0),  # as it was
        (1, 2.0, 1, 0.0),  # nothing violates
        (1, 0.98, 0, 0.01),  # twice as much does
        (-1, -0.05, 1, 0.05),  # what did does not, and five times as much elsewhere does
    ],
)
def test_new_violations_outweigh_rare_ones_that_were_mended(slope, threshold, mended, new):
    """A hundredth of the square violates, where x_0 >= 0.99."""
    options = dataclasses.replace(FEW, retained=4000)
    runtime = Runtime(progress=False)
    data = prepare(
        made.ramp(0.99), unsafe(), retain=None, holdout=None, options=options, runtime=runtime
    )
    assert data.violation_rate == pytest.approx(0.01, rel=0.3)
    assert len(data.selection["passing"]) == 10_000
    repaired = made.ramp(threshold)
    repaired[2].weight.data[0, 0] = slope
    forward = Forward(repaired, Populations(data, Training(), runtime), runtime)
    retained = data.selection["retained"].inputs
    right = (slope * retained[:, 0] < threshold).double().mean().item()
    expected = (mended - 100 * new + right) / 2
    found = objective(forward, data, Choosing(max_clean_loss=None, max_class_loss=None))
    assert found == pytest.approx(expected, abs=25 * new + 0.01)


def test_a_repair_that_breaks_another_property_says_so():
    """Where x_0 is from 0.25 to 0.3 the second property asks for output 0, which is the answer
    there; the first asks for 1 everywhere. No network has both.
    """
    network, first = made.ramp(0.2), unsafe()
    second = Property.allowing("second", [0.25, 0], [0.3, 1], [0], outputs=2, answer="highest")
    given = BUDGET | {"method": "linear_program", "limit": 10.0, "progress": False}
    report = timm_repair.repair(network, [first, second], **given).report
    mended, broken = report.properties
    assert mended["before"]["rate"] > 0.7 and mended["after"]["rate"] < 0.1
    assert broken["before"]["violations"] == broken["before"]["searched"] == 0
    assert broken["after"]["rate"] > 0.5 and not broken["pac"]["holds"]
    assert broken["drawdown"]["violate_now"] == broken["after"]["violations"]
    said = "\n".join(report.notes)
    assert "second, box 1: the repair BROKE it" in said
    assert "the repair mends unsafe and breaks second" in said
    assert all(math.isclose(each["pac"]["eta"], 0.005) for each in report.properties), (
        "the statements hold together"
    )
    assert "second" in str(report) and "unsafe" in str(report)


@dataclasses.dataclass(frozen=True)
class Nothing:
    """A method that repairs nothing."""

    training: Training = Training()
    name = "nothing"

    def repair(self, model, data, runtime):
        return Outcome(model)


@pytest.mark.filterwarnings("ignore::timm_repair.NoEffectWarning")
def test_counterexamples_that_remain_are_reported():
    prop, network = unsafe(), made.ramp()
    (checked,) = timm_repair.repair(network, prop, method=Nothing(), data=FEW).report.properties
    assert checked["before"] == checked["after"] and checked["drawdown"]["changed_answers"] == 0
    inputs = torch.tensor(checked["counterexamples"])
    assert len(inputs) == FEW.counterexamples and prop.regions[0].holds(inputs).all()
    assert prop.violated(outputs_of(network, inputs), torch.zeros(len(inputs), dtype=int)).all()


def test_a_search_finds_what_no_sample_does():
    """The violating strip is a ten-thousandth of the square: none of 459 samples is in it."""
    given = {"method": Nothing(), "data": dataclasses.replace(FEW, ascent=60), "progress": False}
    with pytest.warns(timm_repair.NoEffectWarning):
        report = timm_repair.repair(made.ramp(1 - 1e-4), unsafe(), **given).report
    (checked,) = report.properties
    assert checked["after"]["violations"] == 0 and checked["after"]["searched"] > 0
    assert checked["pac"]["holds"] and checked["counterexamples"]
    assert "the property does not hold" in "\n".join(report.notes)


def test_a_property_of_values_is_repaired_by_outputs_and_not_by_labels():
    """y_0 must stay below -0.2 of outputs (x_0 - 0.9, 1): the answer is 1 wherever one looks."""
    network = made.ramp(0.9)
    with torch.no_grad():
        network[2].bias[1] = 1.0
    text = f"{made.declared()}\n{made.box()}\n(assert (>= Y_0 -0.2))"
    options = BUDGET | {"learning_rate": 0.02, "steps": 150, "method": "birdnn_retrain"}
    report = timm_repair.repair(network, unsafe(text=text), **options).report
    (checked,) = report.properties
    assert abs(checked["before"]["rate"] - 0.3) < 0.1 and checked["after"]["rate"] < 0.05
    assert "labels teach nothing about them" in "\n".join(report.notes)


def test_an_allowed_answer_is_right_whatever_its_label():
    """Selection goes by violations: of three outputs only 0 is forbidden."""
    prop = Property.allowing("not 0", [0, 0], [1, 1], [1, 2], outputs=3, answer="highest")
    inputs, labels = torch.rand(3, 2), torch.tensor([1, 1, 1])
    logits = torch.tensor([[0.0, 2.0, 1.0], [0.0, 1.0, 2.0], [3.0, 1.0, 2.0]])
    for strict, right in ((False, [True, True, False]), (True, [True, False, False])):
        vectors = Vectors(inputs, labels, Judge((prop,)), name="any", strict=strict)
        assert vectors.right(logits, torch.arange(3)).tolist() == right
        assert vectors.margins(logits, torch.arange(3)).tolist() == [2, 2, -1]
    negated = Vectors(inputs, labels, Judge((prop,), -1), name="any", strict=False)
    assert negated.right(-logits, torch.arange(3)).tolist() == [True, True, False]
    outside = Vectors(inputs + 5, labels, Judge((prop,)), name="any", strict=False)
    assert (
        outside.right(logits, torch.arange(3)).all()
        and outside.margins(logits, torch.arange(3)).isinf().all()
    )


@pytest.mark.parametrize("margin", [0.0, 0.5, 100.0])
def test_neighbours_are_well_behaved_by_the_margin(margin):
    """A violation is x_0 >= 0.6, and the margin of the others 0.6 - x_0."""
    runtime = Runtime(progress=False)
    data = prepare(made.ramp(), unsafe(), retain=None, holdout=None, options=FEW, runtime=runtime)
    found = neighbours(
        Job(made.ramp(), data, Training(), runtime), made.ramp(), most=1000, margin=margin
    )
    margins = 0.6 - data.retained.inputs[:, 0]
    asked = min(margin * margins.std(), margins.quantile(0.9))
    assert (found.rows >= 0).all() and (margins[found.rows] >= asked - 1e-4).all()
    assert (margins[found.rows] - asked).min() < 0.02, "of those the nearest"


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"failures": Property.allowing("three", [0, 0, 0], [1, 1, 1], [0], outputs=2)},
            PropertyError,
            "does not take 3 numbers",
        ),
        (
            {"failures": Property.allowing("five", [0, 0], [1, 1], [0], outputs=5)},
            PropertyError,
            "about 5 outputs, but the network has",
        ),
        (
            {"failures": Property.allowing("held", [0, 0], [0.5, 1], [1], outputs=2)},
            NoFailuresError,
            "no violation of held was found",
        ),
        ({"failures": [unsafe(), unsafe()]}, PropertyError, "one name"),
        ({"method": "archrepair"}, PartitionError, "no block of Sequential can be repaired"),
        ({"retain": "train/"}, ValueError, "retain= is numbers"),
        ({"holdout": torch.rand(9, 2)}, OptionError, "holdout= is not used"),
        ({"data": timm_repair.DataOptions()}, OptionError, "is a properties.sampling.Sampling"),
        ({"retain": torch.rand(9, 3)}, ValueError, "retain= is finite inputs of shape"),
        ({"failures": "absent.vnnlib"}, PropertyError, "cannot read the property"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(change, error, message):
    with pytest.raises(error, match=message):
        timm_repair.repair(
            made.ramp(), **{"failures": unsafe(), "method": "finetune", **BUDGET} | change
        )


def test_properties_are_told_from_other_failures():
    assert (
        is_property(unsafe()) and is_property("a/b.vnnlib") and is_property(["a.vnnlib", unsafe()])
    )
    assert not is_property("photos/") and not is_property([]) and not is_property([("image", 1)])


def test_compare_sets_methods_side_by_side():
    comparison = timm_repair.compare(
        made.ramp(), unsafe(), methods=["finetune", "birdnn_retrain"], **BUDGET
    )
    rates = [report.properties[0]["before"] for report in comparison.reports.values()]
    assert len(rates) == 2 and rates[0] == rates[1] and str(comparison)


def test_from_files_to_files_on_the_command_line(tmp_path, capsys):
    files.save(made.ramp(), tmp_path / "net.onnx")
    (tmp_path / "unsafe.vnnlib").write_text(
        made.UNSAFE.replace("(assert (<= Y_1 Y_0))", "(assert (and (<= Y_1 Y_0) (<= -1 Y_0)))")
    )
    arguments = [
        "repair",
        "--model",
        str(tmp_path / "net.onnx"),
        "--property",
        str(tmp_path / "unsafe.vnnlib"),
        "--method",
        "finetune",
        "--output",
        str(tmp_path / "out"),
        "--set",
        "steps=40",
        "--data",
        "violations=100",
        "--data",
        "retained=300",
    ]
    assert main(arguments) == 2 and "say it, with --answer" in capsys.readouterr().err
    assert main([*arguments, "--answer", "highest"]) == 0
    assert {"network.onnx", "network.nnet", "repair.json"} <= {
        path.name for path in (tmp_path / "out").iterdir()
    }
    networks = [files.load(tmp_path / "out" / f"network{suffix}") for suffix in files.SUFFIXES]
    assert all(torch.equal(a, b) for a, b in zip(*(n.parameters() for n in networks), strict=True))
    assert main(["report", str(tmp_path / "out")]) == 0 and "Properties" in capsys.readouterr().out
