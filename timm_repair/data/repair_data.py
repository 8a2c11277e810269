"""RepairData: what a repair trains on, chooses by and measures on."""

from collections.abc import Mapping
from dataclasses import dataclass

from timm_repair.images.images import Images
from timm_repair.images.preprocessing import Preprocessing


@dataclass(frozen=True)
class RepairData:
    """All data of one repair; the splits share no example.

    Args:
        failing: what the repair trains on: examples the model gets wrong.
        retained: what it must not forget; None when the user gave none.
        selection: what choices are made by, of each population that is trained on but the pattern;
            never trained on.
        holdout: population name to images: what is measured; never trained on nor chosen by.
        preprocessing: of the model.
        num_classes: of the model.
        label_names: readable names of the classes, where known.
        error_rate: share of the pool the failures were drawn from that the model gets wrong; None
            if unknown.
        provenance: plain JSON: per role the source, n, SHA-256 over ids and labels, columns, label
            mapping, skipped.
        passing: examples of the population that fails which the model gets right; mixed with the
            failures by `error_rate` they are an unbiased sample of it. None where they are not
            known.
        pattern: retained examples made to look like the failures, with their true labels; None
            where no pattern is known.
        pattern_explains: how much of what failures have in common the pattern explains, from 0
            to 1.
        violation_rate: of a property, the share of its boxes that violates it. "passing" of the
            selection split are then inputs drawn from all of the boxes, which violate nothing.
    """

    failing: Images
    retained: Images | None
    selection: Mapping[str, Images]
    holdout: Mapping[str, Images]
    preprocessing: Preprocessing
    num_classes: int
    label_names: tuple[str, ...] | None
    error_rate: float | None
    provenance: dict
    passing: Images | None = None
    pattern: Images | None = None
    pattern_explains: float = 1.0
    violation_rate: float | None = None

    @property
    def train(self) -> dict[str, Images]:
        """What may be trained on, by the name of its population."""
        known = {
            "failing": self.failing,
            "passing": self.passing,
            "retained": self.retained,
            "pattern": self.pattern,
        }
        return {name: images for name, images in known.items() if images is not None}

    @property
    def natural_rate(self) -> float | None:
        """`error_rate`, where passing examples can be mixed with failures by it; else None."""
        return None if self.passing is None else self.error_rate
