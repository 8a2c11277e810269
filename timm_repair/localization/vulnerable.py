"""Vulnerable neurons: scores of neurons to scores of blocks (Algorithm 1)."""

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from timm_repair.data.repair_data import RepairData
from timm_repair.errors import NonFiniteError, PartitionError
from timm_repair.localization.localization import Localization
from timm_repair.localization.scores import NeuronScorer
from timm_repair.localization.sweep import Evidence, sweep
from timm_repair.models.block import Block
from timm_repair.models.taps import find_taps
from timm_repair.runtime.runtime import Runtime

SHOWN_NEURONS = 20  # in `Localization.details["top_neurons"]`


def by_neurons(
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
    """Localization by a score of neurons: sweep, score, count what is vulnerable in each block."""
    taps = find_taps(model, blocks, data.preprocessing.input_size)
    if not taps:
        raise PartitionError(
            "the blocks hold no convolution or linear layer, so no neuron; choose the score"
            " 'random' or 'probe'"
        )
    passing = _sample(data, runtime, max_passing) if scorer.retained else torch.arange(0)
    evidence = sweep(model, taps, data, runtime, gradients=scorer.gradients, retained=passing)
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
