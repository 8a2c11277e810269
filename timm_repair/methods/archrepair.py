"""ArchRepair (paper §3): find the vulnerable block, search its architecture and weights together,
discretize, fine-tune.

Several blocks are repaired in one go: relaxed at once, searched in one schedule, fine-tuned
together, for the steps of one.
"""

from dataclasses import dataclass, field, replace
from typing import ClassVar, cast

from torch import nn

from timm_repair.architecture import strategies
from timm_repair.architecture.cell import Cell, added_parameters, build
from timm_repair.architecture.genotype import LEVELS
from timm_repair.architecture.keeping import SELECTIONS, Keeping, too_slow
from timm_repair.architecture.normalizing import (
    can_normalize,
    normalize,
    undoes_pattern,
    unless_missed,
)
from timm_repair.architecture.relaxation import relax
from timm_repair.architecture.replacing import replaceable
from timm_repair.architecture.search import search
from timm_repair.architecture.sites import Site, original_state, place
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
from timm_repair.models.weights import part_of
from timm_repair.options import check_types
from timm_repair.runtime.runtime import Runtime
from timm_repair.training.distilling import FeatureDistillation
from timm_repair.training.history import Row
from timm_repair.training.job import Job
from timm_repair.training.losses import Losses, batch_losses
from timm_repair.training.objective import objective
from timm_repair.training.options import Training
from timm_repair.training.prefix.forward import Forward
from timm_repair.training.tuning import tune

GENOTYPES = ("auto", "search", "normalized", "random", "raw")
MODES = ("add", "replace")
UNSEARCHED = (
    "no architecture was searched: the failures have a pattern, and where they have one no searched"
    " path brought more than weights alone (genotype='search' searches)"
)


