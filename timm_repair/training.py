"""Training: the options every method shares, and fit(), the only loop.

`fit` repeats a step that it is given. A step draws a batch, computes a loss and hands it to a
`Descent`; a method differs in what its step does and in which parameters its `Descent` holds. A
`Monitor` keeps the best state by the selection split, the start included.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from timm_repair.data import Images, RepairData
from timm_repair.distributed import average
from timm_repair.errors import NonFiniteError, OptionError
from timm_repair.evaluation import Prediction, predict
from timm_repair.journal import CHECKPOINTS
from timm_repair.options import check_types
from timm_repair.runtime import Runtime
from timm_repair.surgery import evaluating, snapshot

if TYPE_CHECKING:
    from timm_repair.caching import PrefixCache

Row = dict[str, object]
# between the original weights and the repaired ones, see `methods.tuning`
INTERPOLATIONS = (0.25, 0.5, 0.75)
_CHOICES = {
    "batch_norm": ("train", "frozen"),
    "cache": ("auto", "always", "never"),
    "cache_precision": ("same", "bf16", "fp16"),
}


class Resumable(Protocol):
    """Something whose state a checkpoint holds."""

    def state_dict(self) -> dict: ...

    def load_state_dict(self, state: dict) -> object: ...


@dataclass(frozen=True, kw_only=True)
class Training:
    """How weights are trained; the same fields serve every method, so that methods are compared at
    equal cost.

    Args:
        steps: optimizer steps in all; an architecture step counts as one.
        batch_size: examples a step, failures and retained ones together, over all processes.
        failing_share: share of failures in a batch, from 0 to 1; without retained data every
            example is a failure.
        wrong_class_weight: weight, in the softmax of a failure, of the class that the original
            predicts for it. Failures are chosen by not being that class, so plain cross-entropy (1)
            teaches that the class never occurs in their population, and breaks what the model had
            right there; 0 leaves it out (the likelihood of the label given that it is not that
            class). None is 0, and 1 for a model of two classes, whose failures would otherwise say
            nothing.
        learning_rate: of SGD with momentum, at its peak; it rises over the first `warmup` of the
            steps and falls as a cosine to zero.
        fresh_rate: paths that archrepair adds start from nothing and learn this many times as fast
            as inherited weights.
        weight_decay: for weights; biases, norms, gates and gains take none.
        anchor: λ of λ/2 · ||θ - θ_original||² (L2-SP), which holds a repair close to the original;
            None is 0 with retained data and 0.1 without, where nothing else does.
        batch_norm: "train" renews the statistics of the trained part, "frozen" keeps them; those of
            all other parts are always kept.
        hflip: probability of a horizontal flip (0 for digits and other images that have a left and
            a right).
        shift: largest random shift as a share of the image's side.
        views: fixed augmentations of each example, in turn; None augments anew each time. Where a
            late block is repaired, and examples come again more often than they have views, what
            the model computes before the block is then computed once per view.
        cache: "auto" keeps what arrives at the repaired part where that pays, "always" wherever it
            can, "never" not; see `caching`.
        cache_memory, cache_disk: GiB that it may take, per process, on the device and in temporary
            files.
        cache_precision: "same" keeps what was computed; "fp16" and "bf16" round it, float32 then
            takes half the room.
        evaluations: how often the selection split is measured on the way; the best state is what
            remains.
        patience: stop early after so many measurements without a better one; None spends all steps.
    """

    steps: int = 300
    batch_size: int = 128
    failing_share: float = 0.5
    wrong_class_weight: float | None = None
    learning_rate: float = 0.02
    momentum: float = 0.9
    fresh_rate: float = 5.0
    weight_decay: float = 5e-4
    warmup: float = 0.05
    clip: float = 5.0
    anchor: float | None = None
    batch_norm: str = "train"
    hflip: float = 0.5
    shift: float = 0.125
    views: int | None = None
    cache: str = "auto"
    cache_memory: float = 1.0
    cache_disk: float = 16.0
    cache_precision: str = "same"
    evaluations: int = 6
    patience: int | None = None

    def __post_init__(self):
        check_types(self)
        for name in ("steps", "batch_size", "evaluations", "patience", "views"):
            if (1 if (value := getattr(self, name)) is None else value) < 1:
                raise OptionError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("failing_share", "wrong_class_weight", "warmup", "hflip", "shift"):
            if not 0 <= (getattr(self, name) or 0) <= 1:
                raise OptionError(f"{name} is a share from 0 to 1, got {getattr(self, name)}")
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise OptionError(
                    f"{name} is {' or '.join(map(repr, choices))}, got {getattr(self, name)!r}"
                )
        for name in ("learning_rate", "clip", "fresh_rate"):
            if not getattr(self, name) > 0:
                raise OptionError(f"{name} must be positive, got {getattr(self, name)}")
        if (
            not 0 <= self.momentum < 1
            or min(self.weight_decay, self.anchor or 0, self.cache_memory, self.cache_disk) < 0
        ):
            raise OptionError(
                "momentum must be from 0 to below 1; weight_decay, anchor, cache_memory and"
                " cache_disk must not be negative"
            )
        if self.shift >= 0.5:
            raise OptionError(
                f"shift must be below 0.5, got {self.shift}: the border is filled by reflection"
            )

    def wrong_class_weight_for(self, num_classes: int) -> float:
        """`wrong_class_weight` with its default filled in."""
        return (
            (1.0 if num_classes == 2 else 0.0)
            if self.wrong_class_weight is None
            else self.wrong_class_weight
        )


class Descent:
    """SGD on some parameters along one schedule; `step(loss)` is backward, all-reduce, clip and
    update.

    Gradients are averaged over processes here rather than by a wrapper around the model: the steps
    of a search touch disjoint sets of parameters in turn, and only a block's parameters need to
    travel.

    Args:
        parameters: those to train.
        fresh: those of them that start from nothing (added paths); they learn `options.fresh_rate`
            times as fast.
        first, total: the schedule is that of steps `first` … of `total`, so that stages can share
            one.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        options: Training,
        runtime: Runtime,
        *,
        fresh: Iterable[nn.Parameter] = (),
        first: int = 0,
        total: int | None = None,
    ):
        self.parameters, self.options, self.runtime = list(parameters), options, runtime
        self.done, self.total = first, total or options.steps
        new = {id(p) for p in fresh}
        groups = [
            {
                "params": [
                    p
                    for p in self.parameters
                    if (p.ndim > 1) == decays and (id(p) in new) == is_new
                ],
                "weight_decay": options.weight_decay if decays else 0.0,
                "factor": options.fresh_rate if is_new else 1.0,
            }
            for decays in (True, False)
            for is_new in (True, False)
        ]
        optimizer = torch.optim.SGD(
            [g for g in groups if g["params"]], lr=options.learning_rate, momentum=options.momentum
        )
        self.optimizer = runtime.accelerator.prepare_optimizer(optimizer)

    @property
    def learning_rate(self) -> float:
        warm = max(round(self.options.warmup * self.total), 1)
        rise = min((self.done + 1) / warm, 1.0)
        fall = 0.5 * (1 + math.cos(math.pi * max(self.done - warm, 0) / max(self.total - warm, 1)))
        return self.options.learning_rate * rise * fall

    def state_dict(self) -> dict:
        """Momentum and place in the schedule, for `load_state_dict`."""
        return {"done": self.done, "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: Mapping) -> None:
        """Go on from there."""
        self.done = state["done"]
        self.optimizer.load_state_dict(state["optimizer"])

    def step(self, *losses: Tensor | Iterable[Tensor]) -> Row:
        """Follow the gradient of the sum of `losses` by one step; returns the row for the history.
        See `gradient_step`.
        """
        rate = self.learning_rate
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        value = gradient_step(
            self.optimizer, self.parameters, losses, self.runtime, clip=self.options.clip
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
) -> float:
    """Backward for `parameters` alone, averaged over processes, then one step of `optimizer`;
    returns the loss, averaged likewise.

    Args:
        losses: summands, or iterables of them; of the latter each is computed, and its graph freed,
            before the next.
    """
    accelerator, total = runtime.accelerator, None
    optimizer.zero_grad()
    for loss in itertools.chain.from_iterable(
        [each] if isinstance(each, Tensor) else each for each in losses
    ):
        # accelerate divides by it, for losses that are means of their parts
        accelerator.backward(loss * accelerator.gradient_accumulation_steps, inputs=parameters)
        total = loss.detach() if total is None else total + loss.detach()
    value = average(parameters, total, accelerator)
    if clip is not None:
        accelerator.clip_grad_norm_(parameters, clip)
    optimizer.step()
    return value


class Monitor:
    """Keeps the best state of `part` by `objective()` (higher is better), measured at the start and
    then `evaluations` times.
    """

    def __init__(
        self,
        part: nn.Module,
        objective: Callable[[], float],
        steps: int,
        evaluations: int,
        patience: int | None = None,
    ):
        self.part, self.objective, self.patience, self.stale = part, objective, patience, 0
        self.every = max(math.ceil(steps / evaluations), 1)
        self.steps, self.best, self.state = steps, -math.inf, None
        self.check(0)

    def check(self, done: int) -> float | None:
        """Measure if it is time to; remember the state if it is better than all before."""
        if done % self.every and done != self.steps:
            return None
        value = self.objective()
        self.stale = 0 if value > self.best else self.stale + 1
        if value > self.best:
            self.best, self.state = value, snapshot(self.part)
        return value

    def state_dict(self) -> dict:
        """The best so far, for `load_state_dict`."""
        return {"best": self.best, "state": self.state, "stale": self.stale}

    def load_state_dict(self, state: Mapping) -> None:
        """Go on from there."""
        self.best, self.state, self.stale = state["best"], state["state"], state["stale"]

    def restore(self) -> float:
        """Bring the best state back; returns its objective."""
        self.part.load_state_dict(self.state)
        return self.best


def fit(
    step: Callable[[int], Row],
    *,
    steps: int,
    stage: str,
    runtime: Runtime,
    monitor: Monitor | None = None,
    state: Mapping[str, Resumable] | None = None,
) -> list[Row]:
    """The loop: `step(i)` for i in 0 … steps-1, with a progress bar; returns the history, one row a
    step.

    Args:
        state: all that `step` changes. With it, and with a journal, the loop starts where an
            earlier run of the same was killed.

    Raises:
        NonFiniteError: the loss became NaN or infinite.
        OutputError: a checkpoint cannot be written.
    """
    state = (
        (dict(state) | ({"monitor": monitor} if monitor else {}))
        if state and runtime.journal
        else None
    )
    history, ended = _resumed(stage, state, runtime)
    runtime.skip_logged(len(history))
    every = math.ceil(steps / CHECKPOINTS)
    with runtime.bar(steps, stage) as bar:
        bar.update(len(history))
        for i in range(len(history), 0 if ended else steps):
            row = {"stage": stage, "step": i} | step(i)
            if not math.isfinite(row["loss"]):
                raise NonFiniteError(
                    f"the loss became {row['loss']} at step {i} of {stage}: lower learning_rate"
                )
            if monitor and (value := monitor.check(i + 1)) is not None:
                row["objective"] = value
            history.append(row)
            runtime.log(row)
            bar.set_postfix(loss=f"{row['loss']:.3f}", refresh=False)
            bar.update()
            ended = i + 1 == steps or bool(
                monitor and monitor.patience is not None and monitor.stale >= monitor.patience
            )
            if state is not None and (ended or (i + 1) % every == 0):
                parts = {name: part.state_dict() for name, part in state.items()}
                runtime.journal.checkpoint(
                    stage, {"history": history, "ended": ended, "parts": parts}
                )
            if ended:
                break
    return history


def _resumed(
    stage: str, state: Mapping[str, Resumable] | None, runtime: Runtime
) -> tuple[list[Row], bool]:
    """History of a loop that was begun in an earlier run, whether it had ended, and everything in
    `state` as it was then.
    """
    kept = None if state is None else runtime.journal.state(stage)
    if kept is None:
        return [], False
    for name, part in state.items():
        part.load_state_dict(kept["parts"][name])
    return list(kept["history"]), kept["ended"]


def objective(
    model: nn.Module, data: RepairData, runtime: Runtime, cache: "PrefixCache | None" = None
) -> float:
    """What selection maximizes: estimated accuracy in production, from the selection split; ties go
    to the lower loss.

    The model's error rate in production weighs the failing examples against the retained ones
    (`collect_failures` knows it; 1/2 where it is unknown): fixing a failure of a model that is
    wrong 20 % of the time must not cost a quarter of an example it had right.
    """
    values = {}
    for name, images in data.selection.items():
        found = (
            predict(model, images, data.preprocessing, runtime)
            if cache is None
            else cache.predict(name)
        )
        values[name] = _accuracy(found, images)
    if "retained" not in values:
        return values["failing"]
    rate = 0.5 if data.error_rate is None else data.error_rate
    return rate * values["failing"] + (1 - rate) * values["retained"]


def _accuracy(prediction: Prediction, images: Images) -> float:
    loss = prediction.losses.double().mean().item()
    # the loss decides among equal accuracies only: it takes off less than half an example
    return (prediction.predictions == images.labels).double().mean().item() - 0.5 / len(
        images
    ) * loss / (1 + loss)


@contextmanager
def training_mode(
    model: nn.Module, part: nn.Module, *, batch_norm: str = "train"
) -> Iterator[None]:
    """`part` in training mode and every other module in eval mode: statistics that moved elsewhere
    would be a hidden repair.
    """
    with evaluating(model):
        part.train()
        for module in part.modules() if batch_norm == "frozen" else ():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        yield
