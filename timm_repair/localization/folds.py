"""Folds: gradients of the failures' loss with respect to the weights of the blocks, part by part.

The failures are read in `FOLDS` parts. What two parts agree on is signal, what they do not is
noise: the inner product of two parts' mean gradients estimates the squared norm of the true one
without the bias of a squared norm, and leaving parts out tells how sure a score is (the jackknife).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from timm_repair.data.repair_data import RepairData
from timm_repair.localization.passes import accumulator, inputs_of, require_usable
from timm_repair.localization.scores import BlockScores
from timm_repair.models.block import Block
from timm_repair.models.taps import layers_of
from timm_repair.models.temporary import evaluating_on, only_trainable
from timm_repair.runtime.processes import all_processes, share_of
from timm_repair.runtime.runtime import Runtime
from timm_repair.training.job import Job
from timm_repair.training.losses import repair_loss
from timm_repair.training.mixing import wrong_class_weight

FOLDS = 4


@dataclass(frozen=True)
class FoldedGradients:
    """Mean gradients of F parts of the failures, as inner products.

    Args:
        grams: parameter name -> (F, F) float64, inner products of the parts' mean gradients.
        counts: (F,) float64, misclassified failures in each part.
    """

    grams: dict[str, Tensor]
    counts: Tensor

    def norm(self, name: str, without: int | None = None) -> float:
        """Norm of the mean gradient over all failures, or over all but those of one part."""
        shares = self.counts.clone()
        if without is not None:
            shares[without] = 0
        shares /= shares.sum()
        return (shares @ self.grams[name] @ shares).clamp(min=0).sqrt().item()


def folded_gradients(
    model: nn.Module,
    names: Sequence[str],
    data: RepairData,
    runtime: Runtime,
    *,
    wrong_class_weight: float,
) -> FoldedGradients:
    """Read the failures once, forward and backward.

    Keeps a gradient of all named parameters per part, in float32 in the host's memory.

    Args:
        names: parameters to differentiate by.
        wrong_class_weight: of the loss, see `Training`.

    Raises:
        NoFailuresError: the model classifies every failure correctly.
        NonFiniteError: the logits are NaN or infinite.
        MemoryExceededError: not even one image fits in memory.
    """
    kept, counts, broken = [], [], 0

    def compute(batch: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor | None, ...]]:
        return _gradients(
            model,
            *inputs_of(data.failing, batch, data, runtime),
            weights,
            wrong_class_weight,
            runtime,
        )

    with evaluating_on(model, runtime.device), only_trainable(model, names):
        weights = [model.get_parameter(name) for name in names]
        sizes = [weight.numel() for weight in weights]
        for part in range(FOLDS):
            sums = accumulator(sum(sizes) + 2, runtime)  # gradients, then failing, non-finite
            mine = share_of(torch.arange(len(data.failing))[part::FOLDS], runtime.accelerator)
            for found in runtime.in_batches(compute, mine, gradients=True):
                _add(sums, sizes, *found)
                del found  # the next batch needs the memory
            sums = all_processes(sums, runtime.accelerator)
            broken += int(sums[-1])
            if sums[-2] > 0:
                counts.append(sums[-2].item())
                kept.append((sums[:-2] / sums[-2]).float().cpu())
        require_usable(int(sum(counts)), broken)
    grams = {}
    for name, *parts in zip(names, *(gradient.split(sizes) for gradient in kept), strict=True):
        matrix = torch.stack(parts).double()
        grams[name] = matrix @ matrix.T
    return FoldedGradients(grams, torch.tensor(counts, dtype=torch.float64))


def _gradients(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    weights: Sequence[Tensor],
    wrong_class_weight: float,
    runtime: Runtime,
) -> tuple[Tensor, Tensor, tuple[Tensor | None, ...]]:
    """How many images the model gets wrong, for how many it gives no finite logits, and the
    gradients of the former's summed loss.
    """
    with runtime.accelerator.autocast():
        logits = model(images)
    answers = logits.argmax(1)
    wrong = answers != labels
    gradients = (None,) * len(weights)
    if wrong.any():
        loss = (
            repair_loss(logits[wrong], labels[wrong], answers[wrong], wrong_class_weight)
            * wrong.sum()
        )
        gradients = torch.autograd.grad(loss, weights, allow_unused=True)
    return wrong.sum(), (~logits.isfinite().all(1)).sum(), gradients


def _add(
    sums: Tensor,
    sizes: list[int],
    failing: Tensor,
    broken: Tensor,
    gradients: Sequence[Tensor | None],
) -> None:
    sums[-2] += failing
    sums[-1] += broken
    for total, gradient in zip(sums[:-2].split(sizes), gradients, strict=True):
        total += 0 if gradient is None else gradient.flatten()


def rgn_scores(model: nn.Module, blocks: Sequence[Block], found: FoldedGradients) -> BlockScores:
    """The relative gradient norm of every block and layer, with the jackknife's errors."""
    layers = layers_of(model, blocks)
    sizes = {
        layer: model.get_parameter(f"{layer}.weight").detach().float().norm().item()
        for layer in layers
    }

    def ratios(without: int | None = None) -> dict[str, float]:
        return {
            layer: found.norm(f"{layer}.weight", without) / size
            for layer, size in sizes.items()
            if size > 0
        }

    def of_blocks(ratios: dict[str, float]) -> dict[str, float]:
        values = {
            block.name: [ratios[layer] for layer in ratios if layers[layer] == block.name]
            for block in blocks
        }
        return {name: sum(each) / len(each) if each else 0.0 for name, each in values.items()}

    whole = ratios()
    scores, parts = of_blocks(whole), len(found.counts)
    worst = max(scores, key=scores.__getitem__)
    without = [of_blocks(ratios(part)) for part in range(parts)] if parts > 2 else []
    errors = {name: spread([each[worst] - each[name] for each in without]) for name in scores}
    return BlockScores(scores, layers=layers, layer_scores=whole, errors=errors)


