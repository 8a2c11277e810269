"""Searching: an optimizer's candidates are judged round by round, and the selection split keeps the
best of the states that it found.
"""

from collections.abc import Callable
from typing import Protocol

from torch import Tensor, nn

from timm_repair.gradient_free.judging import Cost, Judges
from timm_repair.models.temporary import evaluating
from timm_repair.training.history import Row
from timm_repair.training.loop import Monitor, Resumable, fit
from timm_repair.training.objective import lost, objective
from timm_repair.training.pace import Pace

PATIENCE = 10  # rounds without a better place, after which Arachne and NeuRecover end


class Optimizer(Resumable, Protocol):
    """What asks for the costs of places, and is told them; see `Told`.

    Attributes:
        best: the place (size,) with the lowest cost so far.
        stale: rounds since it was found.
    """

    best: Tensor
    best_cost: float
    stale: int

    def ask(self) -> Tensor: ...

    def tell(self, costs: Tensor) -> None: ...


def search(
    judges: Judges,
    part: nn.Module,
    optimizer: Optimizer,
    *,
    apply: Callable[[Tensor], None],
    cost: Cost,
    rounds: int,
    patience: int | None = None,
) -> tuple[list[Row], tuple[str, ...], bool]:
    """Leaves `part` in the best state by the selection split, the original included.

    Args:
        part: what `apply` changes.
        apply: gives the model the weights that a place (size,) stands for.
        rounds: of all candidates; a round is a step.
        patience: rounds without a better place, after which it ends.

    Returns:
        The history, one row a round; notes; whether something better than the original was found.
    """
    job, forward = judges.job, judges.forward
    choosing = job.training.choosing
    pace = Pace(job.training, rounds, job.runtime.accelerator)

    def step(_: int) -> Row:
        optimizer.tell(judges.costs(optimizer.ask(), apply, cost))
        apply(optimizer.best)
        return {"loss": optimizer.best_cost}

    with evaluating(job.model):
        monitor = Monitor(
            part,
            lambda: objective(forward, job.data, choosing),
            rounds,
            choosing.evaluations,
            choosing.patience,
        )
        start = monitor.best
        history = fit(
            step,
            pace=pace,
            stage="finetune",
            runtime=job.runtime,
            monitor=monitor,
            state={"search": optimizer},
            enough=lambda: patience is not None and optimizer.stale >= patience,
        )
        best = monitor.restore()
        loss = lost(forward, job.data)
    broken = None if loss is None else loss.told(choosing)
    return history, (broken,) if broken else (), best > start
