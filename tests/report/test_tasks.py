"""Methods against each other over the comparisons of several tasks."""

import pytest
from report.report_examples import report, scores
from scipy.stats import wilcoxon

from timm_repair.errors import DataError, OptionError
from timm_repair.report.comparison import Comparison
from timm_repair.report.tasks import Tasks, signed_rank


def comparison(*fixed: tuple[int, int]) -> Comparison:
    """Of rows a and b, one seed for each pair of how many they fixed of 600."""

    def reports(row: int):
        return [
            report(seed=seed, scores=(scores(fixed=pair[row], missed=600 - pair[row]),))
            for seed, pair in enumerate(fixed)
        ]

    return Comparison.of({"a": reports(0), "b": reports(1)})


GAINS = [30, 10, -5, 20, 7, 13, 40]


def test_a_task_counts_once_with_the_mean_of_its_seeds():
    tasks = {
        f"task {i}": comparison((300 + g, 300), (300 + g + 2, 300)) for i, g in enumerate(GAINS)
    }
    found = Tasks(tasks).signed_rank("a", "b", "failing")
    assert found.differences == pytest.approx([(gain + 1) / 1000 for gain in GAINS])
    assert (found.better, found.worse) == (6, 1)
    assert found.p_value == pytest.approx(wilcoxon(GAINS).pvalue) == 4 / 128
    each = Tasks(tasks, repeats="each").signed_rank("a", "b", "failing")
    assert len(each.differences) == 14 and each.p_value < found.p_value


def test_it_prints_one_table_a_population():
    shown = str(Tasks({"fog": comparison((330, 300)), "blur": comparison((310, 300))}))
    assert max(map(len, shown.splitlines())) <= 80
    row = next(line for line in shown.splitlines() if line.startswith("b "))
    assert row.split() == ["b", "2", "2", "0", "+2.0", "0.500", "0.500"]
    assert "Of fewer than 6 tasks p cannot be below 0.05." in " ".join(shown.split())


@pytest.mark.parametrize("differences", [[], [0.0], [0.1 + 0.2 - 0.3, 0.0]])
def test_what_does_not_differ_shows_nothing(differences):
    assert signed_rank(differences) == 1


def test_only_what_all_have_is_tested():
    other = Comparison.of({"b": report(), "c": report()})
    tasks = Tasks({"one": comparison((1, 2)), "two": other})
    assert tasks.rows == ("b",) and tasks.populations == ("failing",)
    with pytest.raises(OptionError, match="not all have a row 'a'"):
        tasks.signed_rank("a", "b", "failing")
    with pytest.raises(OptionError, match="not all have a population"):
        tasks.signed_rank("b", "b", "retained")


@pytest.mark.parametrize(
    "given", [{}, {"one": comparison((1, 2)), "two": Comparison.of({"c": report()})}]
)
def test_nothing_in_common_is_refused(given):
    with pytest.raises(DataError):
        Tasks(given)
    with pytest.raises(OptionError, match="did you mean 'each'"):
        Tasks({"one": comparison((1, 2))}, repeats="eachs")
