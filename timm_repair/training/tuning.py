"""Tuning: train the weights of one part of a model and keep the best state."""

from collections.abc import Iterable

from torch import Tensor, nn

from timm_repair.data.repair_data import RepairData
from timm_repair.models.temporary import only_trainable, training_mode
from timm_repair.models.weights import names_in, snapshot
from timm_repair.runtime.batch_norms import sharded
from timm_repair.runtime.memory import out_of_memory_explained
from timm_repair.runtime.runtime import Runtime
from timm_repair.training.batches import Batches
from timm_repair.training.descent import Descent
from timm_repair.training.history import Row
from timm_repair.training.interpolation import interpolate
from timm_repair.training.loop import Monitor, fit
from timm_repair.training.losses import anchor_penalty, anchor_strength, batch_losses
from timm_repair.training.objective import objective
from timm_repair.training.options import Training
from timm_repair.training.prefix.cache import PrefixCache, prefix_cache


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
    batches = Batches(data, options, runtime, stage)
    cache = cache or prefix_cache(model, part, data, options, runtime)
    anchor = anchor_strength(options, data)
    parameters = dict(part.named_parameters())
    descent = Descent(parameters.values(), options, runtime, fresh=fresh, first=first, total=total)

    def step(_: int) -> Row:
        with out_of_memory_explained(f"batch_size={options.batch_size}"):
            return descent.step(
                batch_losses(batches, model, cache), anchor_penalty(parameters, original, anchor)
            )

    trains = training_mode(model, part, batch_norm=options.batch_norm)
    with only_trainable(model, names_in(model, part)), trains, sharded(part, runtime, stage):
        monitor = Monitor(
            part,
            lambda: objective(model, data, runtime, cache),
            total - first,
            options.choosing.evaluations,
            options.choosing.patience,
        )
        state = {"part": part, "descent": descent, "batches": batches}
        history = fit(
            step, steps=total - first, stage=stage, runtime=runtime, monitor=monitor, state=state
        )
        share = interpolate(
            model, part, original, data, runtime, reached=monitor.restore(), cache=cache
        )
    return history, _notes(share)


def _notes(share: float) -> tuple[str, ...]:
    """What to tell the user of how far the repair went from the original weights."""
    if share == 0:
        kept = "the original weights were kept"
        return (
            f"no state of the repair was better than the original on the selection split: {kept}",
        )
    if share < 1:
        best = "was best on the selection split"
        return (f"{share:.0%} of the way from the original weights to the repaired ones {best}",)
    return ()
