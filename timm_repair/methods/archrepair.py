"""ArchRepair (paper §3): find the vulnerable block, search its architecture and weights together, discretize, fine-tune."""

from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from timm_repair import strategies
from timm_repair.data import RepairData
from timm_repair.errors import OptionError, did_you_mean
from timm_repair.methods.outcome import Outcome
from timm_repair.methods.selecting import Target
from timm_repair.methods.tuning import recalibrate, tune
from timm_repair.options import check_types
from timm_repair.relax import CANDIDATES, RelaxedBlock, discretize, inherit, plan, relax
from timm_repair.runtime import Runtime
from timm_repair.search import search
from timm_repair.space import LEVELS, Cell, Edge, Genotype, build
from timm_repair.strategies import Strategy
from timm_repair.surgery import extract, restore, swap
from timm_repair.training import Training, objective

GENOTYPES = ("search", "random", "raw")


@dataclass(frozen=True, kw_only=True)
class ArchRepair:
    """Repair the architecture and the weights of one block.

    Args:
        target: which block, see `Target`.
        level: what an operation layer is, "unit" or "layer", see `relax.plan`.
        strategy: how the search goes, a name from `strategies.STRATEGIES` or an object.
        genotype: "search" (the method), or a control: "random" draws every edge's operation, "raw" keeps the raw architecture.
        max_span: an edge leads over at most this many layers.
        search_share: share of the steps spent on the search; the rest fine-tunes the discrete block.
        recalibration: batches that renew the block's batch-norm statistics after discretization.
    """

    target: Target = field(default_factory=Target)
    level: str = "unit"
    strategy: str | Strategy = "pc_darts"
    genotype: str = "search"
    max_span: int = 3
    search_share: float = 0.25
    recalibration: int = 10
    training: Training = field(default_factory=Training)
    name: ClassVar[str] = "archrepair"

    def __post_init__(self):
        check_types(self)
        strategies.get(self.strategy)
        if self.level not in LEVELS:
            raise OptionError(f"unknown level {self.level!r}{did_you_mean(self.level, LEVELS)}")
        if self.max_span < 1 or self.recalibration < 1:
            raise OptionError("max_span and recalibration must be at least 1")
        if self.genotype not in GENOTYPES:
            raise OptionError(f"unknown genotype {self.genotype!r}{did_you_mean(self.genotype, GENOTYPES)}")
        if not 0 < self.search_share < 1:
            raise OptionError(f"search_share is a share between 0 and 1, got {self.search_share}")

    def repair(self, model: nn.Module, data: RepairData, runtime: Runtime) -> Outcome:
        training, strategy = self.training, strategies.get(self.strategy)
        with runtime.stage("localize"):
            found, block, localization = self.target.choose(model, data, training, runtime)
        raw = extract(model, block)
        original = deepcopy(raw)
        skeleton = plan(raw, block.in_shape, level=self.level, partial=strategy.partial, max_span=self.max_span)
        swap(model, block, raw)
        holder = model.get_submodule(block.paths[0])

        history, trained, notes = [], 0, ()
        if self.genotype == "search":
            relaxed = relax(raw, skeleton, strategy, runtime.generator("architecture"))
            holder[0] = relaxed.to(runtime.device)
            with runtime.stage("search"):
                steps = round(self.search_share * training.steps)
                history, trained = search(model, relaxed, data, training, runtime, steps=steps)
                notes = _install_best(model, holder, relaxed, data, training, runtime, self.recalibration)
            arch_steps = len(history) - trained
        else:
            arch_steps = 0
            genotype = replace(skeleton, edges=()) if self.genotype == "raw" else random_genotype(skeleton, runtime)
            holder[0] = build(genotype, raw).to(runtime.device)

        cell: Cell = holder[0]
        with runtime.stage("finetune"):
            rows, more = tune(model, cell, data, training, runtime, first=trained, total=training.steps - arch_steps,
                              original=_original_state(cell, original))
        if not cell.genotype.edges:  # nothing was added: give back the plain block
            restore(model, block, cell.unwrapped())
        return Outcome(model, found, block, localization, cell.genotype, history + rows, notes + more)


def random_genotype(skeleton: Genotype, runtime: Runtime) -> Genotype:
    """The control: every edge's operation drawn uniformly from the six."""
    drawn = torch.randint(len(CANDIDATES), (len(skeleton.edges),), generator=runtime.generator("random genotype")).tolist()
    edges = (Edge(e.source, e.target, CANDIDATES[o]) for e, o in zip(skeleton.edges, drawn, strict=True) if CANDIDATES[o] != "none")
    return replace(skeleton, edges=tuple(edges))


def _install_best(model: nn.Module, holder: nn.Sequential, relaxed: RelaxedBlock, data: RepairData, training: Training,
                  runtime: Runtime, batches: int) -> tuple[str, ...]:
    """Put the discretized block in place, or the raw one with its searched weights if the selection split prefers that."""
    genotype, values, weights = discretize(relaxed), {}, relaxed.final_weights()
    for candidate in dict.fromkeys((genotype, replace(genotype, edges=()))):
        cell = build(candidate, relaxed.cell.unwrapped()).to(runtime.device)
        inherit(cell, relaxed, weights)
        holder[0] = cell
        recalibrate(model, cell, data, training, runtime, batches=batches)
        values[cell] = objective(model, data, runtime)
    holder[0] = max(values, key=lambda cell: (values[cell], -len(cell.genotype.edges)))
    if holder[0].genotype.edges:
        return ()
    return ("the search kept the raw architecture: no edge was better on the selection split",)


def _original_state(cell: Cell, original: nn.Module) -> dict[str, Tensor]:
    """The state of `cell` that computes the original function: the raw weights and zero gains; operations as they are."""
    reference = build(cell.genotype, deepcopy(original)).to(next(cell.parameters()).device).state_dict()
    own = tuple(f"raw.{node.layer}.added.operations." for node in cell.genotype.nodes)
    return {k: v.detach().clone() if k.startswith(own) else reference[k] for k, v in cell.state_dict().items()}
