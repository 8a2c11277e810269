"""Verdict: in one sentence whether a repair helped or harmed, then what qualifies it.

It follows from the numbers of a report alone: a holdout counts as worse, or better, where the
interval of its change leaves zero out. So a report of an older version has one too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from timm_repair.report.natural import Natural
from timm_repair.report.scores import Scores
from timm_repair.report.wording import UNHELD, clean, listed, p_text, points

HARMFUL, HELPFUL, UNCLEAR = "harmful", "helpful", "unclear"
# chance-corrected agreement (Cohen's kappa with uniform guesses) below which answers and labels
# have nothing to do with each other
_CONTRADICTED = 0.1
_LEAST = 10  # examples; of fewer no agreement is told


@dataclass(frozen=True)
class Verdict:
    """What came of a repair, in words.

    Args:
        kind: "harmful": worse than the original on a holdout beyond its interval, or the original
            contradicts the labels wholesale. "helpful": better on a holdout beyond its interval,
            or failures fixed, and worse on none of at least one that could get worse. Else
            "unclear".
        sentences: the verdict first; then what qualifies it.
    """

    kind: str
    sentences: tuple[str, ...]

    @property
    def harmful(self) -> bool:
        return self.kind == HARMFUL

    def __str__(self) -> str:
        return " ".join(self.sentences)

    @classmethod
    def of(
        cls,
        scores: Sequence[Scores],
        *,
        seed: int = 0,
        retained: Mapping[str, Any] | None = None,
        names: Sequence[str] | None = None,
        error_rate: float | None = None,
        unheld: bool = False,
    ) -> "Verdict":
        """The verdict on these holdouts.

        Args:
            scores: the holdouts, before and after.
            seed: of the bootstrap.
            retained: what was read of what must not be forgotten, see `Report.provenance`: the
                "accuracy" of the original on so many that were "asked".
            names: readable names of the classes, where known.
            error_rate: of the original in the population that fails, which weighs "failing"
                against "passing".
            unheld: whether a limit on harm was not held on the selection split; a note says which.
        """
        if not scores:
            return cls(UNCLEAR, ("Unclear: the repaired model was not measured.",))
        changes = {each.population: each.intervals(seed=seed).change for each in scores}
        # examples that the original had wrong, all of them: nothing could get worse there
        failing = [each for each in scores if each.accuracy_before == 0]
        natural, others = Natural.of(scores, error_rate), open_to_harm(scores, error_rate)
        worse = [each for each in others if changes[each.population][1] < 0]
        better = [each for each in others if changes[each.population][0] > 0]
        same = [each for each in others if each not in (*worse, *better)]
        fixed = any(changes[each.population][0] > 0 for each in failing)
        good = [f"better than the original on {_all(better, changes)}"] if better else []
        good += [_fixed(each) for each in failing]
        level = [f"no change beyond chance on {_all(same, changes)}"] if same else []
        lost = [_all(worse, changes)] if worse else []
        if natural is not None:
            fixed = natural.better
            if natural.worse:
                lost.append(str(natural))
            elif natural.better:
                good.insert(0, f"better than the original on {natural}")
            else:
                level.append(f"no change beyond chance on {natural}")
        if lost:
            kind = HARMFUL
            first = [f"Harmful: worse than the original on {listed(lost)}."]
            first += [_sentence("; ".join([*good, *level]))] if good or level else []
        elif better or (fixed and (others or natural)):
            kind, first = HELPFUL, [f"Helpful: {'; '.join([*good, *level])}."]
        else:
            said = "; ".join([*level, *good]) or "the repaired model could not be measured"
            kind, first = UNCLEAR, [f"Unclear: {said}."]
        if unheld:
            first[0] = f"{first[0].removesuffix('.')}; {UNHELD} when it was chosen."
        contradicted = [sentence for sentence in [_contradiction(retained or {})] if sentence]
        kind = HARMFUL if contradicted else kind
        rest = [_worst_class(each, seed, names) for each in others]
        if failing and not others and natural is None:
            rest.append("What it broke is not known: only failures were measured.")
        return cls(kind, (*contradicted, *first, *filter(None, rest)))


def open_to_harm(scores: Sequence[Scores], error_rate: float | None) -> list[Scores]:
    """The holdouts that a repair may make better or worse: not what was wrong throughout; nor what
    was right throughout where it is the other half of that, since both together tell.
    """
    natural = Natural.of(scores, error_rate)
    known = [each for each in scores if each.accuracy_before > 0]
    return known if natural is None else [each for each in known if each is not natural.passing]


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _fixed(each: Scores) -> str:
    name = clean(each.population, 30)
    return f"{each.fixed} of {each.n} fixed in {name!r}, which the original had wrong throughout"


def _all(scores: Sequence[Scores], changes: Mapping[str, tuple[float, float]]) -> str:
    return listed([_one(each, changes[each.population]) for each in scores])


def _one(each: Scores, change: tuple[float, float]) -> str:
    accuracies = f"{100 * each.accuracy_before:.1f} -> {100 * each.accuracy_after:.1f} %"
    changed = f"{points(each.change, change)} points, p {p_text(each.p_value)}"
    return f"{clean(each.population, 30)!r} ({accuracies}; {changed})"


def _contradiction(retained: Mapping[str, Any]) -> str:
    """A sentence where the original agrees with these labels no better than a guess would."""
    accuracy, asked = retained.get("accuracy"), retained.get("asked", 0)
    classes = max(len(retained.get("classes", ())), 2)
    if accuracy is None or asked < _LEAST:
        return ""
    if (accuracy - 1 / classes) / (1 - 1 / classes) >= _CONTRADICTED:
        return ""
    return (
        "Harmful: the original contradicts the labels of the retained examples wholesale: it has"
        f" {round(accuracy * asked)} of {asked} as they say. They are wrong, or matched to the"
        " wrong classes."
    )


def _worst_class(each: Scores, seed: int, names: Sequence[str] | None) -> str:
    """A sentence on the class that lost most of its right answers; empty where none lost any.

    Its interval is of a level that holds for all classes together (Bonferroni).
    """
    classes = each.by_class()
    label, worst = min(classes.items(), key=lambda item: item[1].change)
    if worst.change >= 0:
        return ""
    change = worst.intervals(seed=seed, level=1 - 0.05 / len(classes)).change
    name = names[label] if names and label < len(names) else f"class {label}"
    doubt = "" if change[1] < 0 else ", within chance"
    return (
        f"Worst class on {clean(each.population, 30)!r}: {clean(name, 30)!r}"
        f" ({100 * worst.accuracy_before:.1f} -> {100 * worst.accuracy_after:.1f} % of {worst.n};"
        f" {points(worst.change, change)} points{doubt})."
    )
