"""Processes: what makes a repair on several of them the same as on one.

Each process has every N-th example of a batch; its loss counts by its share of the examples,
gradients and losses are averaged, and what is computed without the others is taken from the main
process. Batch norms that see the whole batch: batch_norms.py. All collectives are accelerate's own,
so the same code runs on CPUs and on accelerators.
"""

from collections.abc import Sequence
from typing import TypeVar, cast

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn

from timm_repair.errors import OptionError

T = TypeVar("T")


def require_shares(batch_size: int, accelerator: Accelerator) -> None:
    """Raise OptionError if there are processes without an example of a batch, or of a part of it
    that gradients are accumulated over.
    """
    shares = accelerator.num_processes * accelerator.gradient_accumulation_steps
    if batch_size < shares:
        parts = (
            f" x {accelerator.gradient_accumulation_steps} accumulated parts"
            if accelerator.gradient_accumulation_steps > 1
            else ""
        )
        raise OptionError(
            f"batch_size={batch_size} is less than the {accelerator.num_processes}"
            f" processes{parts}: it counts the examples of all of them together; give at least"
            f" {shares}, or start fewer"
        )


def share_of_batch(count: int, batch_size: int, accelerator: Accelerator) -> float:
    """What a mean over this process's `count` of `batch_size` examples is multiplied by, so that
    the mean over processes is that of all.
    """
    return count * accelerator.num_processes / batch_size


def share_of(indices: Tensor, accelerator: Accelerator) -> Tensor:
    """Those of `indices` (n,) that this process reads."""
    return indices[accelerator.process_index :: accelerator.num_processes]


def gathered(tensor: Tensor, accelerator: Accelerator) -> Tensor:
    """The tensors (n, …) of all processes, one after the other."""
    return cast(
        Tensor, accelerator.gather(tensor)
    )  # of a tensor a tensor, which accelerate's hints leave open


def reduced(tensor: Tensor, how: str, accelerator: Accelerator) -> Tensor:
    """The "sum" or "mean" of a tensor over all processes."""
    return cast(Tensor, accelerator.reduce(tensor, how))


def all_processes(sums: Tensor, accelerator: Accelerator) -> Tensor:
    """The sum over processes."""
    return reduced(sums, "sum", accelerator) if accelerator.num_processes > 1 else sums


@torch.no_grad()
def average(parameters: Sequence[nn.Parameter], loss: Tensor, accelerator: Accelerator) -> float:
    """Average the gradients of `parameters` over processes, in place; returns `loss` averaged
    likewise.

    In one go: a model has hundreds of parameters, most of them small. Those without a gradient have
    none on any process.
    """
    if accelerator.num_processes == 1:
        return loss.item()
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([g.flatten() for g in (*gradients, loss.detach())])
    *means, loss = reduced(flat, "mean", accelerator).split([g.numel() for g in gradients] + [1])
    for gradient, mean in zip(gradients, means, strict=True):
        gradient.copy_(mean.view(gradient.shape))  # keeps its memory format
    return loss.item()


def agreed(value: T, accelerator: Accelerator) -> T:
    """The main process's `value`, on all processes: what each computed for itself may differ in the
    last bits.
    """
    return broadcast_object_list([value])[0] if accelerator.num_processes > 1 else value
