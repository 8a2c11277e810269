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
        selection: "failing" and, with retained examples, "retained": what choices are made by;
            never trained on.
        holdout: population name to images: what is measured; never trained on nor chosen by.
        preprocessing: of the model.
        num_classes: of the model.
        label_names: readable names of the classes, where known.
        error_rate: share of the pool the failures were drawn from that the model gets wrong; None
            if unknown.
        provenance: plain JSON: per role the source, n, SHA-256 over ids and labels, columns, label
            mapping, skipped.
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
