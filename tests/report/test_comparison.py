"""Comparisons as values and as tables: rows, seeds, pairs, failures."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from report.report_examples import report, scores
from scipy import stats

from timm_repair.errors import ConfigError, DataError, OptionError, RepairError
from timm_repair.report.comparison import Comparison
from timm_repair.report.repeats import Repeats, holm
from timm_repair.report.report import Report
from timm_repair.report.rows import Row, Run
from timm_repair.report.scores import Scores


def quick(**changes):
    return report(stages=({"name": "all", "seconds": 12.94, "peak_memory": 0},), **changes)


def answering(after: list[int], population: str = "failing") -> Scores:
    """Ten examples of class 0, all wrong before; after the repair as given."""
    zeros = torch.zeros(len(after), dtype=torch.long)
    return Scores(population, zeros, zeros + 1, torch.tensor(after))


def lines(comparison: Comparison) -> list[str]:
    shown = str(comparison).splitlines()
    assert max(map(len, shown)) <= 80
    return shown


def test_one_table_a_population():
    made = Comparison.of({"finetune network": report(), "archrepair": quick()})
    shown = lines(made)
    failing, retained = (
        next(line for line in shown[shown.index(head) :] if line.startswith("archrepair")).split()
        for head in shown
        if head.endswith("right before")
    )
    assert failing == "archrepair 65.0 +25.0 [+21.8, +27.9] 280 30 3.0 <1e-9".split()
    assert retained[:2] == ["archrepair", "78.9"] and retained[-4:] == ["9", "12", "1.2", "0.664"]
    cost = shown.index("Verdict and cost")
    row = next(line for line in shown[cost:] if line.startswith("archrepair"))
    assert row.split() == "archrepair helpful 0.21x +1.0 % +12.2 [+8.1, +15.0] %".split()


def test_many_populations_and_no_reference():
    many = tuple(scores(f"corruption {index}") for index in range(5))
    shown = str(Comparison.of({"a": quick(scores=many), "b": quick(scores=many)}))
    assert "12.9" in shown and all(f"'corruption {index}'" in shown for index in range(5))


def test_what_harms_is_said_first():
    worse = scores("retained", kept=500, broken=292, fixed=9, missed=199)
    harmful = quick(scores=(report().scores[0], worse))
    first = lines(Comparison.of({"good": quick(), "bad": harmful}))[0]
    assert first.startswith("bad: Harmful: worse than the original on 'retained'")


def test_names_are_shortened_so_that_they_still_differ():
    labels = [f"archrepair of all the blocks, random, number {i}" for i in (1, 2)]
    shown = lines(Comparison.of({label: quick() for label in labels}))
    names = {line[:22] for line in shown if line.startswith("archrepair …")}
    assert {"archrepair …, number 1", "archrepair …, number 2"} == names


def test_budgets_that_differ_are_told():
    def budget(steps, **more):
        return quick(options={"training": {"steps": steps, "batch_size": 128} | more})

    assert "Budget of each: 300 steps of 128." in str(
        Comparison.of({"a": budget(300), "b": budget(300)})
    )
    told = " ".join(lines(Comparison.of({"a": budget(300), "b": budget(50)})))
    assert "The budgets differ" in told and "50 steps of 128 for b" in told
    told = str(Comparison.of({"a": budget(300, seconds=60.0), "b": budget(300, seconds=60.0)}))
    assert "Budget of each: 300 steps of 128 in 60 s, or as many as were made by then." in told


def test_the_class_that_lost_most_is_told_of_each_row():
    labels = torch.tensor([0] * 20 + [1] * 20)
    before = labels.clone()  # all right, but for the first
    before[0] = 1

    def losing(*rows: int) -> Report:
        after = before.clone()
        after[list(rows)] = 1 - labels[list(rows)]
        seen = Scores("clean", labels, before, after), answering([0] * 9)
        return quick(scores=seen, label_names=("cat", "dog"))

    shown = lines(Comparison.of({"a": losing(20, 21, 22), "b": losing(1), "c": losing()}))
    head = next(i for i, line in enumerate(shown) if line.startswith("Class that lost most"))
    assert [line.split()[:7] for line in shown[head + 2 : head + 5]] == [
        ["a", "dog", "clean", "20", "100.0", "->", "85.0"],
        ["b", "cat", "clean", "20", "95.0", "->", "90.0"],
        ["c", "none", "-", "-", "-", "-"],
    ]
    assert "Class that lost most" not in str(Comparison.of({"a": quick(scores=seen_failing())}))


def seen_failing() -> tuple[Scores]:
    """Of what was wrong throughout no class can lose anything."""
    return (answering([0] * 9),)


# ---- rows against each other


def test_pairs_are_mcnemars_on_the_same_examples():
    a = quick(scores=(answering([0] * 9 + [1] * 3),))
    b = quick(scores=(answering([1] * 6 + [0] * 3 + [1] * 3),))
    made = Comparison.of({"a": a, "b": b})
    (pair,) = made.pairs("failing")
    assert (pair.row, pair.other) == ("a", "b")
    assert (pair.found.fixed, pair.found.broken, pair.found.change) == (6, 0, 0.5)
    assert pair.p_value == pytest.approx(2 / 2**6)
    (reverse,) = made.pairs("failing", against="a")
    assert (reverse.row, reverse.found.change) == ("b", -0.5)
    shown = lines(made)
    at = shown.index("a against")
    assert shown[at + 1].split()[0] == "b" and shown[at + 1].split()[-3:] == ["6", "0", "0.031"]
    with pytest.raises(OptionError, match="no population 'faling'; did you mean 'failing'"):
        made.pairs("faling")
    with pytest.raises(OptionError, match="no row 'c'"):
        made.between("a", "c", "failing")


def test_of_many_rows_each_is_held_against_the_reference():
    made = Comparison.of({name: quick() for name in ("a", "b", "finetune network", "d", "e")})
    assert "Against 'finetune network' on 'failing'" in lines(made)
    assert len(made.pairs("failing")) == 10
    assert [pair.row for pair in made.pairs("failing", "b")] == ["a", "finetune network", "d", "e"]


@pytest.mark.parametrize(
    ("given", "corrected"),
    [
        ([0.01, 0.04, 0.03], [0.03, 0.06, 0.06]),
        ([0.5, 0.9], [1.0, 1.0]),
        ([0.02], [0.02]),
        ([], []),
    ],
)
def test_holm(given, corrected):
    assert holm(given) == pytest.approx(corrected)


# ---- several seeds


def repeated(*afters: list[int]) -> Repeats:
    return Repeats(tuple(answering(after) for after in afters), tuple(range(len(afters))))


def test_numbers_of_several_seeds_are_means():
    found = repeated([0] * 6 + [1] * 4, [0] * 8 + [1] * 2)
    assert (found.fixed, found.broken, found.n) == (7, 0, 10)
    assert found.change == pytest.approx(0.7) == found.accuracy_after
    assert found.p_value == pytest.approx(2 / 2**6), "of the less certain seed"


def test_the_interval_covers_other_seeds_and_other_examples():
    apart = repeated(*([0] * n + [1] * (40 - n) for n in (18, 20, 22)))
    middle, (low, high) = apart.change, apart.interval
    assert middle == pytest.approx((low + high) / 2)
    only_seeds = stats.t.ppf(0.975, 2) * np.std([0.45, 0.5, 0.55], ddof=1) / 3**0.5
    assert high - middle > only_seeds
    alike = repeated([0] * 6 + [1] * 4, [0] * 6 + [1] * 4)
    single = repeated([0] * 6 + [1] * 4)
    widths = [high - low for low, high in (alike.interval, single.interval)]
    assert 0.7 < widths[0] / widths[1] < 1.4, "the same examples twice are no more examples"


def test_seeds_that_disagree_show_nothing():
    zeros = torch.zeros(20, dtype=torch.long)
    up = Scores("x", zeros, zeros + 1, zeros)
    down = Scores("x", zeros, zeros, zeros + 1)
    assert up.p_value < 1e-4 and Repeats((up, down), (0, 1)).p_value == 1


def test_rows_of_several_seeds():
    given = [quick(seed=seed) for seed in (0, 1, 2)]
    made = Comparison.of({"a": given, "b": given})
    assert made.seeds == (0, 1, 2) and made.rows["a"].seconds == pytest.approx(12.94)
    shown = lines(made)
    assert "seeds 0, 1 and 2" in " ".join(shown[:2])
    row = next(line for line in shown if line.startswith("a "))
    assert row.split()[-4:-2] == ["280.0", "30.0"]


def test_seeds_may_have_other_examples_but_rows_of_a_seed_may_not():
    other = (scores(missed=321), report().scores[1])
    Comparison.of({"a": [quick(), quick(seed=1, scores=other)]})
    with pytest.raises(DataError, match="differ in labels"):
        Comparison.of({"a": [quick(seed=1)], "b": [quick(seed=1, scores=other)]})
    with pytest.raises(DataError, match="runs of different seeds"):
        Comparison.of({"a": [quick(), quick()]})


# ---- rows that failed


@pytest.fixture
def partly() -> Comparison:
    """One that is whole, one of which a seed failed, one that failed."""
    good = tuple(Run(seed, quick(seed=seed)) for seed in (0, 1))
    broken = Run(1, error="NonFiniteError: the loss is NaN")
    return Comparison(
        {
            "good": Row("good", good),
            "half": Row("half", (good[0], broken)),
            "bad": Row("bad", (replace(broken, seed=0), broken)),
        }
    )


def test_a_row_that_failed_is_a_row(partly):
    shown = lines(partly)
    assert [line.split() for line in shown if line.startswith("bad")][0] == ["bad", "failed"]
    at = shown.index("Failed")
    assert shown[at + 1 : at + 4] == [
        "  half (seed 1): NonFiniteError: the loss is NaN",
        "  bad (seed 0): NonFiniteError: the loss is NaN",
        "  bad (seed 1): NonFiniteError: the loss is NaN",
    ]
    assert any(line.startswith("half") and "helpful 1/2" in line for line in shown)
    assert partly.rows["bad"].kind == "failed" and not partly.rows["bad"].done
    assert list(partly.reports) == ["good", "half"]
    with pytest.raises(RepairError, match="'bad' has no report: NonFiniteError"):
        print(partly.rows["bad"].report)
    assert partly.rows["bad"].repaired is None and partly.rows["bad"].folder is None


def test_pairs_are_of_the_seeds_that_both_have(partly):
    (pair,) = partly.pairs("failing")
    assert (pair.row, pair.other, pair.found.seeds) == ("good", "half", (0,))
    with pytest.raises(RepairError, match="no seed has results of both"):
        partly.between("good", "bad", "failing")


def test_all_may_have_failed():
    made = Comparison({"a": Row("a", (Run(0, error="KeyError: 'x'"),))})
    assert "all of them failed" in lines(made)[0] and "KeyError: 'x'" in str(made)
    assert made.populations == () and made.pairs is not None


def test_a_run_is_done_or_failed():
    with pytest.raises(DataError, match="either a report or the error"):
        Run(0)


# ---- JSON


def test_it_survives_json(partly):
    for made in (partly, Comparison.of({"a": report(), "b": quick()}, protocol="paper")):
        again = Comparison.from_dict(json.loads(json.dumps(made.to_dict())))
        assert again == made and str(again) == str(made)


def test_one_of_before_there_were_seeds_is_read():
    made = Comparison.of({"a": report(), "b": quick()})
    rows = {label: each.to_dict() for label, each in made.reports.items()}
    assert Comparison.from_dict({"version": 5, "rows": rows}) == made


@pytest.mark.parametrize(
    "change",
    [
        {"version": 99},
        {"rows": {"a": [{"seed": 0}]}},
        {"rows": {"a": [3]}},
        {"rows": 3},
        {"more": 1},
    ],
)
def test_a_damaged_one_is_told(change):
    data = Comparison.of({"a": report()}).to_dict() | change
    with pytest.raises(ConfigError):
        Comparison.from_dict(data)


@pytest.mark.parametrize(
    "changed",
    [
        (scores(),),
        (scores(), scores("other")),
        (scores(kept=371, broken=30, missed=319), report().scores[1]),
        (scores(missed=321), report().scores[1]),
    ],
    ids=["population missing", "population renamed", "another original", "another example"],
)
def test_other_examples_are_refused(changed):
    with pytest.raises(DataError, match="holdout"):
        Comparison.of({"a": report(), "b": report(scores=changed)})


def test_other_repairs_of_the_same_model_are_taken():
    better = scores(kept=390, broken=10, fixed=300, missed=300)
    made = Comparison.of({"a": report(), "b": report(scores=(better, report().scores[1]))})
    assert made.rows["b"].report.scores[0] == better


def test_it_needs_a_row():
    with pytest.raises(DataError):
        Comparison({})
