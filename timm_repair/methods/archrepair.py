"""ArchRepair (paper §3): find the vulnerable block, search its architecture and weights together,
discretize, fine-tune.

Several blocks are repaired in one go: relaxed at once, searched in one schedule, fine-tuned
together, for the steps of one.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, cast

from torch import Tensor, nn

from timm_repair.architecture import strategies
from timm_repair.architecture.cell import Cell, added_parameters, build
from timm_repair.architecture.genotype import LEVELS, Genotype
from timm_repair.architecture.relaxation import RelaxedBlock, discretize, inherit, relax
from timm_repair.architecture.search import search
from timm_repair.architecture.skeleton import random_genotype
from timm_repair.architecture.strategies.strategy import Strategy
from timm_repair.architecture.token_skeleton import skeleton_in
from timm_repair.data.repair_data import RepairData
from timm_repair.errors import OptionError, did_you_mean
from timm_repair.localization.target import Target
from timm_repair.methods.method import Outcome
from timm_repair.models.block import Block
from timm_repair.models.copying import copied
from timm_repair.models.surgery import extract, restore, swap
from timm_repair.models.weights import own_copy, part_of
from timm_repair.options import check_types
from timm_repair.runtime.runtime import Runtime
from timm_repair.training.job import Job
from timm_repair.training.objective import objective
from timm_repair.training.options import Training
from timm_repair.training.prefix.forward import Forward
from timm_repair.training.recalibration import recalibrate
from timm_repair.training.tuning import tune

GENOTYPES = ("search", "random", "raw")


@dataclass(frozen=True, kw_only=True)
class ArchRepair:
    """Repair the architecture and the weights of one block, or of several together.

    Args:
        target: which blocks, see `Target`.
        level: what an operation layer is, "unit" or "layer", see `skeleton_of`.
        strategy: how the search goes, a name from `STRATEGIES` or an object.
        genotype: "search" (the method), or a control: "random" draws every edge's operation, "raw"
            keeps the raw architecture.
        max_span: an edge leads over at most this many layers.
        search_share: share of the steps spent on the search; the rest fine-tunes the discrete
            blocks.
        recalibration: batches that renew the blocks' batch-norm statistics after discretization.
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
        strategies.named(self.strategy)
        if self.level not in LEVELS:
            raise OptionError(f"unknown level {self.level!r}{did_you_mean(self.level, LEVELS)}")
        if self.max_span < 1 or self.recalibration < 1:
            raise OptionError("max_span and recalibration must be at least 1")
        if self.genotype not in GENOTYPES:
            raise OptionError(
                f"unknown genotype {self.genotype!r}{did_you_mean(self.genotype, GENOTYPES)}"
            )
        if not 0 < self.search_share < 1:
            raise OptionError(f"search_share is a share between 0 and 1, got {self.search_share}")

    def repair(self, model: nn.Module, data: RepairData, runtime: Runtime) -> Outcome:
        job = Job(model, data, self.training, runtime)
        training, strategy = self.training, strategies.named(self.strategy)
        with runtime.stage("localize"):
            found, chosen, localization = self.target.choose(model, data, training, runtime)
        forward = job.forward(part_of(model, *chosen))
        size = data.preprocessing.input_size
        sites = [self._open(model, block, strategy, size) for block in chosen]

        history, trained, notes = [], 0, ()
        if self.genotype == "search":
            generator = runtime.generator("architecture")
            relaxed = [
                relax(site.present, site.skeleton, strategy, generator).to(runtime.device)
                for site in sites
            ]
            _place(sites, relaxed)
            with runtime.stage("search"):
                steps = round(self.search_share * training.steps)
                history, trained = search(job, relaxed, steps=steps, forward=forward)
                notes = _install_best(job, sites, relaxed, self.recalibration, forward)
        else:
            for index, site in enumerate(sites):
                raw = replace(site.skeleton, edges=())
                genotype = (
                    raw
                    if self.genotype == "raw"
                    else random_genotype(site.skeleton, runtime, index)
                )
                site.present = build(genotype, site.present).to(runtime.device)

        built = [cast(Cell, site.present) for site in sites]
        cells = nn.ModuleList(built)
        fresh = [p for cell in built for p in added_parameters(cell)]
        with runtime.stage("finetune"):
            rows, more = tune(
                job,
                cells,
                first=trained,
                total=training.steps - (len(history) - trained),
                original=_original_state(sites),
                fresh=fresh,
                forward=forward,
            )
        for site, cell in zip(sites, built, strict=True):
            if not cell.genotype.edges:  # nothing was added: give back the plain block
                restore(model, site.block, cell.unwrapped())
        genotypes = {
            site.block.name: cell.genotype for site, cell in zip(sites, built, strict=True)
        }
        return Outcome(model, found, chosen, localization, genotypes, history + rows, notes + more)

    def _open(
        self, model: nn.Module, block: Block, strategy: Strategy, input_size: tuple[int, ...]
    ) -> "_Site":
        raw = extract(model, block)
        skeleton = skeleton_in(
            model,
            block,
            input_size,
            level=self.level,
            partial=strategy.partial,
            max_span=self.max_span,
        )
        original = copied(raw)
        swap(model, block, raw)
        return _Site(
            block, skeleton, original, cast(nn.Sequential, model.get_submodule(block.paths[0]))
        )


@dataclass
class _Site:
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


def _place(sites: Sequence[_Site], modules: Iterable[nn.Module]) -> None:
    for site, module in zip(sites, modules, strict=True):
        site.present = module


def _install_best(
    job: Job,
    sites: Sequence[_Site],
    relaxed: Sequence[RelaxedBlock],
    batches: int,
    forward: Forward,
) -> tuple[str, ...]:
    """Put the discretized blocks in place; block by block, the raw one with its searched weights if
    the selection split prefers that.
    """
    weights = [each.final_weights() for each in relaxed]

    def measured(genotypes: Sequence[Genotype]) -> tuple[float, list[Cell]]:
        cells = [
            build(genotype, each.cell.unwrapped()).to(job.runtime.device)
            for genotype, each in zip(genotypes, relaxed, strict=True)
        ]
        for cell, each, final in zip(cells, relaxed, weights, strict=True):
            inherit(cell, each, final)
        _place(sites, cells)
        recalibrate(job, nn.ModuleList(cells), batches=batches)
        return objective(forward, job.data, job.training.choosing), cells

    genotypes = [discretize(each) for each in relaxed]
    best, cells = measured(genotypes)
    for index, genotype in enumerate(genotypes):
        if genotype.edges:
            candidate = [*genotypes[:index], replace(genotype, edges=()), *genotypes[index + 1 :]]
            value, others = measured(candidate)
            if value >= best:
                best, cells, genotypes = value, others, candidate
    _place(sites, cells)
    kept = [
        site.block.name
        for site, genotype in zip(sites, genotypes, strict=True)
        if not genotype.edges
    ]
    return tuple(
        f"the search kept the raw architecture of {name}: no edge was better on the selection split"
        for name in kept
    )


def _original_state(sites: Sequence[_Site]) -> dict[str, Tensor]:
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
        own = tuple(f"raw.{node.layer}.added.operations." for node in cell.genotype.nodes)
        present = cell.state_dict().items()
        state |= {
            f"{index}.{k}": own_copy(v) if k.startswith(own) else reference[k] for k, v in present
        }
    return state
