import json
from fractions import Fraction
from math import comb
from pathlib import Path

import numpy as np
import pytest
import torch
from report.report_examples import genotype, localization, report, scores, two_blocks, weights_only

from timm_repair.errors import ConfigError, DataError, OptionError
from timm_repair.report.report import Report
from timm_repair.report.scores import Scores
from timm_repair.report.suspects import number, tie


def test_scores_count_each_outcome():
    found = scores(kept=5, broken=2, fixed=3, missed=10)
    assert (found.n, found.fixed, found.broken) == (20, 3, 2)
    assert (found.accuracy_before, found.accuracy_after) == (7 / 20, 8 / 20)
    assert found.change == pytest.approx(1 / 20) and found.negative_flip_rate == 2 / 20


@pytest.mark.parametrize(("fixed", "broken"), [(0, 0), (1, 0), (9, 2), (3, 8)])
def test_p_value_is_the_exact_binomial_tail(fixed, broken):
    flips = fixed + broken
    chances = [Fraction(comb(flips, k), 2**flips) for k in range(flips + 1)]
    exact = sum(p for p in chances if p <= chances[fixed])
    assert scores(fixed=fixed, broken=broken).p_value == pytest.approx(float(exact))


def test_intervals_agree_with_resampling_the_examples():
    found = scores(kept=120, broken=20, fixed=60, missed=50)
    right = np.stack(
        [(found.before == found.labels).numpy(), (found.after == found.labels).numpy()]
    )
    draws = right[:, np.random.default_rng(1).integers(0, found.n, (4000, found.n))].mean(2)
    slow = [
        np.quantile(values, (0.025, 0.975)) for values in (draws[0], draws[1], draws[1] - draws[0])
    ]
    np.testing.assert_allclose(found.intervals(), slow, atol=0.012)
    assert found.intervals(seed=3) == found.intervals(seed=3) != found.intervals(seed=4)


def test_paired_interval_is_narrower_than_those_of_the_accuracies():
    found = scores(kept=500, broken=5, fixed=5, missed=490).intervals()
    assert found.change[1] - found.change[0] < (found.before[1] - found.before[0]) / 2


@pytest.mark.parametrize(
    ("labels", "before", "after"),
    [
        ([0, 1], [0, 1], [0]),
        ([], [], []),
        ([[0]], [[0]], [[0]]),
        ([0.5], [0.0], [1.0]),
        ([True], [True], [False]),
    ],
)
def test_scores_refuse_what_is_not_one_class_per_example(labels, before, after):
    with pytest.raises(DataError, match="failing"):
        Scores("failing", *(torch.tensor(each) for each in (labels, before, after)))


def test_intervals_refuse_bad_levels():
    with pytest.raises(OptionError):
        scores().intervals(level=95)


@pytest.mark.parametrize(
    "made",
    [report(), two_blocks(), weights_only()],
    ids=["archrepair", "two blocks", "weights only"],
)
def test_report_survives_json(made):
    assert Report.from_dict(json.loads(json.dumps(made.to_dict(), allow_nan=False))) == made


def test_report_records_foreign_objects_as_plain_json():
    made = report(
        options={
            "path": Path("a") / "b",
            "score": scores,
            "pair": (1, 2),
            "nan": float("nan"),
            "k": np.int64(3),
        }
    )
    assert made.options == {
        "path": "a/b",
        "score": "report.report_examples.scores",
        "pair": [1, 2],
        "nan": None,
        "k": 3,
    }
    assert Report.from_dict(made.to_dict()) == made


def test_report_does_not_share_the_callers_dicts():
    options = {"steps": [1]}
    made = report(options=options)
    options["steps"].append(2)
    assert made.options == {"steps": [1]}


def test_report_refuses_two_scores_of_one_population():
    with pytest.raises(DataError):
        report(scores=(scores(), scores()))


def test_population_by_name():
    assert report().population("retained").population == "retained"
    with pytest.raises(OptionError, match="did you mean 'retained'"):
        report().population("retaned")


def damaged(**changes) -> dict:
    return report().to_dict() | changes


def version_1(made: Report) -> dict:
    """What the version before wrote for a repair of one block, or of none."""
    old = made.to_dict() | {"version": 1, "block": made.block, "genotype": made.genotype}
    del old["repaired_blocks"], old["genotypes"]
    return json.loads(json.dumps(old))


@pytest.mark.parametrize(
    "made",
    [report(), weights_only(), report(genotypes={})],
    ids=["archrepair", "network", "finetuned block"],
)
def test_a_report_of_version_1_is_read(made):
    read = Report.from_dict(version_1(made))
    assert read == made and str(read) == str(made)
    with pytest.raises(ConfigError):
        Report.from_dict(
            {name: value for name, value in version_1(made).items() if name != "block"}
        )


def test_one_block_is_the_first_of_several():
    made = two_blocks()
    assert (made.block, made.genotype) == ("layer1", made.genotypes["layer1"])
    assert (weights_only().block, weights_only().genotype) == (None, None)
    assert report(genotypes={}).genotype is None


@pytest.mark.parametrize(
    "data",
    [
        {},
        damaged(version=99),
        damaged(extra=1),
        damaged(scores=[{"population": "a"}]),
        damaged(version="1"),
        [],
    ],
)
def test_from_dict_refuses_what_to_dict_did_not_write(data):
    with pytest.raises(ConfigError):
        Report.from_dict(data)


