"""Normalizing: one path that needs no search. Where failures are ordinary images seen through
something, the first of the repaired blocks also reads what arrives at it normalized image by image,
with gains that are zero at first. What was changed for an image as a whole, as its contrast, then
need not be learnt at the expense of images that are clean. Noise is not changed so, and there such
a path is not worth its place: `undoes_pattern` asks the failures' pattern itself.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from timm_repair.architecture.cell import Cell, build
from timm_repair.architecture.genotype import Edge, Genotype
from timm_repair.architecture.keeping import slowed_by
from timm_repair.architecture.operations import CANDIDATES, PerImage
from timm_repair.architecture.sites import Site, place
from timm_repair.images.images import Images
from timm_repair.models.copying import copied
from timm_repair.models.temporary import capture, evaluating
from timm_repair.runtime.processes import agreed
from timm_repair.training.job import Job
from timm_repair.training.objective import judged
from timm_repair.training.prefix.forward import Forward

OPERATION = "instance_norm"
EXAMPLES = 256  # that tell whether normalizing undoes a pattern; they are retained ones


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


def undoes_pattern(job: Job, site: Site) -> bool:
    """Whether retained examples made to look like the failures are nearer to themselves as they
    were, at the entrance of the block, once both are normalized image by image.

    Distances are mean squares of differences, channel by channel in units of the variance of the
    examples as they were. The main process tells, and once: a run that is resumed decides as
    before.
    """
    plan = normalized(site.skeleton)
    assert plan is not None, "asked for only where there can be one"
    assert job.data.pattern is not None and job.data.retained is not None
    made, retained = job.data.pattern, job.data.retained

    def told() -> float:
        raw = site.present
        cell = build(plan, copied(raw)).to(job.runtime.device)
        place([site], [cell])
        try:
            as_is, changed = (_at_the_path(job, cell, images) for images in (retained, made))
        finally:
            place([site], [raw])
        before, after = (_apart(*pair) for pair in zip(as_is, changed, strict=True))
        return agreed(after - before, job.runtime.accelerator)

    return job.runtime.once("normalization undoes the pattern", told) < 0


def _apart(as_they_were: Tensor, made: Tensor) -> float:
    variance = as_they_were.var((0, 2, 3), keepdim=True)
    # a channel in which nothing was would count for all of them
    variance = variance.clamp_min(1e-3 * variance.mean().item() + 1e-12)
    return ((made - as_they_were).square() / variance).mean().item()


def _at_the_path(job: Job, cell: Cell, images: Images) -> tuple[Tensor, Tensor]:
    """What the cell's path normalizes of the first examples, and what becomes of it: each (n, C, H,
    W).
    """
    (path,) = (name for name, each in cell.named_modules() if isinstance(each, PerImage))
    last: dict[str, Tensor] = {}

    def keep(_, inputs: tuple, output: Tensor) -> None:
        last.update(before=inputs[0].float().cpu(), after=output.float().cpu())

    def run(rows: Tensor) -> tuple[Tensor, Tensor]:
        pixels = images.pixels(rows)
        job.model(job.data.preprocessing.normalize(pixels, job.runtime.device))
        return last["before"], last["after"]

    rows = torch.arange(min(len(images), EXAMPLES))
    with torch.no_grad(), evaluating(job.model), capture(cell, {path: keep}):
        before, after = zip(*job.runtime.in_batches(run, rows), strict=True)
    return torch.cat(before), torch.cat(after)


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
