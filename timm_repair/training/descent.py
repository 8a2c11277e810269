"""Descent: stochastic gradient descent on some parameters along one schedule."""

import itertools
import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from timm_repair.errors import ModelError
from timm_repair.runtime.processes import average
from timm_repair.runtime.runtime import Runtime
from timm_repair.training.history import Row
from timm_repair.training.options import Training
from timm_repair.training.pace import Pace


class Descent:
    """SGD on some parameters along one schedule; `step(loss)` is backward, all-reduce, clip and
    update.

    Gradients are averaged over processes here rather than by a wrapper around the model: the steps
    of a search touch disjoint sets of parameters in turn, and only a block's parameters need to
    travel.

    Args:
        parameters: those to train.
        fresh: those of them that start from nothing (added paths); they learn `fresh_rate`
            times as fast.
        pace: the clock of the loop that it makes steps in; None where nobody looks at one.
        span: how many of its own steps that loop has; None takes all of the loop's.
        first, total: the schedule is that of steps `first` … of `total`, so that stages can share
            one.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        training: Training,
        runtime: Runtime,
        *,
        fresh: Iterable[nn.Parameter] = (),
        pace: Pace | None = None,
        span: int | None = None,
        first: int = 0,
        total: int | None = None,
    ):
        self.parameters, self.training, self.runtime = list(parameters), training, runtime
        self.done, self.first, self.total, self.pace = first, first, total or training.steps, pace
        self.span = span if span is not None or pace is None else pace.steps
        new = {id(p) for p in fresh}
        groups = [
            {
                "params": [
                    p
                    for p in self.parameters
                    if (p.ndim > 1) == decays and (id(p) in new) == is_new
                ],
                "weight_decay": training.optimizing.weight_decay if decays else 0.0,
                "factor": training.optimizing.fresh_rate if is_new else 1.0,
            }
            for decays in (True, False)
            for is_new in (True, False)
        ]
        optimizer = torch.optim.SGD(
            [g for g in groups if g["params"]],
            lr=training.optimizing.learning_rate,
            momentum=training.optimizing.momentum,
        )
        self.optimizer = runtime.accelerator.prepare_optimizer(optimizer)

    @property
    def place(self) -> int:
        """In the schedule: where its steps are, or its time."""
        led = 0 if self.pace is None else int(self.pace.share * (self.span or 0))
        return min(max(self.done, self.first + led), self.total)

    @property
    def learning_rate(self) -> float:
        warm = max(round(self.training.optimizing.warmup * self.total), 1)
        rise = min((self.place + 1) / warm, 1.0)
        fall = 0.5 * (1 + math.cos(math.pi * max(self.place - warm, 0) / max(self.total - warm, 1)))
        return self.training.optimizing.learning_rate * rise * fall

    def state_dict(self) -> dict:
        """Momentum and place in the schedule, for `load_state_dict`."""
        return {"done": self.done, "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: Mapping) -> None:
        """Go on from there."""
        self.done = state["done"]
        self.optimizer.load_state_dict(state["optimizer"])

    def step(
        self,
        *losses: Tensor | Iterable[Tensor],
        beside: tuple[Any, list[nn.Parameter]] | None = None,
    ) -> Row:
        """Follow the gradient of the sum of `losses` by one step; returns the row for the history.
        See `gradient_step`.
        """
        rate = self.learning_rate
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        value = gradient_step(
            self.optimizer,
            self.parameters,
            losses,
            self.runtime,
            clip=self.training.optimizing.clip,
            beside=beside,
        )
        self.done += 1
        return {"loss": value, "lr": rate}


def gradient_step(
    optimizer,
    parameters: list[nn.Parameter],
    losses: Iterable[Tensor | Iterable[Tensor]],
    runtime: Runtime,
    *,
    clip: float | None = None,
    beside: tuple[Any, list[nn.Parameter]] | None = None,
) -> float:
    """One step of `optimizer` along `gradients`; returns the loss.

    Args:
        beside: another optimizer and its parameters, which follow the same gradient, unclipped.
    """
    optimizers, everyone = [optimizer], parameters
    if beside is not None:
        optimizers, everyone = [optimizer, beside[0]], [*parameters, *beside[1]]
    for each in optimizers:
        each.zero_grad()
    value = gradients(everyone, losses, runtime)
    if clip is not None:
        runtime.accelerator.clip_grad_norm_(parameters, clip)
    for each in optimizers:
        each.step()
    return value


def gradients(
    parameters: list[nn.Parameter],
    losses: Iterable[Tensor | Iterable[Tensor]],
    runtime: Runtime,
) -> float:
    """Backward for `parameters` alone, averaged over processes; returns the loss, averaged
    likewise.

    Args:
        losses: summands, or iterables of them; of the latter each is computed, and its graph freed,
            before the next.
    """
    accelerator, total = runtime.accelerator, None
    for loss in itertools.chain.from_iterable(
        [each] if isinstance(each, Tensor) else each for each in losses
    ):
        if not loss.requires_grad:
            raise ModelError(
                "the model's answers carry no gradient, and training follows it: its forward runs"
                " under torch.no_grad(), detaches, or leaves torch (numpy); remove that"
            )
        # accelerate divides by it, for losses that are means of their parts
        accelerator.backward(loss * accelerator.gradient_accumulation_steps, inputs=parameters)
        total = loss.detach() if total is None else total + loss.detach()
    assert total is not None, "a step has a loss"
    return average(parameters, total, accelerator)
