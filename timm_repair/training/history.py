"""History: what one step of a loop leaves."""

from typing import Required, TypedDict


class Row(TypedDict, total=False):
    """One step; `stage`, `step` and `loss` are always there.

    Attributes:
        stage: of the run, such as "search" or "finetune"; `step` counts from zero in it.
        loss: the step's, averaged over processes.
        lr: learning rate, where gradients are followed.
        objective: on the selection split, where it was measured after this step.
        architecture: the step moved architecture parameters, not weights.
        alpha: in the last row of a search: α (E, operations), the edges of one block after those of
            the other; `edges` says how many each block has, `operations` names the columns; None
            where a block has another's operation not among its own.
    """

    stage: str
    step: int
    loss: Required[float]
    lr: float
    objective: float
    architecture: bool
    alpha: list[list[float | None]]
    edges: list[int]
    operations: list[str]
