"""Natural: what a repair changed in the population that fails, from its failures and from what the
original had right there.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from timm_repair.report.scores import Scores
from timm_repair.report.wording import points


@dataclass(frozen=True)
class Natural:
    """The population that fails, in its natural proportion.

    Args:
        failing: a sample of what the original had wrong there.
        passing: a sample of what it had right.
        error_rate: of the original in the population.
    """

    failing: Scores
    passing: Scores
    error_rate: float

    @classmethod
    def of(cls, scores: Sequence[Scores], error_rate: float | None) -> "Natural | None":
        """From a report's "failing" and "passing"; None where it lacks one of them."""
        named = {each.population: each for each in scores}
        if error_rate is None or not {"failing", "passing"} <= named.keys():
            return None
        both = named["failing"], named["passing"]
        if both[0].accuracy_before > 0 or both[1].accuracy_before < 1:
            return None  # a holdout of the user's own under one of these names
        return cls(*both, error_rate)

    @property
    def accuracy_before(self) -> float:
        return 1 - self.error_rate

    @property
    def accuracy_after(self) -> float:
        return self.accuracy_before + self.change

    @property
    def change(self) -> float:
        return self.error_rate * self.failing.change + self.accuracy_before * self.passing.change

    @property
    def interval(self) -> tuple[float, float]:
        """Of the change, 95 %, as of two independent samples (normal approximation)."""
        variance = sum(
            share**2 * (abs(each.change) * (1 - abs(each.change)) + 1 / each.n) / each.n
            for share, each in (
                (self.error_rate, self.failing),
                (self.accuracy_before, self.passing),
            )
        )
        return self.change - 1.96 * variance**0.5, self.change + 1.96 * variance**0.5

    @property
    def worse(self) -> bool:
        return self.interval[1] < 0

    @property
    def better(self) -> bool:
        return self.interval[0] > 0

    def __str__(self) -> str:
        accuracies = f"{100 * self.accuracy_before:.1f} -> {100 * self.accuracy_after:.1f} %"
        return (
            f"the population that fails ({accuracies}; {points(self.change, self.interval)} points,"
            f" {self.passing.broken} of {self.passing.n} broken that the original had right)"
        )
