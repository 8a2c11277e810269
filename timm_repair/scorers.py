"""Scorers: how suspicious each block is. Choose one by name from `SCORERS`, or pass your own to `localize`.

Neuron scorers (§3.2) score every neuron from one sweep, and a block is as suspicious as it has vulnerable neurons:
`"spectrum"` (Eq. 5), `"gradient"` (the factor that Eq. 6 adds), `"spectrum_gradient"` (Eq. 6, the paper's). Counting
favours wide blocks. Block scorers score blocks: `"rgn"` (relative gradient norm, cheap), `"probe"` (try each block,
dear), `"random"` (the control).
"""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from timm_repair.data import RepairData
from timm_repair.errors import OptionError
from timm_repair.evaluation import evaluating_on
from timm_repair.partition import Block
from timm_repair.runtime import Runtime
from timm_repair.surgery import only_trainable
from timm_repair.sweep import Evidence, accumulator, all_processes, batches, layers_of, require_usable

BlockScorer = Callable[[nn.Module, Sequence[Block], RepairData, Runtime], dict[str, float]]
Trial = Callable[[nn.Module, Block, RepairData, Runtime], float]


@dataclass(frozen=True)
class NeuronScorer:
    """A score per neuron, higher is more vulnerable.

    Args:
        score: Evidence to a tensor (neurons,).
        gradients: whether it reads `Evidence.gradient`.
        retained: whether it reads the counts of correctly classified examples.
    """

    score: Callable[[Evidence], Tensor]
    gradients: bool = True
    retained: bool = True


def spectrum(evidence: Evidence) -> Tensor:
    """Tarantula (Eq. 5): the share of misclassified examples that activate a neuron, over that share plus the one of
    the correctly classified; 0 where both are 0. Without correctly classified examples every neuron ever active gets
    1."""
    wrong = evidence.active_wrong / max(evidence.wrong, 1)
    right = evidence.active_right / max(evidence.right, 1)
    return torch.where(wrong > 0, wrong / (wrong + right), 0.0)


def gradient(evidence: Evidence) -> Tensor:
    """|g_j - G| / max_k |g_k - G|, the factor that Eq. 6 multiplies the spectrum with.

    Read literally: g_j keeps its sign, and a neuron far below the mean G scores like one far above. Signed this is
    sound, since a large negative gradient is as strong a lever on the loss as a positive one. G is the mean over blocks
    of the mean over each block's neurons, so that wide blocks do not outweigh narrow ones. 0 where all gradients are
    equal.
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


def rgn(model: nn.Module, blocks: Sequence[Block], data: RepairData, runtime: Runtime) -> dict[str, float]:
    """Relative gradient norm: the mean over a block's weights of ||dL/dw|| / ||w||, L the mean loss of the failures.

    Per weight tensor as in Auto-RGN (surgical fine-tuning, arXiv 2210.11466), then the plain mean of the tensors of
    convolutions and linear layers, so that depth and width of a block do not count; norms, biases and all-zero weights
    (whose ratio is not defined) are left out. Reads the failures alone, forward and backward.

    Raises:
        NoFailuresError: the model classifies every failure correctly.
        NonFiniteError: the logits are NaN or infinite.
    """
    layers = layers_of(model, blocks)
    with evaluating_on(model, runtime.device), only_trainable(model, [f"{layer}.weight" for layer in layers]):
        weights = [model.get_submodule(layer).weight for layer in layers]
        sums = accumulator(
            sum(weight.numel() for weight in weights) + 2, runtime
        )  # gradients, then failing, non-finite
        parts = sums[:-2].split([weight.numel() for weight in weights])
        for images, labels in batches(data.failing, torch.arange(len(data.failing)), data, runtime, gradients=True):
            with runtime.accelerator.autocast():
                logits = model(images)
            wrong = logits.argmax(1) != labels
            sums[-2] += wrong.sum()
            sums[-1] += (~logits.isfinite().all(1)).sum()
            if wrong.any():
                loss = F.cross_entropy(logits[wrong].float(), labels[wrong], reduction="sum")
                found = torch.autograd.grad(loss, weights, allow_unused=True)
                for part, gradient_of in zip(parts, found, strict=True):
                    part += 0 if gradient_of is None else gradient_of.flatten()
        sums = all_processes(sums, runtime)
        failing, broken = (int(value) for value in sums[-2:])
        require_usable(failing, broken)
        ratios: dict[str, list[float]] = {block.name: [] for block in blocks}
        for block, weight, part in zip(
            layers.values(), weights, sums[:-2].split([weight.numel() for weight in weights]), strict=True
        ):
            size = weight.detach().float().norm().item()
            if size > 0:
                ratios[block].append(part.norm().item() / failing / size)
    return {block: sum(values) / len(values) if values else 0.0 for block, values in ratios.items()}


def random(model: nn.Module, blocks: Sequence[Block], data: RepairData, runtime: Runtime) -> dict[str, float]:
    """The control: uniform numbers that follow from `runtime.seed`."""
    draws = torch.rand(len(blocks), generator=runtime.generator("random scorer"), dtype=torch.float64)
    return dict(zip((block.name for block in blocks), draws.tolist(), strict=True))


def probe(
    model: nn.Module, blocks: Sequence[Block], data: RepairData, runtime: Runtime, *, trial: Trial
) -> dict[str, float]:
    """Try it: what `trial` reaches on the selection split by repairing each block a little.

    Args:
        trial: maps (model, block, data, runtime) to an objective, higher is better. It may change the model it is
            given, which is a copy.
    """
    return {block.name: float(trial(deepcopy(model), block, data, runtime)) for block in blocks}


SCORERS: dict[str, NeuronScorer | Callable] = {
    "spectrum_gradient": NeuronScorer(spectrum_gradient),
    "spectrum": NeuronScorer(spectrum, gradients=False),
    "gradient": NeuronScorer(gradient, retained=False),
    "rgn": rgn,
    "probe": probe,
    "random": random,
}


def require_scores(scores: dict[str, float], blocks: Sequence[Block], scorer: str) -> dict[str, float]:
    """`scores` in network order, checked to have one finite number per block (a callable of the user's may forget
    one)."""
    names = [block.name for block in blocks]
    if not isinstance(scores, dict) or set(scores) != set(names):
        raise OptionError(f"scorer {scorer!r} must return a dict with one number for each of {', '.join(names)}")
    return {name: float(scores[name]) for name in names}
