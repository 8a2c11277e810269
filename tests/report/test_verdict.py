"""The verdict: harmful, helpful or unclear, from the numbers of the holdouts; said first."""

import dataclasses

import pytest
import torch
from report.report_examples import report, scores

from timm_repair.hub import card
from timm_repair.report.scores import Scores
from timm_repair.report.verdict import Verdict
from timm_repair.report.wording import UNHELD

BETTER = scores("blurred", kept=370, broken=30, fixed=280, missed=320)
WORSE = scores("clean", kept=700, broken=60, fixed=20, missed=220)
SAME = scores("clean", kept=780, broken=12, fixed=9, missed=199)
FIXED = scores("failing", kept=0, broken=0, fixed=61, missed=39)
UNFIXED = scores("failing", kept=0, broken=0, fixed=0, missed=40)
FEW = scores("clean", kept=7, broken=3, fixed=0, missed=0)


@pytest.mark.parametrize(
    ("measured", "kind", "begin", "also"),
    [
        ((BETTER, SAME), "helpful", "Helpful: better than the original on 'blurred'", "no change"),
        ((BETTER, WORSE), "harmful", "Harmful: worse than the original on 'clean'", "Better than"),
        ((WORSE,), "harmful", "Harmful: worse than the original on 'clean'", "Worst class"),
        ((SAME,), "unclear", "Unclear: no change beyond chance on 'clean'", "within chance"),
        ((FIXED, SAME), "helpful", "Helpful: 61 of 100 fixed in 'failing'", "no change beyond"),
        ((FIXED, WORSE), "harmful", "Harmful: worse than", "61 of 100 fixed"),
        ((FIXED,), "unclear", "Unclear: 61 of 100 fixed", "What it broke is not known"),
        ((UNFIXED, SAME), "unclear", "Unclear: no change", "0 of 40 fixed"),
        ((FEW,), "unclear", "Unclear: no change beyond chance", "Worst class"),
    ],
)
def test_the_first_sentence_is_the_verdict(measured, kind, begin, also):
    verdict = Verdict.of(measured)
    assert (verdict.kind, verdict.harmful) == (kind, kind == "harmful")
    assert verdict.sentences[0].startswith(begin) and also in str(verdict)


def test_a_limit_that_was_not_held_is_in_the_first_sentence():
    noted = report(scores=(BETTER, SAME), notes=(f"{UNHELD}: all of them", "more"))
    first = noted.verdict.sentences[0]
    assert first.endswith(f"; {UNHELD} when it was chosen.")
    assert UNHELD not in report(scores=(BETTER, SAME)).verdict.sentences[0]
    assert first in " ".join(str(noted).split())


def test_it_tells_the_change_with_its_interval_and_test():
    (low, high), p = WORSE.intervals().change, WORSE.p_value
    first = Verdict.of([WORSE]).sentences[0]
    assert f"-4.0 [{100 * low:+.1f}, {100 * high:+.1f}] points" in first and high < 0
    assert "76.0 -> 72.0 %" in first and f"p {p:.0e}" in first


def test_damage_to_one_class_is_not_hidden_behind_the_mean():
    labels = torch.arange(1000) % 10
    before, after = labels.clone(), labels.clone()
    lost, won = (labels == 2).nonzero()[:40, 0], (labels == 3).nonzero()[:38, 0]
    after[lost], before[won] = 5, 4  # 40 of a hundred birds lost, 38 cats won
    hidden = Scores("clean", labels, before, after)
    names = ("plane", "car", "bird", "cat", *"efghij")
    verdict = Verdict.of([hidden], names=names)
    assert verdict.kind == "unclear"
    assert "Worst class on 'clean': 'bird' (100.0 -> 60.0 % of 100; -40.0 [" in str(verdict)
    assert "within chance" not in str(verdict)
    assert "'class 2'" in str(Verdict.of([hidden])), "without names the index"
    per_class = hidden.by_class()
    assert list(per_class) == list(range(10)) and per_class[2].broken == 40
    assert sum(each.n for each in per_class.values()) == 1000


@pytest.mark.parametrize(
    ("found", "contradicted"),
    [
        ((160, 0, 10), True),
        ((150, 10, 10), True),
        ((1000, 372, 1000), False),
        ((100, 12, 2), True),
        ((100, 70, 2), False),
        ((4, 0, 10), False),
    ],
)
def test_labels_that_the_original_contradicts_wholesale_are_said_first(found, contradicted):
    asked, right, classes = found
    read = {"accuracy": right / asked, "asked": asked, "classes": dict.fromkeys(range(classes))}
    verdict = Verdict.of([BETTER, SAME], retained=read)
    assert verdict.harmful == contradicted
    said = f"it has {right} of {asked} as they say"
    assert (said in verdict.sentences[0]) == contradicted == (said in str(verdict))


@pytest.mark.parametrize("worse", [True, False])
def test_report_and_card_begin_with_it(worse):
    made = report(scores=(BETTER, WORSE if worse else SAME))
    assert str(made).startswith("Harmful: worse" if worse else "Helpful: better")
    shown = card.render(made)
    body = shown[shown.index("# Model card") :].splitlines()[1:]
    first = next(line for line in body if line)
    assert first.startswith("**Harmful: worse" if worse else "**Helpful: better")


def test_ten_examples_that_did_not_change_do_not_show_that_none_does():
    low, high = scores(kept=10, broken=0, fixed=0, missed=0).intervals().change
    assert low < -0.1 and high > 0.1
    low, high = scores(kept=9990, broken=0, fixed=0, missed=10).intervals().change
    assert -0.001 < low < 0 < high < 0.001


def test_names_in_it_are_harmless():
    evil = dataclasses.replace(WORSE, population="a\x1b[31m|**b**")
    shown = str(report(scores=(evil,)))
    assert "\x1b" not in shown
    assert "\\*\\*b\\*\\*" in card.render(report(scores=(evil,)))
