"""Normalizing: one path that needs no search. Where failures are ordinary images seen through
something, the first of the repaired blocks also reads what arrives at it normalized image by image,
with gains that are zero at first. What was changed for an image as a whole, as its contrast, then
need not be learnt at the expense of images that are clean.
"""

from collections.abc import Sequence
from dataclasses import replace

from timm_repair.architecture.cell import Cell, build
from timm_repair.architecture.genotype import Edge, Genotype
from timm_repair.architecture.keeping import slowed_by
from timm_repair.architecture.operations import CANDIDATES
from timm_repair.architecture.sites import Site, place
from timm_repair.training.job import Job
from timm_repair.training.objective import judged
from timm_repair.training.prefix.forward import Forward

OPERATION = "instance_norm"


def normalized(skeleton: Genotype) -> Genotype | None:
    """The block whose first layer also reads its input normalized, all channels of it; None where
    that is no map, nor tokens on a grid.
    """
    if skeleton.candidates != CANDIDATES or not any(
        (edge.source, edge.target) == (0, 0) for edge in skeleton.edges
    ):
        return None
    return replace(skeleton.raw, partial=1, edges=(Edge(0, 0, OPERATION),))


def can_normalize(sites: Sequence[Site]) -> bool:
    """Whether the first of these blocks can be given such a path."""
    return normalized(sites[0].skeleton) is not None


def normalize(job: Job, sites: Sequence[Site], limit: float | None) -> tuple[str, ...]:
    """Put cells into the sites, of which the first has the path, unless the model would become
    slower than `limit`; then a note.
    """
    plan = normalized(sites[0].skeleton)
    assert plan is not None, "asked for only where there can be one"
    plans, notes = [plan, *(site.skeleton.raw for site in sites[1:])], ()
    slower = 0.0 if limit is None else slowed_by(job, sites, plans, "normalization")
    if limit is not None and slower > limit:
        plans = [site.skeleton.raw for site in sites]
        longer = f"an image takes {slower:.2f} times as long (max_latency={limit:g})"
        notes = (f"no path that normalizes images was added: with it {longer}",)
    built = (build(plan, site.present) for plan, site in zip(plans, sites, strict=True))
    place(sites, [cell.to(job.runtime.device) for cell in built])
    return notes


def unless_missed(job: Job, sites: Sequence[Site], forward: Forward) -> tuple[str, ...]:
    """Take the path out again where the selection split does not miss it by more than its error;
    then a note.
    """
    cell = sites[0].present
    if not isinstance(cell, Cell) or not cell.genotype.edges:
        return ()
    with_it = judged(forward, job.data, job.training.choosing)
    plain = build(sites[0].skeleton.raw, cell.unwrapped()).to(job.runtime.device)
    place(sites[:1], [plain])
    if with_it.beats(judged(forward, job.data, job.training.choosing)):
        place(sites[:1], [cell])
        return ()
    return (
        f"the path that normalizes images was taken out of {sites[0].block.name} again: the"
        " selection split did not miss it by more than its error",
    )