def gain_and_rgn(job: Job, blocks: Sequence[Block]) -> tuple[BlockScores, BlockScores]:
    """Both scores from one pass over the failures, with the loss that repairs train with."""
    found, rate = all_gradients(job, blocks), job.training.optimizing.learning_rate
    return gain_scores(job.model, blocks, found, rate), rgn_scores(job.model, blocks, found)


def all_gradients(job: Job, blocks: Sequence[Block]) -> FoldedGradients:
    """Gradients of all parameters of the blocks, of the loss that repairs train with."""
    names = [name for block in blocks for name in block.parameters]
    return folded_gradients(
        job.model,
        names,
        job.data,
        job.runtime,
        wrong_class_weight=wrong_class_weight(job.training, job.data, mixed=False),
    )


def gain_scores(
    model: nn.Module, blocks: Sequence[Block], found: FoldedGradients, rate: float
) -> BlockScores:
    """The predicted gain of every block and layer at this learning rate, with the errors."""
    owner = {name: block.name for block in blocks for name in block.parameters}
    grams = {
        block.name: torch.zeros(len(found.counts), len(found.counts), dtype=torch.float64)
        for block in blocks
    }
    layers, layer_scores = layers_of(model, blocks), {}
    for name, block in owner.items():
        grams[block] += found.grams[name]
        layer = name.rpartition(".")[0]
        if layer in layers:
            layer_scores[layer] = layer_scores.get(layer, 0.0) + rate * agreed_norm(
                found.grams[name]
            )
    gains = {name: rate * agreed_norm(gram) for name, gram in grams.items()}
    worst = max(gains, key=gains.__getitem__)
    errors = {name: rate * jackknife(grams[worst] - gram) for name, gram in grams.items()}
    return BlockScores(gains, layers=layers, layer_scores=layer_scores, errors=errors, gains=gains)


def agreed_norm(gram: Tensor) -> float:
    """Mean inner product of two different parts' gradients; the squared norm where there is one
    part only.
    """
    parts = len(gram)
    return (gram.sum() - gram.trace()).item() / (parts * (parts - 1)) if parts > 1 else gram.item()


def jackknife(gram: Tensor) -> float:
    """Standard error of `_agreed`, from leaving out each part in turn; 0 where there are too few to
    tell.
    """
    parts = len(gram)
    if parts < 3:
        return 0.0
    rest = [torch.tensor([j for j in range(parts) if j != i]) for i in range(parts)]
    return spread([agreed_norm(gram[rows][:, rows]) for rows in rest])


def spread(without: list[float]) -> float:
    """The jackknife's standard error, of values that each leave out one part; 0 where there are
    none.
    """
    values = torch.tensor(without, dtype=torch.float64)
    return (
        ((len(values) - 1) / len(values) * (values - values.mean()).square().sum()).sqrt().item()
        if without
        else 0.0
    )
