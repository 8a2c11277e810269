"""Measuring: a model's answers to every population of the holdout, and what it costs to run. The
same before and after a repair.

Costs are incidental: what cannot be measured is unknown and noted, and the repair goes on.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from timm_repair.architecture.flow import flows
from timm_repair.data.predicting import predict
from timm_repair.data.repair_data import RepairData
from timm_repair.images.images import Images
from timm_repair.methods.method import Outcome
from timm_repair.models.temporary import evaluating
from timm_repair.report.examples import Examples
from timm_repair.runtime.runtime import Runtime
from timm_repair.runtime.timing import in_turns, ratios

_RANGE = (0.1, 0.5, 0.9)  # quantiles: the middle, and what most are between


@dataclass(frozen=True)
class Measured:
    """What a model does on the holdout, and what it costs.

    Args:
        answers, losses, confidences: per population (N,) each, as from `predict`; what a run of
            before the latter were asked for has left, has none.
        cost: see `cost`, with notes on what of it is unknown.
    """

    answers: dict[str, Tensor]
    losses: dict[str, Tensor]
    cost: dict[str, Any]
    notes: tuple[str, ...] = ()
    confidences: dict[str, Tensor] = field(default_factory=dict)


def measure(model: nn.Module, data: RepairData, runtime: Runtime) -> Measured:
    """Measure `model` on the whole holdout."""
    found = {
        p: predict(model, images, data.preprocessing, runtime) for p, images in data.holdout.items()
    }
    answers, losses, confidences = (
        {p: getattr(each, name) for p, each in found.items()}
        for name in ("predictions", "losses", "confidences")
    )
    return Measured(answers, losses, *cost(model, data, runtime), confidences)


def cost(
    model: nn.Module, data: RepairData, runtime: Runtime
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Parameters, and FLOPs of one image's forward pass (a multiply-add counts two); None for what
    torch cannot count, with a note.
    """

    @torch.no_grad()
    def count() -> int:
        counter = FlopCounterMode(display=False)
        with evaluating(model), counter:
            model(_image(data, runtime))
        return counter.get_total_flops()

    flops, notes = _incidental("FLOPs per image", count)
    return {"parameters": sum(p.numel() for p in model.parameters()), "flops": flops}, notes


def latency(
    before: nn.Module, after: nn.Module, data: RepairData, runtime: Runtime
) -> tuple[dict[str, dict[str, Any]], tuple[str, ...]]:
    """Milliseconds that each model takes for one image, and the relative change; for each the
    median, and the range of the middle 80 %.

    In turns, pair by pair: what else the machine does meets both models alike. Two of the same
    architecture take as long by definition: there all turns are of one model.

    Returns:
        {"before": {"latency_ms", "latency_range_ms"}, "after": likewise, "change": {"latency",
        "latency_range"} (shares of 1)}; empty, with a note, where it cannot be measured.
    """

    @torch.no_grad()
    def paired() -> np.ndarray:
        image = _image(data, runtime)
        with evaluating(before), evaluating(after):
            # item() waits for the accelerator
            return in_turns(lambda: before(image).sum().item(), lambda: after(image).sum().item())

    seconds, notes = _incidental("latency", paired)
    if seconds is None:
        return {}, notes
    if _alike(before, after):
        seconds = np.repeat(seconds.reshape(-1, 1), 2, axis=1)
    found: dict[str, dict[str, Any]] = {}
    for name, values in (("before", 1000 * seconds[:, 0]), ("after", 1000 * seconds[:, 1])):
        low, middle, high = np.quantile(values, _RANGE).tolist()
        found[name] = {"latency_ms": middle, "latency_range_ms": [low, high]}
    low, middle, high = np.quantile(ratios(seconds) - 1, _RANGE).tolist()
    return found | {"change": {"latency": middle, "latency_range": [low, high]}}, ()


def _alike(one: nn.Module, other: nn.Module) -> bool:
    """Whether both are made of the same modules with tensors of the same shapes."""
    kinds = [
        [(name, type(module)) for name, module in model.named_modules()] for model in (one, other)
    ]
    # a state may hold what is no tensor
    shapes = [
        {name: getattr(value, "shape", None) for name, value in model.state_dict().items()}
        for model in (one, other)
    ]
    return kinds[0] == kinds[1] and shapes[0] == shapes[1]


def flow_of(
    model: nn.Module, outcome: Outcome, data: RepairData, runtime: Runtime
) -> tuple[dict[str, list], tuple[str, ...]]:
    """How data go through the blocks that have an architecture, see `flow.flows`; empty, with a
    note, where that cannot be told.
    """
    found, notes = _incidental(
        "data flow in the repaired block",
        lambda: flows(model, outcome.repaired, outcome.genotypes, _image(data, runtime)),
    )
    return found or {}, notes


def sureness(population: str, images: Images, before: Measured, after: Measured) -> Examples | None:
    """How sure both models were of each image; None where that was not measured."""
    told = [
        (each.confidences[population], each.losses[population])
        for each in (before, after)
        if population in each.confidences
    ]
    return Examples.of(told[0], told[1], images.ids) if len(told) == 2 else None


def _incidental(what: str, compute: Callable[[], Any]) -> tuple[Any, tuple[str, ...]]:
    """`compute()`, or None and a note: a result is not lost to what is nice to know beside it."""
    try:
        return compute(), ()
    except Exception as error:  # noqa: BLE001  the counter asserts, kernels raise what they like
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        return None, (f"{what}: unknown, it cannot be measured of this model ({reason:.200})",)


def _image(data: RepairData, runtime: Runtime) -> Tensor:
    return torch.zeros(1, *data.preprocessing.input_size, device=runtime.device)
