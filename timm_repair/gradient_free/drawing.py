"""Drawing: the failures and the examples that are right which a search is told by."""

import torch
from torch import Tensor

from timm_repair.errors import DataError, NoFailuresError
from timm_repair.images.images import Images
from timm_repair.runtime.processes import agreed
from timm_repair.training.imitation import outputs_for
from timm_repair.training.job import Job

_ASKED = 5  # times as many as are wanted are asked: of some the model is wrong


def draw(job: Job, *, failures: int, positives: int | None, by_class: bool) -> dict[str, Tensor]:
    """Rows of the populations of `RepairData.train`: at most so many failures that the model gets
    wrong, and retained and passing examples that it gets right.

    Args:
        positives: how many of the latter, at most; None takes as many as there are failures.
        by_class: each class has its proportion of them, as far as whole examples go.

    Raises:
        NoFailuresError: the model gets every failure right.
        DataError: there are no examples that it gets right.
    """
    wrong = _answered(job, job.data.failing, failures, right=False)
    if not len(wrong):
        raise NoFailuresError("the model gets every failure right already: nothing to repair")
    count = len(wrong) if positives is None else positives
    names = [name for name in ("retained", "passing") if name in job.data.train]
    rows = [_answered(job, job.data.train[name], count, right=True) for name in names]
    if not sum(map(len, rows)):
        raise DataError(
            "the search weighs failures against examples that the model gets right, and there are"
            " none: give retain="
        )
    owner = torch.cat([torch.full_like(these, i) for i, these in enumerate(rows)])
    labels = [job.data.train[name].labels[these] for name, these in zip(names, rows, strict=True)]
    generator = job.runtime.generator("positives")
    order = torch.randperm(len(owner), generator=generator)
    if by_class:
        order = order[torch.cat(labels)[order].argsort(stable=True)]
        places = (torch.arange(min(count, len(order))) + 0.5) * len(order)
        order = order[(places / min(count, len(order))).long()]
    chosen = order[:count].sort().values
    found = {"failing": wrong}
    for i, name in enumerate(names):
        these = torch.cat(rows)[chosen[owner[chosen] == i]]
        if len(these):
            found[name] = these
    return agreed(found, job.runtime.accelerator)


def _answered(job: Job, images: Images, most: int, *, right: bool) -> Tensor:
    """Rows (n,), in order, of at most so many that the model gets right, or wrong."""
    generator = job.runtime.generator(f"judges of {images.name}")
    asked = torch.randperm(len(images), generator=generator)[: _ASKED * most]
    logits = outputs_for(job, job.model, images.subset(asked))
    these = images.right(logits, asked).cpu() == right
    return asked[these][:most].sort().values
