"""localize(): score the blocks of a model by how suspicious they are. Scores are in scorers/."""

from collections.abc import Sequence
from math import isfinite

from torch import nn

from timm_repair.data.repair_data import RepairData
from timm_repair.errors import NonFiniteError, OptionError, PartitionError
from timm_repair.localization.localization import Localization
from timm_repair.localization.scorers import SCORERS
from timm_repair.localization.scores import BlockScorer, NeuronScorer, require_scores
from timm_repair.localization.vulnerable import by_neurons
from timm_repair.models.block import Block
from timm_repair.options import by_name
from timm_repair.runtime.processes import agreed
from timm_repair.runtime.runtime import Runtime
from timm_repair.training.job import Job
from timm_repair.training.options import Training

DEFAULT_SCORER = "rgn"

Scorer = NeuronScorer | BlockScorer


def localize(
    model: nn.Module,
    blocks: Sequence[Block],
    data: RepairData,
    *,
    score: str | Scorer = DEFAULT_SCORER,
    top: int = 50,
    threshold: float | None = None,
    max_passing: int | None = None,
    training: Training | None = None,
    runtime: Runtime,
) -> Localization:
    """Score the repairable ones of `blocks`; the model comes back untouched, also after an error.

    Args:
        model: the model that fails.
        blocks: from `partition.blocks` on this model.
        data: its `failing` examples, and for the spectrum a sample of its `retained` ones.
        score: a name from `SCORERS`, a `NeuronScorer`, or any function (job, blocks) ->
            {block name: number}.
        top: how many neurons of the network count as vulnerable (the paper's figures use 50).
        threshold: ε instead: neurons with a score above it are vulnerable.
        max_passing: retained examples to read at most; None reads twice as many as there are
            failures.
        training: the options that the repair will train with; None for the defaults. "gain" and
            "probe" read it.
        runtime: device, processes and seed.

    Raises:
        PartitionError: none of the blocks can be repaired.
        OptionError: an option is unknown or out of range, or a scorer of yours does not score every
            block.
        NoFailuresError: the model classifies every failure correctly.
        NonFiniteError: logits or scores are NaN or infinite.
    """
    candidates = [block for block in blocks if block.repairable]
    if not candidates:
        raise PartitionError(
            "none of the given blocks can be repaired; see the reason of each, or cut by hand with"
            " names=[...]"
        )
    if top < 1:
        raise OptionError(f"top must be at least 1, got {top}")
    if max_passing is not None and max_passing < 0:
        raise OptionError(f"max_passing must be 0 or more, got {max_passing}")
    scorer = by_name("scorer", score, SCORERS)
    own = getattr(score, "__name__", type(score).__name__)
    name = score if isinstance(score, str) else own
    if isinstance(scorer, NeuronScorer):
        found = by_neurons(
            name, scorer, model, candidates, data, runtime, top, threshold, max_passing
        )
    else:
        job = Job(model, data, training or Training(), runtime)
        scores = require_scores(scorer(job, candidates), candidates, name)
        found = Localization(
            name,
            scores.suspiciousness,
            layers=scores.layers,
            layer_scores=scores.layer_scores,
            errors=scores.errors,
            gains=scores.gains,
            details={"failures": len(data.failing)} | scores.details,
        )
    broken = [block for block, value in found.suspiciousness.items() if not isfinite(value)]
    if broken:
        raise NonFiniteError(
            f"the score {name!r} of {', '.join(broken)} is NaN or infinite; check the model's"
            " weights"
        )
    return agreed(found, runtime.accelerator)
