"""Search: the alternation of Eq. 9 (weights, on one half of the repair data) and Eq. 10 (architecture, on the other half).

First order, any strategy. While the gates are shut α has no gradient, so the strategy's warm-up trains weights and gates alone. An
architecture step counts as a step.
"""

import torch
from torch import nn

from timm_repair.data import Images, RepairData
from timm_repair.relax import RelaxedBlock
from timm_repair.runtime import Runtime
from timm_repair.surgery import only_trainable
from timm_repair.training import Batches, Descent, Row, Training, fit, gradient_step, training_mode

ALPHA_REACH = 2.0  # how far α can move in a search when the strategy leaves its learning rate open; PC-DARTS's own on CIFAR-10


def search(model: nn.Module, relaxed: RelaxedBlock, data: RepairData, options: Training, runtime: Runtime, *, steps: int
           ) -> tuple[list[Row], int]:
    """Train `relaxed`, which is in place in `model`, for `steps` steps; nothing else in the model changes.

    Returns:
        The history, its last row with α, and how many of the steps trained weights.
    """
    halves = _halves(data, runtime)
    for_weights, for_architecture = (
        Batches(failing, retained, data, options, runtime, f"search {purpose}")
        for (failing, retained), purpose in zip(halves, ("weights", "architecture"), strict=True))
    strategy, architecture = relaxed.strategy, relaxed.architecture_parameters()
    warm = round(strategy.warmup * steps)
    turns = [i >= warm and (i - warm) % 2 == 0 for i in range(steps)]
    rate = strategy.learning_rate or ALPHA_REACH / max(sum(turns), 1)
    # no weight decay: in Adam it would erase the prior of "none" while the gates are shut
    adam = runtime.accelerator.prepare_optimizer(torch.optim.Adam(architecture, lr=rate, betas=(0.5, 0.999)))
    arch_steps = sum(turns)
    descent = Descent(relaxed.weight_parameters(), options, runtime, total=options.steps - arch_steps)

    def step(i: int) -> Row:
        relaxed.progress = i / max(steps - 1, 1)
        loss = (for_architecture if turns[i] else for_weights).loss(model)
        if not turns[i]:
            return descent.step(loss)
        gradient_step(adam, architecture, loss, runtime)
        return {"loss": loss.item(), "lr": rate, "architecture": True}

    with only_trainable(model, _names_in(model, relaxed)), training_mode(model, relaxed, batch_norm=options.batch_norm):
        history = fit(step, steps=steps, stage="search", runtime=runtime)
    if history:
        history[-1]["alpha"] = [[round(a, 5) for a in row] for row in relaxed.alpha.tolist()]
    return history, descent.done


def _names_in(model: nn.Module, part: nn.Module) -> list[str]:
    inside = {id(p) for p in part.parameters()}
    return [name for name, p in model.named_parameters() if id(p) in inside]


def _halves(data: RepairData, runtime: Runtime) -> tuple[tuple[Images, Images | None], tuple[Images, Images | None]]:
    """Two disjoint halves of failures and retained examples alike, so that failures decide in both."""
    generator = runtime.generator("search halves")
    sides: tuple[list, list] = ([], [])
    for images in (data.failing, data.retained):
        order = None if images is None else torch.randperm(len(images), generator=generator).tolist()
        for side, keep in zip(sides, (0, 1), strict=True):
            side.append(None if order is None else images.subset(order[keep::2]))
    return tuple(sides[0]), tuple(sides[1])
