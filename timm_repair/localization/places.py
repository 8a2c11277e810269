"""Places: which blocks to repair together, where neither they nor a score were asked for.

The localizer's score, what the failures have in common and a short trial decide: a corruption wants
early blocks, where images still are images; what no corruption explains may sit anywhere.
"""

from collections.abc import Sequence
from dataclasses import replace

from timm_repair.localization.localization import Localization
from timm_repair.models.block import Block
from timm_repair.training.job import Job
from timm_repair.training.trials import brings

EARLY = 2  # blocks from the input on
# of the objective, by which a set must beat what the evidence says: what a trial cannot tell apart
MARGIN = 0.01


def placed(job: Job, blocks: Sequence[Block], found: Localization) -> Localization:
    """`found` with the blocks to repair together in its details, under "places": what each set
    brought in a trial, by the names of its blocks, the one chosen first.

    Args:
        blocks: those that can be repaired, in network order.
    """
    sets = _sets(job, blocks, found)
    if len(blocks) == 1 and job.data.pattern is None:
        return found  # a model of one block: nothing was found, nor is there anything to try
    values = {"+".join(b.name for b in some): brings(job, some) if len(sets) > 1 else None
              for some in sets}  # fmt: skip
    first = next(iter(values))
    best = max(values, key=lambda name: (values[name] or 0) + MARGIN * (name == first))
    order = [best, *(name for name in values if name != best)]
    named = {"+".join(b.name for b in some): [b.name for b in some] for some in sets}
    told = [{"blocks": named[name], "objective": values[name]} for name in order]
    return replace(found, details=found.details | {"places": told})


def _sets(job: Job, blocks: Sequence[Block], found: Localization) -> list[tuple[Block, ...]]:
    """What is tried; of equals the first is taken. Of the early blocks none is tried alone: it
    brings what all of them bring, or less.
    """
    by_name = {block.name: block for block in blocks}
    early = tuple(blocks[:EARLY])
    scored, last = (
        early if block in early else (block,) for block in (by_name[found.worst], blocks[-1])
    )
    sets = [early, scored] if job.data.pattern is not None else [scored, early, last]
    return list(dict.fromkeys(sets))
