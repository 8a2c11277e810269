"""What samples say about the rest of a box: statements that are probably approximately correct.

Of N inputs drawn from a distribution after a network was settled, none violates. Were the share of
violating inputs above ε, that would happen with a probability below (1 - ε)^N; so with confidence 1
- η the share is at most ε, as soon as N >= ln(1/η) / -ln(1 - ε). With k violations the bound is the
upper end of Clopper and Pearson's interval.
"""

import math
from dataclasses import dataclass

from scipy.stats import beta

from timm_repair.errors import OptionError


def samples_needed(epsilon: float, eta: float) -> int:
    """N such that no violation among N bounds the share by `epsilon` with confidence 1 - `eta`."""
    for name, value in (("epsilon", epsilon), ("eta", eta)):
        if not 0 < value < 1:
            raise OptionError(f"{name} must lie between 0 and 1, got {value}")
    return math.ceil(math.log(1 / eta) / -math.log1p(-epsilon))


def interval(violations: int, samples: int, level: float = 0.95) -> tuple[float, float]:
    """Clopper and Pearson's two-sided interval of the share of violating inputs."""
    tail = (1 - level) / 2
    low = 0.0 if violations == 0 else float(beta.ppf(tail, violations, samples - violations + 1))
    high = (
        1.0
        if violations == samples
        else float(beta.ppf(1 - tail, violations + 1, samples - violations))
    )
    return low, high


@dataclass(frozen=True)
class Statement:
    """What `samples` inputs of one box, drawn after the repair was chosen, say about all of it.

    Args:
        violations: among the samples.
        epsilon: the bound that was asked for.
        eta: the probability with which a statement like this is wrong.
    """

    violations: int
    samples: int
    epsilon: float
    eta: float

    @property
    def bound(self) -> float:
        """The share of violating inputs is at most this, with confidence 1 - `eta`."""
        if self.violations == self.samples:
            return 1.0
        return float(beta.ppf(1 - self.eta, self.violations + 1, self.samples - self.violations))

    @property
    def holds(self) -> bool:
        """Whether the bound that was asked for was reached."""
        return self.bound <= self.epsilon

    def __str__(self) -> str:
        met = (
            f"{self.violations} of {self.samples:,} inputs drawn evenly from the box after the"
            " repair was chosen violate"
        )
        said = f"with confidence {1 - self.eta:.6g}, at most {self.bound:.3g} of the box violates"
        asked = "" if self.holds else f", which is more than the {self.epsilon:g} asked for"
        return f"{met}: {said}{asked}"

    def to_dict(self) -> dict:
        """Plain JSON."""
        return {
            "violations": self.violations,
            "samples": self.samples,
            "epsilon": self.epsilon,
            "eta": self.eta,
            "bound": self.bound,
            "holds": self.holds,
            "statement": str(self),
        }