@dataclass(frozen=True, kw_only=True)
class ArchRepair:
    """Repair the architecture and the weights of one block, or of several together.

    Args:
        target: which blocks, see `Target`.
        level: what an operation layer is, "unit" or "layer", see `skeleton_of`.
        strategy: how the search goes, a name from `STRATEGIES` or an object.
        genotype: "search" (the paper's method); "normalized" adds one path that normalizes images,
            see `normalizing`, and searches nothing; "raw" keeps the raw architecture; "auto" is the
            search where the failures have no pattern, or layers may be replaced, "normalized" where
            they have one that it undoes, else "raw". Or a control: "random" draws every edge's
            operation.
        selection: what chooses each edge's operation after the search: the largest "alpha", or
            "perturbation", the one that is missed most when it is taken out (DARTS-PT), see
            `perturbing`.
        mode: "add" puts paths beside the raw layers, which stay; "replace", the paper's literal
            reading, may also exchange a raw layer for an operation.
        max_span: an edge leads over at most this many layers.
        search_share: share of the steps spent on the search; the rest fine-tunes the discrete
            blocks.
        recalibration: batches that renew the blocks' batch-norm statistics after discretization.
        max_latency: how many times as long as without them one image may take with the paths that
            the search adds, measured in turns; the weakest are left out until it holds. Where one
            path alone takes longer, nothing is searched. None adds whatever is better. It is the
            one decision that depends on the machine as well as on the seed.
        feature_distillation: where the failures have a pattern: weight, beside the cross-entropy,
            of the squared distance of what leaves the blocks for a retained example, as it is or
            seen through the pattern, to what left them before the repair for the example as it is,
            in units of its variance. It keeps a copy of the model on the device. 0 leaves it out,
            as the paper does.
    """

    target: Target = field(default_factory=Target)
    level: str = "unit"
    strategy: str | Strategy = "pc_darts"
    genotype: str = "auto"
    selection: str = "alpha"
    mode: str = "add"
    max_span: int = 3
    search_share: float = 0.25
    recalibration: int = 10
    max_latency: float | None = 1.1
    feature_distillation: float = 1.0
    training: Training = field(default_factory=Training)
    name: ClassVar[str] = "archrepair"
    paper: ClassVar[str] = (
        "Hua Qi et al., ArchRepair: Block-Level Architecture-Oriented Repairing for Deep Neural"
        " Networks, 2023, arXiv:2111.13330"
    )

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
        if self.selection not in SELECTIONS:
            raise OptionError(
                f"unknown selection {self.selection!r}{did_you_mean(self.selection, SELECTIONS)}"
            )
        if self.mode not in MODES:
            raise OptionError(f"unknown mode {self.mode!r}{did_you_mean(self.mode, MODES)}")
        if self.max_latency is not None and self.max_latency < 1:
            raise OptionError(
                f"max_latency={self.max_latency:g} asks that added paths make the model"
                " faster: give a ratio from 1 on, or None"
            )
        if self.feature_distillation < 0:
            raise OptionError("feature_distillation must not be negative")
        if not 0 < self.search_share < 1:
            raise OptionError(f"search_share is a share between 0 and 1, got {self.search_share}")

    def repair(self, model: nn.Module, data: RepairData, runtime: Runtime) -> Outcome:
        job = Job(model, data, self.training, runtime)
        training, strategy = self.training, strategies.named(self.strategy)
        with runtime.stage("localize"):
            found, chosen, localization = self.target.choose(model, data, training, runtime)
        forward = job.forward(part_of(model, *chosen))
        losses, told = self._losses(job, max(chosen, key=found.index))
        size = data.preprocessing.input_size
        sites = [self._open(model, block, strategy, size) for block in chosen]
        fixed = self._irreplaceable(sites) + self._not_normalized(sites)

        normalizes = self._normalizes(job, sites)
        if normalizes:
            history, trained, notes = [], 0, normalize(job, sites, self.max_latency)
        else:
            history, trained, notes = self._discrete(job, sites, strategy, forward, losses)

        built = [cast(Cell, site.present) for site in sites]
        replaced = any(cell.genotype.replacements for cell in built)
        with runtime.stage("finetune"):
            rows, more = tune(
                job,
                nn.ModuleList(built),
                first=trained,
                total=trained + training.steps - (self._searching if history else 0),
                # of a cell without its raw layers no state computes the original function
                original=None if replaced else original_state(sites),
                origin="discretized" if replaced else "original",
                fresh=[p for cell in built for p in added_parameters(cell)],
                forward=forward,
                losses=losses,
            )
            if replaced:
                more += self._gone_back(job, sites, forward)
            if normalizes:
                more += unless_missed(job, sites, forward)
        genotypes = {}
        for site in sites:
            cell = cast(Cell, site.present)
            genotypes[site.block.name] = cell.genotype
            if not cell.genotype.changed:  # give back the plain block
                restore(model, site.block, cell.unwrapped())
        notes = (*told, *fixed, *notes, *more)
        return Outcome(model, found, chosen, localization, genotypes, history + rows, notes)

    @property
    def _searching(self) -> int:
        """Steps of a search."""
        return round(self.search_share * self.training.steps)

    def _losses(self, job: Job, last: Block) -> tuple[Losses, tuple[str, ...]]:
        """What is minimized where `last` is the last of the blocks; notes."""
        if job.data.pattern is None or not self.feature_distillation:
            return batch_losses, ()
        found = FeatureDistillation.of(job, last, self.feature_distillation)
        if found is not None:
            return found, ()
        return batch_losses, (
            f"what leaves {last.name} cannot be compared with what left it before: nothing was"
            " distilled (feature_distillation)",
        )

    def _normalizes(self, job: Job, sites: list[Site]) -> bool:
        """Whether images are normalized on their way, and nothing is searched."""
        if not can_normalize(sites):
            return False
        return self.genotype == "normalized" or (self._knows(job) and undoes_pattern(job, sites[0]))

    def _knows(self, job: Job) -> bool:
        """Whether the failures have a pattern that says what is done, instead of a search."""
        return self.genotype == "auto" and self.mode == "add" and job.data.pattern is not None

    def _not_normalized(self, sites: list[Site]) -> tuple[str, ...]:
        """A note where a path was asked for that there cannot be."""
        if self.genotype != "normalized" or can_normalize(sites):
            return ()
        name = sites[0].block.name
        return (f"images cannot be normalized in {name}, which reads no map: it was searched",)

    def _irreplaceable(self, sites: list[Site]) -> tuple[str, ...]:
        """Notes on the blocks in which nothing can be replaced, where that was asked for."""
        return tuple(
            f"no layer of {site.block.name} can be replaced: none takes one map and gives one"
            for site in sites
            if self.mode == "replace" and not site.skeleton.replacements
        )

    def _gone_back(self, job: Job, sites: list[Site], forward: Forward) -> tuple[str, ...]:
        """Put the original blocks back if what was repaired is no better than they are on the
        selection split; then a note.
        """

        def value() -> float:
            return objective(forward, job.data, job.training.choosing)

        repaired, cells = value(), [site.present for site in sites]
        for site in sites:
            site.present = build(site.skeleton.raw, site.original).to(job.runtime.device)
        if value() >= repaired:
            return (
                "no state of the repair was better than the original on the selection split: the"
                " original blocks were kept",
            )
        place(sites, cells)
        return ()

    def _discrete(
        self,
        job: Job,
        sites: list[Site],
        strategy: Strategy,
        forward: Forward,
        losses: Losses,
    ) -> tuple[list[Row], int, tuple[str, ...]]:
        """Put a discrete cell into each site; what `search` returns, with notes."""
        runtime, notes = job.runtime, ()
        searches = self.genotype in ("auto", "search", "normalized")
        if self._knows(job):
            searches, notes = False, (UNSEARCHED,)
        if searches and self.max_latency is not None:
            slow = too_slow(job, sites, self.max_latency)
            for site in sites if slow else ():
                site.skeleton = replace(site.skeleton, edges=())
            searches = not slow or any(site.skeleton.replacements for site in sites)
            what = "path" if searches else "architecture"
            notes = (f"no {what} was searched: {slow}",) if slow else ()
        if not searches:
            for index, site in enumerate(sites):
                genotype = (
                    random_genotype(site.skeleton, runtime, index)
                    if self.genotype == "random"
                    else site.skeleton.raw
                )
                site.present = build(genotype, site.present).to(runtime.device)
            return [], 0, notes
        generator = runtime.generator("architecture")
        relaxed = [
            relax(site.present, site.skeleton, strategy, generator).to(runtime.device)
            for site in sites
        ]
        place(sites, relaxed)
        with runtime.stage("search"):
            steps = self._searching
            history, trained = search(job, relaxed, steps=steps, forward=forward, losses=losses)
            keeping = Keeping(
                job,
                sites,
                relaxed,
                forward,
                self.max_latency,
                self.recalibration,
                self.selection,
            )
            return history, trained, notes + keeping.install()

    def _open(
        self, model: nn.Module, block: Block, strategy: Strategy, input_size: tuple[int, ...]
    ) -> Site:
        raw = extract(model, block)
        skeleton = skeleton_in(
            model,
            block,
            input_size,
            level=self.level,
            partial=strategy.partial,
            max_span=self.max_span,
        )
        if self.mode == "replace":
            skeleton = replaceable(raw, block.in_shape, skeleton)
        original = copied(raw)
        swap(model, block, raw)
        return Site(
            block, skeleton, original, cast(nn.Sequential, model.get_submodule(block.paths[0]))
        )
