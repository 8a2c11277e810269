"""What block scorers give back."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class BlockScores:
    """Scores of blocks, and what is known beside them; the fields are those of
    `localization.Localization`.

    Args:
        suspiciousness: block name to score; the highest is repaired.
        layers: path of a layer to its block.
        layer_scores: path of a layer to its score.
        errors: block name to the standard error of its distance from the worst block.
        gains: block name to the decrease of the failures' loss that is predicted or was measured.
        details: plain JSON.
    """

    suspiciousness: dict[str, float]
    layers: dict[str, str] = field(default_factory=dict)
    layer_scores: dict[str, float] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)
    gains: dict[str, float] = field(default_factory=dict)
    details: dict = field(default_factory=dict)
