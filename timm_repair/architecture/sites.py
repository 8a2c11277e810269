"""Sites: where blocks under repair stand in a model, and what stands there at the moment."""

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from timm_repair.architecture.cell import Cell, added_operations, build
from timm_repair.architecture.genotype import Genotype
from timm_repair.models.block import Block
from timm_repair.models.copying import copied
from timm_repair.models.temporary import evaluating
from timm_repair.models.weights import own_copy
from timm_repair.runtime.processes import agreed
from timm_repair.runtime.timing import in_turns, ratios
from timm_repair.training.job import Job


@dataclass
class Site:
    """A block under repair.

    Args:
        skeleton: the edges there may be.
        original: a copy of the block as it came.
        holder: where it stands in the model; its one module is the block's present form.
    """

    block: Block
    skeleton: Genotype
    original: nn.Module
    holder: nn.Sequential

    @property
    def present(self) -> nn.Module:
        return self.holder[0]

    @present.setter
    def present(self, module: nn.Module) -> None:
        self.holder[0] = module


def place(sites: Sequence[Site], modules: Iterable[nn.Module]) -> None:
    for site, module in zip(sites, modules, strict=True):
        site.present = module


@torch.no_grad()
def slowdown(
    job: Job,
    sites: Sequence[Site],
    before: Sequence[nn.Module],
    after: Sequence[nn.Module],
    label: str,
) -> float:
    """How many times as long one image takes with `after` in the sites as with `before`: the median
    of their turns. The main process measures, and once: a run that is resumed decides as before.
    """
    image = torch.zeros(1, *job.data.preprocessing.input_size, device=job.runtime.device)

    def run() -> None:
        job.model(image).sum().item()  # waits for the accelerator

    def measured() -> float:
        with ExitStack() as stack:
            for modules in (before, after):
                place(sites, modules)
                stack.enter_context(evaluating(job.model))
            turns = partial(place, sites, before), partial(place, sites, after)
            seconds = in_turns(run, run, ready=turns)
        return agreed(float(np.median(ratios(seconds))), job.runtime.accelerator)

    return job.runtime.once(f"latency {label}", measured)


def original_state(sites: Sequence[Site]) -> dict[str, Tensor]:
    """The state of the sites' cells, as one list of modules, that computes the original function:
    the raw weights and zero gains; operations as they are.
    """
    state = {}
    for index, site in enumerate(sites):
        cell = cast(Cell, site.present)
        reference = (
            build(cell.genotype, copied(site.original))
            .to(next(cell.parameters()).device)
            .state_dict()
        )
        own = added_operations(cell)
        present = cell.state_dict().items()
        state |= {
            f"{index}.{k}": own_copy(v) if k.startswith(own) else reference[k] for k, v in present
        }
    return state
