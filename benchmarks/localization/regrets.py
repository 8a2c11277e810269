"""Regret of each scorer from the files that regret.py wrote; tables.py makes a table of it.

python -m benchmarks.localization.regrets    # print it, with the choices behind it
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

RESULTS = Path(__file__).parents[1] / "results" / "localization"
ORIGINAL = "original"
MEAN_REGRET, WORST_REGRET, COST = 0.5, 2.0, 3.0  # targets for the default: points, points, sweeps


@dataclass(frozen=True)
class Case:
    """One model and task: per seed what repairing each block gives, and what each scorer says of
    each block.

    Args:
        held: seed -> block -> held-out accuracy in percent after its repair.
        scores: seed -> scorer -> block -> score.
    """

    model: str
    task: str
    held: dict[int, dict[str, float]]
    scores: dict[int, dict[str, dict[str, float]]]

    @property
    def accuracy(self) -> dict[str, float]:
        """Block to its mean over seeds."""
        return {
            block: mean(one[block] for one in self.held.values())
            for block in next(iter(self.held.values()))
        }

    def chosen(self, scorer: str, seed: int) -> str:
        scores = self.scores[seed][scorer]
        return max(scores, key=scores.get)

    def regret(self, scorer: str) -> float:
        """Points lost to the block that is best by the mean over seeds, mean over seeds."""
        accuracy = self.accuracy
        return max(accuracy.values()) - mean(
            accuracy[self.chosen(scorer, seed)] for seed in self.scores
        )

    def honest_regrets(self, scorer: str) -> list[float]:
        """The same for each seed, but the best block is the one of the other seeds: not flattered
        by the noise of the holdout.
        """
        regrets = []
        for seed in self.scores:
            others = [held for other, held in self.held.items() if other != seed]
            if others:
                best = max(others[0], key=lambda block: mean(held[block] for held in others))
                regrets.append(self.held[seed][best] - self.held[seed][self.chosen(scorer, seed)])
        return regrets

    def rank_correlation(self, scorer: str) -> float:
        """Spearman's, of scores and accuracies, mean over seeds; 0 for a scorer that tells no block
        from another.
        """
        accuracy = self.accuracy
        return mean(
            _correlation(
                _ranks(accuracy.values()), _ranks(self.scores[seed][scorer][b] for b in accuracy)
            )
            for seed in self.scores
        )


def _ranks(values: Iterable[float]) -> list[float]:
    values = list(values)
    return [
        sum(other < value for other in values) + sum(other == value for other in values) / 2
        for value in values
    ]


def _correlation(a: list[float], b: list[float]) -> float:
    centred = [[x - mean(values) for x in values] for values in (a, b)]
    norm = (sum(x * x for x in centred[0]) * sum(x * x for x in centred[1])) ** 0.5
    return sum(x * y for x, y in zip(*centred, strict=True)) / norm if norm else 0.0


def read(directory: Path = RESULTS) -> list[Case]:
    """All cases that have both an oracle and scores, for the same seeds."""
    cases: dict[tuple[str, str], Case] = {}
    for path in sorted(directory.glob("oracle-*.json")):
        model, _, seed = path.stem.removeprefix("oracle-").rpartition("-")
        scored = directory / f"score-{model}-{seed}.json"
        scores = json.loads(scored.read_text()) if scored.exists() else {}
        for task, blocks in json.loads(path.read_text()).items():
            case = cases.setdefault((model, task), Case(model, task, {}, {}))
            case.held[int(seed)] = {
                block: found["held"] for block, found in blocks.items() if block != ORIGINAL
            }
            if task in scores:
                case.scores[int(seed)] = {
                    name: found["scores"]
                    for name, found in scores[task].items()
                    if "scores" in found
                }
    return [case for case in cases.values() if case.scores]


def costs(directory: Path = RESULTS) -> dict[str, float]:
    """Scorer to its time in sweeps: a forward and backward pass over the failures and twice as many
    retained examples.
    """
    ratios: dict[str, list[float]] = {}
    for path in directory.glob("score-*.json"):
        for found in json.loads(path.read_text()).values():
            if "sweep" in found:
                for name, each in found.items():
                    ratios.setdefault(name, []).append(each["seconds"] / found["sweep"]["seconds"])
    return {name: mean(values) for name, values in ratios.items()}


def rows(cases: list[Case], cost: dict[str, float]) -> list[dict]:
    """Per scorer what the table shows, the best first; "first block", "last block" and "chance"
    look at nothing.
    """
    models = list(dict.fromkeys(case.model for case in cases))
    found = []
    for scorer in next(iter(cases[0].scores.values())):
        regrets = {(case.model, case.task): case.regret(scorer) for case in cases}
        worst = max(regrets, key=regrets.get)
        honest = [value for case in cases for value in case.honest_regrets(scorer)]
        found.append(
            {
                "scorer": scorer,
                "mean": mean(regrets.values()),
                "worst": regrets[worst],
                "worst_case": worst,
                "honest": mean(honest) if honest else None,
                "rank": mean(case.rank_correlation(scorer) for case in cases),
                "cost": cost.get(scorer),
                "by_model": {
                    m: mean(v for (model, _), v in regrets.items() if model == m) for m in models
                },
            }
        )
    for name, pick in (
        ("first block", lambda a: a[0]),
        ("last block", lambda a: a[-1]),
        ("chance", mean),
    ):
        regrets = {
            (case.model, case.task): (
                max(case.accuracy.values()) - pick(list(case.accuracy.values()))
            )
            for case in cases
        }
        worst = max(regrets, key=regrets.get)
        found.append(
            {
                "scorer": f"*{name}*",
                "mean": mean(regrets.values()),
                "worst": regrets[worst],
                "worst_case": worst,
                "honest": None,
                "rank": None,
                "cost": 0.0,
                "by_model": {
                    m: mean(v for (model, _), v in regrets.items() if model == m) for m in models
                },
            }
        )
    # "chance" is its expectation
    return sorted((row for row in found if row["scorer"] != "random"), key=lambda row: row["mean"])


def main() -> None:
    cases = read()
    for case in cases:
        print(
            case.model,
            case.task,
            {block: round(value, 1) for block, value in case.accuracy.items()},
        )
        for scorer in next(iter(case.scores.values())):
            print(
                "   ",
                scorer,
                [case.chosen(scorer, seed) for seed in case.scores],
                round(case.regret(scorer), 1),
            )
    for row in rows(cases, costs()):
        print(
            {
                key: round(value, 2) if isinstance(value, float) else value
                for key, value in row.items()
            }
        )


if __name__ == "__main__":
    main()
