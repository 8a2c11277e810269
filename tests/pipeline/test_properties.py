"""Repairs of networks with properties, whose violating regions are known exactly."""

import json
import math

import networks as made
import pytest
import torch
from states import unchanged

import timm_repair
from timm_repair.cli import main
from timm_repair.errors import NoFailuresError, OptionError, PropertyError
from timm_repair.properties import networks as files
from timm_repair.properties import pac, vnnlib
from timm_repair.properties.preparing import is_property, prepare
from timm_repair.properties.property import Property
from timm_repair.properties.sampling import Sampling, outputs_of
from timm_repair.report.report import Report
from timm_repair.runtime.runtime import Runtime

FEW = Sampling(violations=100, draws=20_000, retained=300, ascent=10, epsilon=0.01, eta=0.01)
BUDGET = {"steps": 60, "batch_size": 32, "learning_rate": 0.05, "progress": False, "data": FEW}


def unsafe(answer: str = "highest", text: str = made.UNSAFE) -> Property:
    return vnnlib.parse(text, name="unsafe", answer=answer)


METHODS = {
    "birdnn_retrain": {"learning_rate": 0.02, "steps": 150},
    "birdnn_finetune": {"particles": 10},
    "birdnn": {"particles": 10},
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
    for name in ("failing", "retained"):
        for images in (getattr(data, name), data.selection[name], data.holdout[name]):
            assert set(images.labels.tolist()) == {1}, (
                "the only answer that is allowed in the square"
            )
            assert ((images.inputs[:, 0] >= 0.6) == (name == "failing")).all()


def test_a_repair_that_breaks_another_property_says_so():
    """Only where x_0 < 0.3 does the second property ask for output 0; to satisfy the first
    everywhere breaks it.
    """
    network = made.ramp(
        0.2
    )  # violates the first where x_0 >= 0.2, and the second nowhere on [0.25, 0.3]
    first = unsafe()
    second = Property.allowing("second", [0.25, 0], [0.3, 1], [0], outputs=2, answer="highest")
    report = timm_repair.repair(
        network, first, method="linear_program", **BUDGET | {"steps": 1}
    ).report
    assert (
        report.properties[0]["after"]["violations"] < report.properties[0]["before"]["violations"]
    )
    from timm_repair.properties import checking

    results = [
        report.properties[0],
        {
            **report.properties[0],
            "property": "second",
            "before": {"violations": 0, "searched": 0},
            "after": {"violations": 7, "searched": 0},
        },
    ]
    said = checking.notes(results)
    assert any("BROKE" in each for each in said) and any(
        "mends unsafe and breaks second" in each for each in said
    )
    both = timm_repair.repair(network, [first, second], method="finetune", **BUDGET).report
    assert [each["property"] for each in both.properties] == ["unsafe", "second"]
    assert all(math.isclose(each["pac"]["eta"], 0.005) for each in both.properties), (
        "the statements hold together"
    )


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
    rates = [report.properties[0]["before"] for report in comparison.rows.values()]
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
    assert main(arguments) == 2 and "say it, with answer=" in capsys.readouterr().err
    assert main([*arguments, "--answer", "highest"]) == 0
    assert {"network.onnx", "network.nnet", "repair.json"} <= {
        path.name for path in (tmp_path / "out").iterdir()
    }
    networks = [files.load(tmp_path / "out" / f"network{suffix}") for suffix in files.SUFFIXES]
    assert all(torch.equal(a, b) for a, b in zip(*(n.parameters() for n in networks), strict=True))
    assert main(["report", str(tmp_path / "out")]) == 0 and "Properties" in capsys.readouterr().out
