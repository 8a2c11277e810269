"""What the methods share: tuning the weights of one part of a model, renewing batch-norm
statistics, choosing how far to go.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from timm_repair.anchoring import anchor_penalty, anchor_strength
from timm_repair.batches import Batches
from timm_repair.caching import PrefixCache, prefix_cache
from timm_repair.data import RepairData
from timm_repair.distributed import sharded
from timm_repair.runtime import Runtime, out_of_memory_explained
from timm_repair.surgery import evaluating, names_in, only_trainable, snapshot
from timm_repair.training import (
    INTERPOLATIONS,
    Descent,
    Monitor,
    Row,
    Training,
    fit,
    objective,
    training_mode,
)


def tune(
    model: nn.Module,
    part: nn.Module,
    data: RepairData,
    options: Training,
    runtime: Runtime,
    *,
    stage: str = "finetune",
    first: int = 0,
    total: int | None = None,
    original: dict[str, Tensor] | None = None,
    fresh: Iterable[nn.Parameter] = (),
    cache: PrefixCache | None = None,
) -> tuple[list[Row], tuple[str, ...]]:
    """Train the weights of `part`, a submodule of `model` (or all of it), on all failing and
    retained examples.

    What remains is the best state by the selection split: of those met on the way, the start
    included, and of those between the original and the repaired weights (WiSE-FT).

    Args:
        first, total: this is steps `first` … `total` of one schedule.
        original: state dict of `part` that computes the original function; None means its present
            one.
        fresh: those of its parameters that start from nothing, see `Descent`.
        cache: of what arrives at `part`; None makes one where it pays.

    Returns:
        The history, and notes for the user.
    """
    total = total or options.steps
    original = original or snapshot(part)
    batches, cache = (
        Batches(data, options, runtime, stage),
        cache or prefix_cache(model, part, data, options, runtime),
    )
    anchor = anchor_strength(options, data)
    parameters = dict(part.named_parameters())
    descent = Descent(parameters.values(), options, runtime, fresh=fresh, first=first, total=total)

    def step(_: int) -> Row:
        with out_of_memory_explained(f"batch_size={options.batch_size}"):
            return descent.step(
                batches.losses(model, cache), anchor_penalty(parameters, original, anchor)
            )

    trains = training_mode(model, part, batch_norm=options.batch_norm)
    with only_trainable(model, names_in(model, part)), trains, sharded(part, runtime, stage):
        monitor = Monitor(
            part,
            lambda: objective(model, data, runtime, cache),
            total - first,
            options.evaluations,
            options.patience,
        )
        state = {"part": part, "descent": descent, "batches": batches}
        history = fit(
            step, steps=total - first, stage=stage, runtime=runtime, monitor=monitor, state=state
        )
        share = interpolate(
            model, part, original, data, runtime, reached=monitor.restore(), cache=cache
        )
    notes = ()
    if share == 0:
        notes = (
            (
                "no state of the repair was better than the original on the selection split: the"
                " original weights were kept"
            ),
        )
    elif share < 1:
        notes = (
            (
                f"{share:.0%} of the way from the original weights to the repaired ones was best on"
                " the selection split"
            ),
        )
    return history, notes


def batch_norms(part: nn.Module) -> list[nn.Module]:
    """The batch norms of `part` that keep running statistics."""
    return [
        m
        for m in part.modules()
        if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats
    ]


@torch.no_grad()
def recalibrate(
    model: nn.Module,
    part: nn.Module,
    data: RepairData,
    options: Training,
    runtime: Runtime,
    *,
    batches: int,
) -> None:
    """Renew the running statistics of `part`'s batch norms: plain averages over `batches` batches
    of the repair's own mixture.
    """
    norms = batch_norms(part)
    if not norms:
        return
    supply = Batches(data, options, runtime, "recalibration")
    momenta = [m.momentum for m in norms]
    try:
        with evaluating(model), sharded(part, runtime, "recalibration"):
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum = None  # cumulative average
                norm.train()
            for _ in range(batches):
                with (
                    runtime.accelerator.autocast(),
                    out_of_memory_explained(f"batch_size={options.batch_size}"),
                ):
                    model(supply.draw()[0])
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


def interpolate(
    model: nn.Module,
    part: nn.Module,
    original: dict[str, Tensor],
    data: RepairData,
    runtime: Runtime,
    reached: float | None = None,
    cache: PrefixCache | None = None,
) -> float:
    """WiSE-FT: put `part` at θ_original + a · (θ - θ_original) for the a that the selection split
    prefers; returns a.

    Tried are 0, 1 and INTERPOLATIONS. Without retained data the failures alone would always ask for
    all of it; there the smallest a within one standard error of the best is taken, which keeps the
    model as close to the original as the evidence allows.

    Args:
        reached: the objective at a = 1, if it is known.
    """
    repaired = snapshot(part)
    values = {} if reached is None else {1.0: reached}
    for share in {0.0, *INTERPOLATIONS, 1.0} - values.keys():
        part.load_state_dict(_between(original, repaired, share))
        values[share] = objective(model, data, runtime, cache)
    best = max(values.values())
    if data.retained is None:
        share = min(max(best, 0.0), 1.0)  # the objective's tie-break can take it below zero
        best -= (share * (1 - share) / len(data.selection["failing"])) ** 0.5
    # ties go to the smaller step away from the original
    chosen = min(share for share, value in values.items() if value >= best)
    part.load_state_dict(_between(original, repaired, chosen))
    return chosen


def _between(
    original: dict[str, Tensor], repaired: dict[str, Tensor], share: float
) -> dict[str, Tensor]:
    if share in (0.0, 1.0):  # exactly, not up to rounding
        return repaired if share else original
    return {
        k: torch.lerp(original[k], v, share) if v.is_floating_point() else v
        for k, v in repaired.items()
    }
