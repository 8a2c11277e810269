"""Perturbing: the operation that an edge keeps is the one that is missed most when it is taken out
(DARTS-PT, Wang et al., ICLR 2021), and not the one of the largest α.

The paper trains the relaxed network for some epochs after each decision. Here all decisions are
made on the network as the search leaves it, and the fine-tuning comes after them. The paper always
keeps an operation; here an edge keeps none where none is missed by more than the error of what it
is measured on.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from timm_repair.architecture.relaxation import RelaxedBlock
from timm_repair.training.job import Job
from timm_repair.training.objective import judged
from timm_repair.training.prefix.forward import Forward


@torch.no_grad()
def missed_most(job: Job, relaxed: Sequence[RelaxedBlock], forward: Forward) -> list[Tensor]:
    """Edge by edge, in random order, over all blocks: take out each operation alone, keep the one
    whose loss hurts the selection split most, and go on with the others of that edge left out.

    Args:
        relaxed: the blocks, in place in the job's model, as a search leaves them.
        forward: the model's answers while only these change.

    Returns:
        Of each block (E,): number of each edge's operation, as `RelaxedBlock.chosen`.
    """

    def value():
        return judged(forward, job.data, job.training.choosing)

    edges = [(block, row) for block, each in enumerate(relaxed) for row in range(len(each.alpha))]
    chosen = [torch.empty(len(each.alpha), dtype=torch.long) for each in relaxed]
    order = torch.randperm(len(edges), generator=job.runtime.generator("perturbation"))
    try:
        for each in relaxed:
            each.fixed = each.final_weights().clone()
        whole = value()
        for index in order.tolist():
            block, row = edges[index]
            weights, candidates = relaxed[block].fixed, relaxed[block].skeleton.candidates
            assert weights is not None, "they were fixed above"
            mixed, without = weights[row].clone(), {}
            for number, name in enumerate(candidates):
                if name != "none" and mixed[number] != 0:
                    weights[row, number] = 0
                    without[number] = value()
                    weights[row] = mixed
            worst = min(without, key=lambda number: without[number].value, default=None)
            weights[row] = 0
            if worst is not None and whole.beats(without[worst]):
                weights[row, worst] = mixed[worst]
                chosen[block][row] = worst
            else:
                chosen[block][row] = candidates.index("none")
            whole = value()
    finally:
        for each in relaxed:
            each.fixed = None
    return chosen
