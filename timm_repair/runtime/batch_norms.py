"""Batch norms over several processes: normalized by the statistics of the whole batch."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from timm_repair.runtime.processes import gathered
from timm_repair.runtime.randomness import own_randomness
from timm_repair.runtime.runtime import Runtime

T = TypeVar("T")


@contextmanager
def sharded(part: nn.Module, runtime: Runtime, purpose: str) -> Iterator[None]:
    """For forward and backward passes over this process's part of a batch: batch norms of `part`
    that are in training mode normalize by the mean and variance of the whole batch, and renew their
    running statistics by them. Nothing changes on a single process.

    Dropout and the like draw from the global random state, here of each process its own; afterwards
    it is as it was, the same on all.

    Args:
        purpose: of the random draws, see `Runtime.generator`.
    """
    accelerator = runtime.accelerator
    if accelerator.num_processes == 1:
        yield
        return
    # only inside these modules: a convolution may standardize its weights by the same function
    norms = [m for m in part.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    before = [vars(norm).get("forward") for norm in norms]
    seed = runtime.generator(f"{purpose} on process {accelerator.process_index}").initial_seed()
    try:
        for norm in norms:
            norm.forward = _with_whole_batches(norm.forward, accelerator)
        with own_randomness(seed):
            yield
    finally:
        for norm, forward in zip(norms, before, strict=True):
            del norm.forward
            if forward is not None:
                norm.forward = forward


def _with_whole_batches(forward: Callable, accelerator: Accelerator) -> Callable:
    def whole(*args: Any, **options: Any) -> Tensor:
        with _WholeBatches(accelerator):
            return forward(*args, **options)

    return whole


class _WholeBatches(TorchFunctionMode):
    """`F.batch_norm` in training mode takes its statistics over the examples of all processes.

    torch's SyncBatchNorm is for GPUs alone, and timm's norms with an activation have a forward pass
    of their own, so the function is replaced and not the modules.
    """

    def __init__(self, accelerator: Accelerator):
        super().__init__()
        self.accelerator = accelerator

    def __torch_function__(self, function, types, args=(), kwargs=None):
        return (self._batch_norm if function is F.batch_norm else function)(*args, **(kwargs or {}))

    def _batch_norm(
        self,
        x: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        if not training:
            return F.batch_norm(x, running_mean, running_var, weight, bias, False, momentum, eps)
        mean, squares, count = _moments(x.detach(), self.accelerator)
        with torch.no_grad():
            for running, value in ((running_mean, mean), (running_var, squares / (count - 1))):
                if running is not None:
                    running.lerp_(value.to(running.dtype), momentum)
        return _Normalize.apply(
            x, weight, bias, mean, squares / count, count, eps, self.accelerator
        )


def _moments(x: Tensor, accelerator: Accelerator) -> tuple[Tensor, Tensor, Tensor]:
    """Per channel of (n, C, ...) on all processes: the mean (C,), the squared distances from it
    (C,), and how many values there are ().
    """
    x = _wide(x)
    var, mean = torch.var_mean(x, _all_but_channels(x), correction=0)
    count = torch.full_like(mean, x.numel() // len(mean))
    everyone = gathered(torch.stack([count, mean, var * count])[None], accelerator)
    counts, means, squares = everyone.unbind(1)
    mean = (counts * means).sum(0) / counts.sum(0)
    # as distances from the common mean: a difference of squares would cancel
    return mean, (squares + counts * (means - mean).square()).sum(0), counts.sum(0)[0]


class _Normalize(torch.autograd.Function):
    """Batch normalization by given moments of the whole batch, differentiable also through these: x
    of every process moves them.
    """

    @staticmethod
    def forward(ctx, x, weight, bias, mean, var, count, eps, accelerator):
        ctx.save_for_backward(x, weight, mean, (var + eps).rsqrt(), count)
        ctx.accelerator = accelerator
        if weight is not None:  # a kernel wants them of one type
            mean, var = mean.to(weight.dtype), var.to(weight.dtype)
        return F.batch_norm(x, mean, var, weight, bias, False, 0.0, eps)

    @staticmethod
    def backward(ctx, gradient):
        x, weight, mean, scale, count = ctx.saved_tensors
        shape, wide = (1, -1) + (1,) * (x.ndim - 2), _wide(gradient)
        normal = (_wide(x) - mean.view(shape)) * scale.view(shape)
        sums = torch.stack(
            [wide.sum(_all_but_channels(x)), (wide * normal).sum(_all_but_channels(x))]
        )
        of_input = None
        if ctx.needs_input_grad[0]:
            along, across = (ctx.accelerator.reduce(sums, "sum") / count).view(2, *shape)
            scale = scale if weight is None else scale * weight
            of_input = (scale.view(shape) * (wide - along - normal * across)).to(x.dtype)
        # of this process's examples alone: gradients of parameters are averaged later
        of_bias, of_weight = (None, None) if weight is None else sums.to(weight.dtype)
        return of_input, of_weight, of_bias, None, None, None, None, None


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _all_but_channels(x: Tensor) -> list[int]:
    return [d for d in range(x.ndim) if d != 1]
