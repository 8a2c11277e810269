"""Tuning: train the weights of one part of a model and keep the best state."""

from collections.abc import Callable, Iterable, Mapping

from torch import Tensor, nn

from timm_repair.models.temporary import only_trainable, training_mode
from timm_repair.models.weights import names_in, snapshot
from timm_repair.runtime.batch_norms import sharded
from timm_repair.runtime.memory import out_of_memory_explained
from timm_repair.training.batches import Batches
from timm_repair.training.descent import Descent
from timm_repair.training.history import Row
from timm_repair.training.interpolation import interpolate
from timm_repair.training.job import Job
from timm_repair.training.loop import Monitor, Resumable, fit
from timm_repair.training.losses import Losses, anchor_penalty, anchor_strength, batch_losses
from timm_repair.training.mixing import rarer
from timm_repair.training.objective import lost, objective
from timm_repair.training.pace import Pace
from timm_repair.training.prefix.forward import Forward


def tune(
    job: Job,
    part: nn.Module,
    *,
    stage: str = "finetune",
    first: int = 0,
    total: int | None = None,
    original: dict[str, Tensor] | None = None,
    origin: str = "original",
    fresh: Iterable[nn.Parameter] = (),
    forward: Forward | None = None,
    losses: Losses = batch_losses,
    carried: Mapping[str, Resumable] | None = None,
    rows: Mapping[str, Tensor] | None = None,
    descend: Callable[..., Descent] = Descent,
) -> tuple[list[Row], tuple[str, ...]]:
    """Train the weights of `part`, a submodule of the job's model (or all of it), on all failing
    and retained examples.

    What remains is the best state by the selection split: of those met on the way, the start
    included, and of those between the original and the repaired weights (WiSE-FT).

    Args:
        first, total: this is steps `first` … `total` of one schedule.
        original: state dict of `part` that computes the original function; None means its present
            one.
        origin: what that state is called in notes.
        fresh: those of its parameters that start from nothing, see `Descent`.
        forward: the model's answers while only `part` changes; None makes it.
        losses: what is minimized on a batch, with what `losses.batch_losses` promises.
        carried: what `losses` carries from step to step, by a name: checkpoints hold it.
        rows: which examples are drawn, see `Batches`.
        descend: what makes the steps, called as `Descent` is.

    Returns:
        The history, and notes for the user.
    """
    model, data, training, runtime = job.model, job.data, job.training, job.runtime
    total = total or training.steps
    original = original or snapshot(part)
    batches = Batches(data, training, runtime, stage, rows)
    forward = forward or job.forward(part)
    anchor = anchor_strength(training, data)
    parameters = dict(part.named_parameters())
    pace = Pace(training, total - first, runtime.accelerator)
    schedule = {"first": first, "total": total, "pace": pace}
    descent = descend(parameters.values(), training, runtime, fresh=fresh, **schedule)

    def step(_: int) -> Row:
        with out_of_memory_explained(f"batch_size={training.batch_size}"):
            return descent.step(
                losses(batches, forward), anchor_penalty(parameters, original, anchor)
            )

    trains = training_mode(model, part, batch_norm=training.batch_norm)
    with only_trainable(model, names_in(model, part)), trains, sharded(part, runtime, stage):
        monitor = Monitor(
            part,
            lambda: objective(forward, data, training.choosing),
            total - first,
            training.choosing.evaluations,
            training.choosing.patience,
        )
        own: dict[str, Resumable] = {"part": part, "descent": descent, "batches": batches}
        history = fit(
            step,
            pace=pace,
            stage=stage,
            runtime=runtime,
            monitor=monitor,
            state=own | dict(carried or {}),
        )
        share = interpolate(job, part, original, reached=monitor.restore(), forward=forward)
        loss = lost(forward, data)
    broken = None if loss is None else loss.told(training.choosing)
    notes = rarer(training, data) + _notes(share, origin, monitor.best_after, len(history))
    return history, ((broken,) if broken else ()) + notes


def _notes(share: float, origin: str, best: int, made: int) -> tuple[str, ...]:
    """What to tell the user of which state was chosen, the one after `best` of the steps that were
    `made`, and of how far it went from the original weights.
    """
    if share == 0:
        kept = f"the {origin} weights were kept"
        return (
            f"no state of the repair was better than the {origin} on the selection split: {kept}",
        )
    early, so = 0 < best < made, "was best on the selection split"
    told = f"the state after {best:,} of {made:,} steps"
    if share < 1:
        to = f"{told}, the best of those on the way," if early else "the repaired ones"
        return (f"{share:.0%} of the way from the {origin} weights to {to} {so}",)
    return (f"{told} {so}, and was kept",) if early else ()