def test_print_tells_the_story():
    shown = str(report())
    for expected in (
        "resnet18_cifar10",
        "<- repaired",
        "input of 0 --sep_conv--> input of 1",
        "280",
        "loss had become unstable",
    ):
        assert expected in shown
    longest = max(shown.splitlines(), key=lambda line: line.count("#"))
    assert "layer3" in longest


def test_print_tells_errors_gains_ties_and_neurons():
    shown = str(report(localization=localization(), repaired_blocks=("layer1",)))
    lines = shown.splitlines()
    assert next(line for line in lines if "<- repaired" in line).split()[:3] == [
        "layer1",
        "0.24",
        "0.31",
    ]
    assert next(line for line in lines if "<- tied" in line).split()[:5] == [
        "layer2",
        "0.210",
        "±",
        "0.016",
        "0.27",
    ]
    assert (
        "±: standard error of the distance from the most suspicious block. Gain: by how much"
        in " ".join(lines)
    )
    assert (
        "layer1 and layer2 cannot be told apart on these examples (within two standard errors);"
        in " ".join(lines)
    )
    assert "`blocks=2` repairs both" in " ".join(lines)
    table = lines[next(i for i, line in enumerate(lines) if "wrong (of 512)" in line) :][:12]
    assert (
        table[1].split() == ["layer1.0.conv1", "0", "0.9", "500", "0"]
        and table[10].split()[1] == "63"
        and table[11] == ""
    )


def test_print_names_every_repaired_block():
    shown = " ".join(str(two_blocks()).split())
    assert "Repaired blocks: layer1, layer2" in shown and "both were repaired" in shown
    assert "Architecture in layer1" in shown and "Architecture in layer2" in shown
    assert "Architecture (unit level)" in str(report()), "no name where there is one"


@pytest.mark.parametrize(
    ("names", "errors", "expected"),
    [
        ("a", {"a": 1.0}, ""),
        (
            "ab",
            {},
            (
                "a and b cannot be told apart on these examples (their scores are equal);"
                " `blocks=2` repairs both."
            ),
        ),
        (
            "abc",
            {"c": 0.1},
            (
                "a, b and c cannot be told apart on these examples (within two standard errors);"
                " `blocks=3` repairs all of them."
            ),
        ),
        (
            "abcdefg",
            {},
            (
                "a, b, c and 4 more cannot be told apart on these examples (their scores are"
                " equal); `blocks=7` repairs all of them."
            ),
        ),
    ],
)
def test_a_tie_is_one_sentence(names, errors, expected):
    assert tie({"tied": list(names), "errors": errors}, ["a"]) == expected
    assert tie({}) == ""


@pytest.mark.parametrize(
    ("value", "error", "expected"),
    [
        (0.123456, None, "0.1235"),
        (None, 0.1, "-"),
        (33.0, 0.0, "33"),
        (0.123456, 0.0123, "0.123 ± 0.012"),
        (0.5, 0.096, "0.500 ± 0.096"),
        (812.3, 41.2, "812 ± 41"),
        (1.234e-7, 1.1e-8, "1.23e-07 ± 1.1e-08"),
        (-0.2, 0.3, "-0.20 ± 0.30"),
    ],
)
def test_a_score_is_shown_to_the_decimal_of_its_error(value, error, expected):
    assert number(value, error) == expected


def test_print_says_what_was_not_done():
    assert "forgetting could not be measured" in str(weights_only())
    assert "changes weights only" in str(weights_only())
    assert "no path was added" in str(report(genotypes={"layer3": genotype(())}))


@pytest.mark.parametrize(
    "made",
    [
        report(),
        weights_only(),
        report(
            scores=(scores("n" * 60, kept=30_000, broken=4_000, fixed=6_000, missed=9_999),),
            model="m" * 300,
        ),
        report(
            scores=(scores("none right", kept=0, broken=0, fixed=7, missed=0),),
            notes=("word " * 80,),
        ),
        report(
            localization={
                "scorer": "s" * 90,
                "suspiciousness": {"b" * 70: -0.5, "c": None, "d": 0.25},
            },
            repaired_blocks=("d" * 90,),
        ),
        two_blocks(),
        report(localization=localization(30, 60, tied=[f"layer{index}" for index in range(1, 31)])),
        report(
            localization=localization(
                suspiciousness={"b" * 90: 0.25, "c": 1e-9},
                errors={"b" * 90: 1e-7},
                gains={"b" * 90: -1e-12},
            )
        ),
        report(
            localization={"scorer": "random", "suspiciousness": {}},
            stages=({"name": "s" * 99, "seconds": 1e5, "peak_memory": 0},),
        ),
        report(
            genotypes={"layer3": genotype([(0, 29, "o" * 50)], nodes=30)},
            cost={"before": {"parameters": 7}, "after": {}},
        ),
    ],
)
def test_print_fits_a_terminal(made):
    shown = str(made)
    assert max(map(len, shown.splitlines())) <= 80
    assert "\n\n\n" not in shown


def test_print_shows_no_control_characters():
    shown = str(report(model="a\x1b[31mred\nline", notes=("tab\tand\u202ebidi",)))
    assert not any(ord(char) < 32 for char in shown.replace("\n", "")) and "\u202e" not in shown


def test_markdown_has_a_row_per_population():
    lines = report().to_markdown().splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["failing", "retained"]
