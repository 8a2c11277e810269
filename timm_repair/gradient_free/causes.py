"""Causes: the hidden neurons of one layer, by what the outputs do when they are set (CARE)."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from timm_repair.errors import PartitionError
from timm_repair.gradient_free.judging import Judges
from timm_repair.gradient_free.neurons import Site, doing, sites, states
from timm_repair.gradient_free.scaling import scalable
from timm_repair.models.temporary import evaluating
from timm_repair.models.tracing import trace
from timm_repair.runtime.processes import all_processes
from timm_repair.training.job import Job


def hidden_layer(job: Job, paths: Sequence[str] | None) -> Site:
    """The layer that is run last, of the modules at `paths` (None for all) whose neurons are not
    the outputs.

    Raises:
        PartitionError: there is none.
    """
    calls = trace(job.model, job.data.preprocessing.input_size)

    def begins(site: Site) -> int:
        return calls[site.tap.layer][0].start

    of_all = sites(job.model, job.data.preprocessing.input_size)
    last = max(of_all, key=begins).tap if of_all else None
    outputs = last.layer if last is not None and last.channels == job.data.num_classes else None
    hidden = [site for site in scalable(job, paths) if site.tap.layer != outputs]
    if not hidden:
        raise PartitionError(
            "the part to repair has no hidden neurons, only outputs: name another block"
        )
    return max(hidden, key=begins)


@torch.no_grad()
def watched(judges: Judges, count: int) -> Tensor:
    """(count,) the outputs that failures have for a label or an answer, the most frequent first."""
    totals = torch.zeros(judges.job.data.num_classes, dtype=torch.long)
    with evaluating(judges.job.model):
        for images, rows, logits in judges.logits():
            if images is judges.sets["failing"]:
                for classes in (images.labels[rows], logits.argmax(1).cpu()):
                    totals += classes.bincount(minlength=len(totals))
    order = totals.argsort(dim=0, descending=True, stable=True)[:count]
    return order[totals[order] > 0]


@torch.no_grad()
def effects(judges: Judges, site: Site, outputs: Tensor, *, values: int | None) -> Tensor:
    """(outputs, neurons) by how much the mean of an output over all examples moves with a neuron.

    Args:
        values: from the least to the largest state of the neuron in these examples, to which it is
            set; None adds 1 to its state instead.
    """
    job = judges.job
    model, accelerator = job.model, job.runtime.accelerator

    def mean() -> Tensor:
        pieces = [logits[:, outputs.to(logits.device)] for _, _, logits in judges.logits()]
        return torch.cat(pieces).double().mean(0)

    with evaluating(model):
        seen = states(model, [site], lambda: list(judges.logits()))
        found = torch.zeros(len(outputs), seen.shape[1], dtype=torch.float64, device=seen.device)
        plain = mean()
        for neuron in range(accelerator.process_index, seen.shape[1], accelerator.num_processes):
            means = [plain] if values is None else []
            for change in _changes(seen[:, neuron], values):
                with doing(model, site.tap, neuron, change):
                    means.append(mean())
            moved = torch.stack(means)
            found[:, neuron] = moved.amax(0) - moved.amin(0)
    return all_processes(found, accelerator).cpu()


def _changes(seen: Tensor, values: int | None) -> list[Callable[[Tensor], Tensor]]:
    """What is done to the states of a neuron that were `seen` (n,)."""
    if values is None:
        return [lambda state: state + 1]
    grid = torch.linspace(float(seen.min()), float(seen.max()), values).tolist()
    return [lambda state, value=value: torch.full_like(state, value) for value in grid]


def most_responsible(found: Tensor, count: int) -> Tensor:
    """(count,) numbers, in order, of the neurons with the largest of the effects `found` (outputs,
    neurons): the first of each output's list, then the second, ….
    """
    lists = found.argsort(dim=1, descending=True, stable=True)
    return torch.tensor(sorted(list(dict.fromkeys(lists.T.flatten().tolist()))[:count]))
