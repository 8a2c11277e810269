"""Localization: which block of a model is to blame for its failures (§3.2, Algorithm 1). The scores
are in scorers.py.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from inspect import signature
from math import isfinite

import torch
from torch import Tensor, nn

from timm_repair.data import RepairData
from timm_repair.distributed import agreed
from timm_repair.errors import NonFiniteError, OptionError, PartitionError, did_you_mean
from timm_repair.partition import Block
from timm_repair.runtime import Runtime
from timm_repair.scorers import SCORERS, BlockScorer, NeuronScorer, require_scores
from timm_repair.sweep import Evidence, find_taps, gather
from timm_repair.training import Training

DEFAULT_SCORER = "rgn"

SHOWN_NEURONS = 20  # in `Localization.details["top_neurons"]`

Scorer = NeuronScorer | BlockScorer


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


def localize(
    model: nn.Module,
    blocks: Sequence[Block],
    data: RepairData,
    *,
    score: str | Scorer = DEFAULT_SCORER,
    top: int = 50,
    threshold: float | None = None,
    max_passing: int | None = None,
    training: Training | None = None,
    runtime: Runtime,
) -> Localization:
    """Score the repairable ones of `blocks`; the model comes back untouched, also after an error.

    Args:
        model: the model that fails.
        blocks: from `partition.blocks` on this model.
        data: its `failing` examples, and for the spectrum a sample of its `retained` ones.
        score: a name from `SCORERS`, a `NeuronScorer`, or any function (model, blocks, data,
            runtime) -> {block name: number}.
        top: how many neurons of the network count as vulnerable (the paper's figures use 50).
        threshold: ε instead: neurons with a score above it are vulnerable.
        max_passing: retained examples to read at most; None reads twice as many as there are
            failures.
        training: the options that the repair will train with; None for the defaults. "gain" and
            "probe" read it.
        runtime: device, processes and seed.

    Raises:
        PartitionError: none of the blocks can be repaired.
        OptionError: an option is unknown or out of range, or a scorer of yours does not score every
            block.
        NoFailuresError: the model classifies every failure correctly.
        NonFiniteError: logits or scores are NaN or infinite.
    """
    candidates = [block for block in blocks if block.repairable]
    if not candidates:
        raise PartitionError(
            "none of the given blocks can be repaired; see the reason of each, or cut by hand with"
            " names=[...]"
        )
    if top < 1:
        raise OptionError(f"top must be at least 1, got {top}")
    if max_passing is not None and max_passing < 0:
        raise OptionError(f"max_passing must be 0 or more, got {max_passing}")
    name, scorer = _resolve(score)
    if isinstance(scorer, NeuronScorer):
        found = _by_neurons(
            name, scorer, model, candidates, data, runtime, top, threshold, max_passing
        )
    else:
        options = (
            {"training": training or Training()}
            if "training" in signature(scorer).parameters
            else {}
        )
        scores = require_scores(
            scorer(model, candidates, data, runtime, **options), candidates, name
        )
        found = Localization(
            name,
            scores.suspiciousness,
            layers=scores.layers,
            layer_scores=scores.layer_scores,
            errors=scores.errors,
            gains=scores.gains,
            details={"failures": len(data.failing)} | scores.details,
        )
    broken = [block for block, value in found.suspiciousness.items() if not isfinite(value)]
    if broken:
        raise NonFiniteError(
            f"the score {name!r} of {', '.join(broken)} is NaN or infinite; check the model's"
            " weights"
        )
    return agreed(found, runtime.accelerator)


def _resolve(score: str | Scorer) -> tuple[str, Scorer]:
    if not isinstance(score, str):
        return getattr(score, "__name__", type(score).__name__), score
    if score not in SCORERS:
        raise OptionError(f"unknown scorer {score!r}{did_you_mean(score, SCORERS)}")
    return score, SCORERS[score]


def _by_neurons(
    name: str,
    scorer: NeuronScorer,
    model: nn.Module,
    blocks: Sequence[Block],
    data: RepairData,
    runtime: Runtime,
    top: int,
    threshold: float | None,
    max_passing: int | None,
) -> Localization:
    taps = find_taps(model, blocks, data.preprocessing.input_size)
    if not taps:
        raise PartitionError(
            "the blocks hold no convolution or linear layer, so no neuron; choose the score"
            " 'random' or 'probe'"
        )
    passing = _sample(data, runtime, max_passing) if scorer.retained else torch.arange(0)
    evidence = gather(model, taps, data, runtime, gradients=scorer.gradients, retained=passing)
    scores = scorer.score(evidence)
    if not scores.isfinite().all():
        raise NonFiniteError(
            f"the score {name!r} of {int((~scores.isfinite()).sum())} neurons is NaN or infinite"
        )
    vulnerable, epsilon = _select(scores, top, threshold)
    return _summarize(
        name,
        scorer.of_block,
        blocks,
        evidence,
        scores,
        vulnerable,
        epsilon,
        len(passing),
        None if threshold is not None else top,
    )


def _sample(data: RepairData, runtime: Runtime, max_passing: int | None) -> Tensor:
    """Which retained examples are read; the same for every scorer and batch size."""
    if data.retained is None:
        return torch.arange(0)
    limit = 2 * len(data.failing) if max_passing is None else max_passing
    order = torch.randperm(len(data.retained), generator=runtime.generator("localization sample"))
    return order[:limit].sort().values


def _select(scores: Tensor, top: int, threshold: float | None) -> tuple[Tensor, float]:
    """Which neurons are vulnerable, (neurons,) bool, and ε.

    With `top`, ε is the score of the first neuron that is not chosen; of equal scores those nearer
    to the input are chosen. A score of 0 is never vulnerable, so fewer than `top` may be.
    """
    if threshold is not None:
        return scores > threshold, float(threshold)
    order = scores.sort(descending=True, stable=True).indices
    chosen = torch.zeros_like(scores, dtype=torch.bool)
    chosen[order[:top]] = True
    return chosen & (scores > 0), scores[order[top]].item() if top < len(scores) else 0.0


def _summarize(
    name: str,
    of_block: str,
    blocks: Sequence[Block],
    evidence: Evidence,
    scores: Tensor,
    vulnerable: Tensor,
    epsilon: float,
    passing: int,
    top: int | None,
) -> Localization:
    sizes = [tap.channels for tap in evidence.taps]
    per_layer = dict(zip((tap.layer for tap in evidence.taps), scores.split(sizes), strict=True))
    chosen = {
        tap.layer: part.nonzero().flatten().tolist()
        for tap, part in zip(evidence.taps, vulnerable.split(sizes), strict=True)
    }
    layers = {tap.layer: tap.block for tap in evidence.taps}
    counts, neurons = Counter(), Counter()
    for tap in evidence.taps:
        counts[tap.block] += len(chosen[tap.layer])
        neurons[tap.block] += tap.channels
    details = {
        "top": top,
        "misclassified": evidence.wrong,
        "correct": evidence.right,
        "failing": evidence.failing,
        "retained_read": passing,
        "neurons": {block.name: neurons[block.name] for block in blocks},
        "vulnerable": {layer: channels for layer, channels in chosen.items() if channels},
    }
    details["top_neurons"] = _top_neurons(evidence, scores)
    if not evidence.right:
        details["note"] = (
            "no correctly classified example was read, so the spectrum cannot tell neurons apart"
        )
    return Localization(
        name,
        {
            block.name: _of_block(of_block, block.name, counts, neurons, per_layer, layers)
            for block in blocks
        },
        neurons=per_layer,
        layers=layers,
        errors=(
            _count_errors({block.name: counts[block.name] for block in blocks})
            if of_block == "count"
            else {}
        ),
        threshold=epsilon,
        details=details,
    )


def _count_errors(counts: dict[str, int]) -> dict[str, float]:
    """Standard error of each count's distance from the largest, if the vulnerable neurons are taken
    for a multinomial sample.
    """
    total, most = sum(counts.values()), max(counts.values())
    variances = {
        name: most + count - (most - count) ** 2 / max(total, 1) for name, count in counts.items()
    }
    return {
        name: max(variance, 0.0) ** 0.5 if counts[name] < most else 0.0
        for name, variance in variances.items()
    }


def _of_block(
    kind: str,
    block: str,
    counts: Counter,
    neurons: Counter,
    per_layer: dict[str, Tensor],
    layers: dict[str, str],
) -> float:
    """What `NeuronScorer.of_block` says, for one block."""
    if not neurons[block]:
        return 0.0
    if kind == "mean":
        return (
            torch.cat([scores for layer, scores in per_layer.items() if layers[layer] == block])
            .mean()
            .item()
        )
    if kind == "enrichment":
        expected = counts.total() * neurons[block] / neurons.total()
        return counts[block] / expected if expected else 0.0
    return float(counts[block])


def _top_neurons(evidence: Evidence, scores: Tensor) -> list[dict]:
    """The most suspicious neurons and how many of the examples activated them, the most suspicious
    first.
    """
    names = [(tap.layer, channel) for tap in evidence.taps for channel in range(tap.channels)]
    order = scores.sort(descending=True, stable=True).indices[:SHOWN_NEURONS].tolist()
    return [
        {
            "layer": names[i][0],
            "channel": names[i][1],
            "score": scores[i].item(),
            "active_wrong": int(evidence.active_wrong[i]),
            "active_right": int(evidence.active_right[i]),
        }
        for i in order
        if scores[i] > 0
    ]
