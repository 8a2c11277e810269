"""Scorers: how suspicious each block is. Choose one by name from `SCORERS`, or pass your own to
`localize`.

Neuron scorers (§3.2) score every neuron from one sweep: `"spectrum"` (Eq. 5), `"gradient"` (the
factor that Eq. 6 adds), `"spectrum_gradient"` (Eq. 6, the paper's), of which a block is as
suspicious as it has vulnerable neurons, and `"enrichment"`, the paper's again but relative to the
number that chance puts there; `"shift"`: how far activations are from where they are for examples
that the model gets right. Block scorers score blocks: `"gain"` and `"rgn"` (gradients.py),
`"probe"` (probing.py), `"random"` (the control).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from timm_repair.data import RepairData
from timm_repair.errors import OptionError
from timm_repair.gradients import gain, rgn
from timm_repair.partition import Block
from timm_repair.probing import probe
from timm_repair.runtime import Runtime
from timm_repair.scoring import BlockScores
from timm_repair.sweep import Evidence

# (model, blocks, data, runtime) -> scores; one with a parameter `training` gets the options that
# the repair will train with
BlockScorer = Callable[..., BlockScores | dict[str, float]]


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


def spectrum(evidence: Evidence) -> Tensor:
    """Tarantula (Eq. 5): the share of misclassified examples that activate a neuron, over that
    share plus the one of the correctly classified; 0 where both are 0. Without correctly classified
    examples every neuron ever active gets 1.
    """
    wrong = evidence.active_wrong / max(evidence.wrong, 1)
    right = evidence.active_right / max(evidence.right, 1)
    return torch.where(wrong > 0, wrong / (wrong + right), 0.0)


def gradient(evidence: Evidence) -> Tensor:
    """|g_j - G| / max_k |g_k - G|, the factor that Eq. 6 multiplies the spectrum with.

    Read literally: g_j keeps its sign, and a neuron far below the mean G scores like one far above.
    Signed this is sound, since a large negative gradient is as strong a lever on the loss as a
    positive one. G is the mean over blocks of the mean over each block's neurons, so that wide
    blocks do not outweigh narrow ones. 0 where all gradients are equal.
    """
    per_layer = evidence.gradient.split([tap.channels for tap in evidence.taps])
    by_block: dict[str, list[Tensor]] = {}
    for tap, values in zip(evidence.taps, per_layer, strict=True):
        by_block.setdefault(tap.block, []).append(values)
    mean = torch.stack([torch.cat(values).mean() for values in by_block.values()]).mean()
    distance = (evidence.gradient - mean).abs()
    return distance / distance.max().clamp(min=torch.finfo(distance.dtype).tiny)


def spectrum_gradient(evidence: Evidence) -> Tensor:
    """The paper's score (Eq. 6): `spectrum` times `gradient`."""
    return spectrum(evidence) * gradient(evidence)


def shift(evidence: Evidence) -> Tensor:
    """|μ_wrong - μ_right| / σ_right of a neuron's pre-activation: how far the misclassified
    examples have left the others.
    """
    spread = evidence.variance_right.sqrt()
    return torch.where(spread > 0, (evidence.mean_wrong - evidence.mean_right).abs() / spread, 0.0)


def random(
    model: nn.Module, blocks: Sequence[Block], data: RepairData, runtime: Runtime
) -> dict[str, float]:
    """The control: uniform numbers that follow from `runtime.seed`."""
    draws = torch.rand(
        len(blocks), generator=runtime.generator("random scorer"), dtype=torch.float64
    )
    return dict(zip((block.name for block in blocks), draws.tolist(), strict=True))


SCORERS: dict[str, NeuronScorer | BlockScorer] = {
    "spectrum_gradient": NeuronScorer(spectrum_gradient),
    "spectrum": NeuronScorer(spectrum, gradients=False),
    "gradient": NeuronScorer(gradient, retained=False),
    "enrichment": NeuronScorer(spectrum_gradient, of_block="enrichment"),
    "shift": NeuronScorer(shift, gradients=False, of_block="mean"),
    "gain": gain,
    "rgn": rgn,
    "probe": probe,
    "random": random,
}


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
