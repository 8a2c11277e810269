"""Evaluation: how many examples one model has right, as a whole and class by class."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from scipy.stats import binomtest
from torch import Tensor

from timm_repair.report.wording import clean, table, wrap

SHOWN = 10  # classes


@dataclass(frozen=True)
class ClassScore:
    """What becomes of one class.

    Args:
        name: of the class.
        n: examples of it.
        right: of them.
        answered: how often the model answers this class, right or wrong.
        taken_for: the class that it is most often taken for, and how often; None where it never is.
    """

    name: str
    n: int
    right: int
    answered: int
    taken_for: tuple[str, int] | None

    @property
    def recall(self) -> float:
        """Share of its examples that are right."""
        return self.right / self.n

    @property
    def precision(self) -> float | None:
        """Share of the answers that are right; None where there is none."""
        return self.right / self.answered if self.answered else None


@dataclass(frozen=True, eq=False)
class Evaluation:
    """One model's answers to one set of images.

    Args:
        model: its name.
        source: what the images are.
        labels: (N,) true class indices.
        answers: (N,) predicted ones.
        class_names: of the model; None where it has none.
    """

    model: str
    source: str
    labels: Tensor
    answers: Tensor
    class_names: Sequence[str] | None = None

    @property
    def n(self) -> int:
        """Examples."""
        return len(self.labels)

    @cached_property
    def right(self) -> int:
        """Of them."""
        return int((self.labels == self.answers).sum())

    @property
    def accuracy(self) -> float:
        """As a share of 1."""
        return self.right / self.n

    @cached_property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the accuracy."""
        found = binomtest(self.right, self.n).proportion_ci(method="wilson")
        return float(found.low), float(found.high)

    @cached_property
    def classes(self) -> tuple[ClassScore, ...]:
        """Of each class with examples, the worst first."""
        pairs = Counter(zip(self.labels.tolist(), self.answers.tolist(), strict=True))
        answered = Counter(self.answers.tolist())
        found = []
        for label, n in Counter(self.labels.tolist()).items():
            wrong = {a: count for (t, a), count in pairs.items() if t == label and a != label}
            most = max(wrong, key=lambda each: (wrong[each], -each), default=None)
            taken = None if most is None else (self._name(most), wrong[most])
            right = pairs[label, label]
            found.append(ClassScore(self._name(label), n, right, answered[label], taken))
        return tuple(sorted(found, key=lambda each: each.recall))

    def _name(self, label: int) -> str:
        return str(label) if self.class_names is None else self.class_names[label]

    def to_dict(self) -> dict:
        """Plain JSON."""
        return {
            "model": self.model,
            "source": self.source,
            "n": self.n,
            "right": self.right,
            "accuracy": self.accuracy,
            "interval": list(self.interval),
            "classes": [
                {
                    "name": each.name,
                    "n": each.n,
                    "recall": each.recall,
                    "precision": each.precision,
                    "taken_for": list(each.taken_for) if each.taken_for else None,
                }
                for each in self.classes
            ],
        }

    def __str__(self) -> str:
        """Plain text, at most 80 columns."""
        low, high = self.interval
        head = (
            f"{clean(self.model, 200)} has {self.right:,} of {self.n:,} images of"
            f" {clean(self.source, 200)} right: {self.accuracy:.1%} [{low:.1%}, {high:.1%}]"
        )
        rows = [["class", "n", "recall", "precision", "most often taken for"]]
        for each in self.classes[:SHOWN]:
            precision = "-" if each.precision is None else f"{each.precision:.1%}"
            taken = (
                f"{clean(each.taken_for[0], 20)} ({each.taken_for[1]})" if each.taken_for else "-"
            )
            rows.append([clean(each.name, 24), str(each.n), f"{each.recall:.1%}", precision, taken])
        more = len(self.classes) - SHOWN
        rest = [f"  and {more} classes that fare better"] if more > 0 else []
        return "\n".join([*wrap(head), "", *table(rows), *rest])
