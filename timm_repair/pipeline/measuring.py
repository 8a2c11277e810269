"""Measuring: a model's answers to every population of the holdout, and what it costs to run. The
same before and after a repair.
"""

from dataclasses import dataclass
from time import perf_counter

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from timm_repair.data.predicting import predict
from timm_repair.data.repair_data import RepairData
from timm_repair.models.temporary import evaluating
from timm_repair.runtime.runtime import Runtime


@dataclass(frozen=True)
class Measured:
    """Per population the answers (N,) and their cross-entropy losses (N,), as from `predict`; and
    `cost`.
    """

    answers: dict[str, Tensor]
    losses: dict[str, Tensor]
    cost: dict[str, float]


def measure(model: nn.Module, data: RepairData, runtime: Runtime) -> Measured:
    """Measure `model` on the whole holdout."""
    with runtime.stage("evaluate"):
        found = {
            p: predict(model, images, data.preprocessing, runtime)
            for p, images in data.holdout.items()
        }
        answers, losses = (
            {p: getattr(each, name) for p, each in found.items()}
            for name in ("predictions", "losses")
        )
        return Measured(answers, losses, cost(model, data, runtime))


@torch.no_grad()
def cost(
    model: nn.Module, data: RepairData, runtime: Runtime, *, repeats: int = 9
) -> dict[str, float]:
    """Parameters, FLOPs of one image's forward pass (a multiply-add counts two), and the median
    latency of one image in milliseconds.
    """
    image = torch.zeros(1, *data.preprocessing.input_size, device=runtime.device)
    counter = FlopCounterMode(display=False)
    with evaluating(model):
        with counter:
            model(image)
        seconds = sorted(_timed(model, image) for _ in range(repeats))
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "flops": counter.get_total_flops(),
        "latency_ms": 1000 * seconds[repeats // 2],
    }


def _timed(model: nn.Module, image: torch.Tensor) -> float:
    start = perf_counter()
    model(image).sum().item()  # item() waits for the accelerator
    return perf_counter() - start
