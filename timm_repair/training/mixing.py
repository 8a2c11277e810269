"""Mixing: what a batch is made of, see `Mixing`."""

from timm_repair.data.repair_data import RepairData
from timm_repair.training.options import Training


def counts(training: Training, data: RepairData) -> dict[str, int]:
    """How many examples of each population of `data.train` a batch has, over all processes."""
    mixing, places = training.mixing, training.batch_size
    population = places if data.retained is None else _share(places, mixing.failing_share)
    wanted = mixing.pattern_share * data.pattern_explains
    pattern = 0 if data.pattern is None else _share(population, wanted)
    seen = population - pattern
    failing = seen if data.natural_rate is None else _share(seen, data.natural_rate)
    found = {
        "failing": failing,
        "passing": seen - failing,
        "retained": places - population,
        "pattern": pattern,
    }
    return {name: found[name] for name in data.train}


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
