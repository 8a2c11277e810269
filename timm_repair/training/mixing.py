"""Mixing: what a batch is made of, see `Mixing`."""

from dataclasses import replace

from timm_repair.data.repair_data import RepairData
from timm_repair.training.options import Training

FEWEST = 0.2  # of a batch is of the population that fails, however few examples it has


def counts(training: Training, data: RepairData) -> dict[str, int]:
    """How many examples of each population of `data.train` a batch has, over all processes."""
    mixing, places = training.mixing, training.batch_size
    population = places if data.retained is None else _share(places, mixing.failing_share)
    wanted = mixing.pattern_share * data.pattern_explains
    pattern = 0 if data.pattern is None else _share(population, wanted)
    least = round(FEWEST * places) - pattern
    seen = min(population - pattern, max(_most(training, data), least))
    failing = seen if data.natural_rate is None else _share(seen, data.natural_rate)
    found = {
        "failing": failing,
        "passing": seen - failing,
        "retained": places - pattern - seen,
        "pattern": pattern,
    }
    return {name: found[name] for name in data.train}


def _most(training: Training, data: RepairData) -> int:
    """Examples of a batch that were seen in the failing population, so that none is repeated too
    often.
    """
    repeats = training.mixing.max_repeats
    if repeats is None or data.retained is None or data.violation_rate is not None:
        return training.batch_size  # points of a property are drawn, not collected
    few: float = len(data.failing)
    if data.passing is not None and (rate := data.natural_rate) is not None:
        few = min(few / rate, len(data.passing) / (1 - rate)) if rate < 1 else few
    return max(round(repeats * few / training.steps), 2)


def rarer(training: Training, data: RepairData) -> tuple[str, ...]:
    """A note where the failing population has fewer places than its share asks for."""
    free = replace(training, max_repeats=None)
    seen, asked = (
        sum(counts(each, data).get(name, 0) for name in ("failing", "passing"))
        for each in (training, free)
    )
    if seen >= asked:
        return ()
    return (
        f"{seen} of {training.batch_size} examples of a batch were seen in the population that"
        f" fails, and not {asked}: with {len(data.failing):,} failures to train on these would be"
        f" learnt by heart (max_repeats={training.mixing.max_repeats:g})",
    )


def wrong_class_weight(training: Training, data: RepairData, *, mixed: bool = True) -> float:
    """`Mixing.wrong_class_weight` with its default filled in.

    Args:
        mixed: whether failures are learnt from together with passing examples, where there are any.
    """
    given = training.mixing.wrong_class_weight
    if given is not None:
        return given
    natural = mixed and data.passing is not None
    return 1.0 if data.num_classes == 2 or natural else 0.0


def _share(places: int, share: float) -> int:
    """So many of the places; rounding silences neither side."""
    taken = round(share * places)
    return min(max(taken, 1), places - 1) if 0 < share < 1 < places else taken
