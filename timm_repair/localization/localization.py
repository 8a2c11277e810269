"""Localization: how suspicious each block is, how sure that is, and which blocks tie."""

from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class Localization:
    """How suspicious each block is.

    Args:
        scorer: name of the score.
        suspiciousness: block name to score, repairable blocks only, in network order; with a neuron
            scorer the number of vulnerable neurons, S_B.
        neurons: layer path to the scores of its output channels, (channels,) float64; empty where
            blocks are scored at once.
        layers: layer path to block name.
        layer_scores: layer path to its share in the suspiciousness of its block; empty where only
            blocks are scored.
        errors: block name to the standard error of its distance from the worst block; empty where
            the scorer does not know it.
        gains: block name to the decrease of the failures' loss that the scorer predicts; empty
            where it predicts none.
        threshold: ε, which a vulnerable neuron's score exceeds; None where there are no neuron
            scores.
        details: what was read and found, plain JSON.
    """

    scorer: str
    suspiciousness: dict[str, float]
    neurons: dict[str, Tensor] = field(default_factory=dict)
    layers: dict[str, str] = field(default_factory=dict)
    layer_scores: dict[str, float] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)
    gains: dict[str, float] = field(default_factory=dict)
    threshold: float | None = None
    details: dict = field(default_factory=dict)

    @property
    def ranking(self) -> tuple[str, ...]:
        """Block names, the most suspicious first; of equals the one nearer to the input."""
        return tuple(sorted(self.suspiciousness, key=lambda name: -self.suspiciousness[name]))

    @property
    def worst(self) -> str:
        """The block to repair."""
        return self.ranking[0]

    @property
    def tied(self) -> tuple[str, ...]:
        """The blocks that cannot be told from the worst, and it: they score within two standard
        errors of it. The worst first.
        """
        top = self.suspiciousness[self.worst]
        return tuple(
            name
            for name in self.ranking
            if top - self.suspiciousness[name] <= 2 * self.errors.get(name, 0.0)
        )

    def to_dict(self) -> dict:
        """Plain JSON, without the score of every single neuron: `details["vulnerable"]` lists those
        that count.
        """
        return {
            "scorer": self.scorer,
            "suspiciousness": dict(self.suspiciousness),
            "ranking": list(self.ranking),
            "threshold": self.threshold,
            "layers": dict(self.layers),
            "layer_scores": dict(self.layer_scores),
            "errors": dict(self.errors),
            "gains": dict(self.gains),
            "tied": list(self.tied),
            "details": self.details,
        }
