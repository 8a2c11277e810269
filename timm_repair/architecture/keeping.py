"""Keeping: which of the searched edges and replacements stay, by what they bring and by what they
cost.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn

from timm_repair.architecture.cell import Cell, build, strengths
from timm_repair.architecture.genotype import Genotype
from timm_repair.architecture.perturbing import missed_most
from timm_repair.architecture.relaxation import RelaxedBlock, discretize, inherit
from timm_repair.architecture.sites import Site, place, slowdown
from timm_repair.models.copying import copied
from timm_repair.training.job import Job
from timm_repair.training.objective import Judged, judged
from timm_repair.training.prefix.forward import Forward
from timm_repair.training.recalibration import recalibrate

# the largest α (paper §3.3.2), or what is missed most (DARTS-PT)
SELECTIONS = ("alpha", "perturbation")


def slowed_by(job: Job, sites: Sequence[Site], plans: Sequence[Genotype], label: str) -> float:
    """`slowdown` by these plans of what is in the sites, which stays."""
    raw = [site.present for site in sites]
    cells = [build(plan, copied(each)) for plan, each in zip(plans, raw, strict=True)]
    slower = slowdown(job, sites, raw, [c.to(job.runtime.device) for c in cells], label)
    place(sites, raw)
    return slower


def too_slow(job: Job, sites: Sequence[Site], limit: float) -> str | None:
    """Why not even one path may be added, of those that cost least; None where one may."""
    found = [i for i, site in enumerate(sites) if site.skeleton.edges]
    if not found:
        return None
    one = [
        replace(site.skeleton.raw, edges=site.skeleton.edges[:1] if i == found[0] else ())
        for i, site in enumerate(sites)
    ]
    slower = slowed_by(job, sites, one, "one path")
    if slower <= limit:
        return None
    longer = f"an image takes {slower:.2f} times as long"
    return f"with a single added path {longer} (max_latency={limit:g})"


@dataclass
class Keeping:
    """From relaxed blocks to discrete ones: which of the searched edges stay.

    Args:
        selection: what chooses each edge's operation, one of `SELECTIONS`.
    """

    job: Job
    sites: Sequence[Site]
    relaxed: Sequence[RelaxedBlock]
    forward: Forward
    max_latency: float | None
    recalibration: int
    selection: str = "alpha"

    def __post_init__(self):
        self.weights = [each.final_weights() for each in self.relaxed]

    def install(self) -> tuple[str, ...]:
        """Put the discretized blocks in place: the edges within the limit on latency and, block by
        block, no replacements, and no edges either, where the selection split does not prefer them
        by more than its error.
        """
        chosen: Sequence[Tensor | None] = [None] * len(self.relaxed)
        if self.selection == "perturbation":
            chosen = missed_most(self.job, self.relaxed, self.forward)
        found = [discretize(*each) for each in zip(self.relaxed, chosen, strict=True)]
        found, slow = self._replaced_within_latency(found)
        genotypes, notes = self._within_latency(found)
        fast, notes = genotypes, (*slow, *notes)
        best, cells = self._measured(genotypes)
        for index in range(len(genotypes)):
            for simpler in _simpler(genotypes[index]):
                candidate = [*genotypes[:index], simpler, *genotypes[index + 1 :]]
                value, others = self._measured(candidate)
                if not best.beats(value):
                    best, cells, genotypes = value, others, candidate
        place(self.sites, cells)
        return notes + tuple(
            told
            for site, before, after in zip(self.sites, fast, genotypes, strict=True)
            for told in _told(site.block.name, before, after)
        )

    def _built(self, genotypes: Sequence[Genotype]) -> list[Cell]:
        device = self.job.runtime.device
        cells = []
        for genotype, each, final in zip(genotypes, self.relaxed, self.weights, strict=True):
            cell = build(genotype, each.cell.unwrapped()).to(device)
            inherit(cell, each, final)
            cells.append(cell)
        return cells

    def _measured(self, genotypes: Sequence[Genotype]) -> tuple[Judged, list[Cell]]:
        cells = self._built(genotypes)
        place(self.sites, cells)
        recalibrate(self.job, nn.ModuleList(cells), batches=self.recalibration)
        return judged(self.forward, self.job.data, self.job.training.choosing), cells

    def _replaced_within_latency(
        self, genotypes: list[Genotype]
    ) -> tuple[list[Genotype], tuple[str, ...]]:
        """Without replacements where these alone, of all blocks, do not hold the limit."""
        if self.max_latency is None or not any(each.replacements for each in genotypes):
            return genotypes, ()
        cells = self._built([replace(each, edges=()) for each in genotypes])
        originals = [site.original for site in self.sites]
        slower = slowdown(self.job, self.sites, originals, cells, "replacements")
        if slower <= self.max_latency:
            return genotypes, ()
        longer = f"an image takes {slower:.2f} times as long (max_latency={self.max_latency:g})"
        told = f"no layer was replaced: with what was found for their places {longer}"
        return [replace(each, replacements=()) for each in genotypes], (told,)

    def _within_latency(self, genotypes: list[Genotype]) -> tuple[list[Genotype], tuple[str, ...]]:
        """The strongest edges of all blocks that hold the limit: all, half of them, a quarter …"""
        count = sum(len(genotype.edges) for genotype in genotypes)
        if self.max_latency is None or not count:
            return genotypes, ()
        found = [
            (strength, i, edge)
            for i, cell in enumerate(self._built(genotypes))
            for edge, strength in strengths(cell).items()
        ]
        originals = [site.original for site in self.sites]
        order, kept = sorted(found, key=lambda each: -each[0]), count
        while kept:
            strongest = {(i, edge) for _, i, edge in order[:kept]}
            some = [
                replace(g, edges=tuple(edge for edge in g.edges if (i, edge) in strongest))
                for i, g in enumerate(genotypes)
            ]
            cells = self._built(some)
            if (
                slowdown(self.job, self.sites, originals, cells, f"{kept} edges")
                <= self.max_latency
            ):
                break
            kept //= 2
        else:
            some = [replace(genotype, edges=()) for genotype in genotypes]
        if kept == count:
            return some, ()
        return some, (
            f"{kept} of {count} searched edges were kept: with more of them an image takes more"
            f" than {self.max_latency:g} times as long (max_latency)",
        )


def _simpler(genotype: Genotype) -> Iterator[Genotype]:
    """Without replacements, and the raw architecture."""
    if genotype.replacements and genotype.edges:
        yield replace(genotype, replacements=())
    if genotype.changed:
        yield genotype.raw


def _told(block: str, before: Genotype, after: Genotype) -> Iterator[str]:
    """What was searched, fast enough, and not kept."""
    better = "was better on the selection split by more than its error"
    if before.changed and not after.changed:
        what = " and no replacement" if before.replacements else ""
        yield f"the search kept the raw architecture of {block}: no edge{what} {better}"
    elif before.replacements and not after.replacements:
        yield f"no layer of {block} was replaced: no replacement {better}"
