"""What a score is: a `NeuronScorer`, or a function of a job and its blocks; and what comes
out, `BlockScores`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from timm_repair.errors import OptionError
from timm_repair.localization.sweep import Evidence
from timm_repair.models.block import Block
from timm_repair.training.job import Job


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


@dataclass(frozen=True)
class NeuronScorer:
    """A score per neuron, higher is more vulnerable.

    Args:
        score: Evidence to a tensor (neurons,).
        gradients: whether it reads `Evidence.gradient`.
        retained: whether it reads the correctly classified examples.
        of_block: "count" of the block's vulnerable neurons (Algorithm 1), "enrichment": that count
            over what chance would put there, or the "mean" score of its neurons.
    """

    score: Callable[[Evidence], Tensor]
    gradients: bool = True
    retained: bool = True
    of_block: str = "count"


# yours have the same signature as ours; the job's training is what the repair will train with
BlockScorer = Callable[[Job, Sequence[Block]], BlockScores | dict[str, float]]


def require_scores(
    found: BlockScores | dict[str, float], blocks: Sequence[Block], scorer: str
) -> BlockScores:
    """`found` with its scores in network order, checked to have one number per block (a callable of
    the user's may forget one).
    """
    found = BlockScores(found) if isinstance(found, dict) else found
    names = [block.name for block in blocks]
    if not isinstance(found, BlockScores) or set(found.suspiciousness) != set(names):
        raise OptionError(
            f"scorer {scorer!r} must return a dict with one number for each of {', '.join(names)}"
        )
    return replace(
        found, suspiciousness={name: float(found.suspiciousness[name]) for name in names}
    )
