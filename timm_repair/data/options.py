"""DataOptions: how the data of a repair are read and split, in groups; users give all of them
flat.
"""

from dataclasses import dataclass, field, fields
from typing import Any

from timm_repair.data.splits import LEAST
from timm_repair.errors import OptionError
from timm_repair.images.reading import Reading
from timm_repair.options import check_types, grouped


@dataclass(frozen=True, kw_only=True)
class Shares:
    """How large the parts are that are chosen by (early stopping, block, strength) and measured on;
    neither is trained on, nor is the second chosen by.

    Args:
        selection_share: of the failures, and of the passing examples, to choose by.
        holdout_share: of the failures, and of the passing examples, to measure on.
        retained_selection_share: of the retained examples, to choose by.
        retained_selection_max: at most so many of them.
        retained_holdout_share: of the retained examples, to measure on where no holdout is given.
        retained_holdout_max: at most so many of them.
    """

    selection_share: float = 0.2
    holdout_share: float = 0.2
    retained_selection_share: float = 0.1
    retained_selection_max: int = 2000
    retained_holdout_share: float = 0.2
    retained_holdout_max: int = 2000

    def __post_init__(self):
        check_types(self)
        for option in fields(self):
            value = getattr(self, option.name)
            if option.name.endswith("_share") and not 0 < value < 1:
                raise OptionError(f"{option.name}={value!r}; must lie between 0 and 1")
            if option.name.endswith("_max") and value < LEAST:
                raise OptionError(f"{option.name}={value!r}; must be at least {LEAST}")
        for kind in ("", "retained_"):
            if getattr(self, f"{kind}selection_share") + getattr(self, f"{kind}holdout_share") >= 1:
                raise OptionError(
                    f"{kind}selection_share and {kind}holdout_share leave nothing to train on"
                )

    def of(self, name: str, held_out: bool) -> dict[str, tuple[float, int | None]]:
        """For `splits.split` of the "failing", "passing" or "retained": share and most of each part
        beside the one trained on.
        """
        kind = "retained_" if name == "retained" else ""
        parts = ("selection",) if held_out else ("selection", "holdout")
        return {
            p: (getattr(self, f"{kind}{p}_share"), getattr(self, f"{kind}{p}_max", None))
            for p in parts
        }


@grouped
@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """How the data of a repair are read and split. The fields of the groups may be given flat:
    `DataOptions(label_map="names.json", holdout_share=0.3)`.

    Args:
        max_right: share of the given failures that the model may get right; above, they are taken
            for mislabelled.
        failures_split: which split of the failures; None takes `split`.
        passing_split: which split of the passing examples; None takes `split`.
        retain_split: which split of the retained examples; None takes `split`.
        holdout_split: which split of the holdout; None takes `split`.
        shares: a group: how the data are split.
        reading: a group: how every source is read; `streaming` and `max_examples` apply to those
            that are streams, others are read as ever.
    """

    max_right: float = 0.5
    failures_split: str | None = None
    passing_split: str | None = None
    retain_split: str | None = None
    holdout_split: str | None = None
    shares: Shares = field(default_factory=Shares)
    reading: Reading = field(default_factory=Reading)

    def __post_init__(self):
        check_types(self)
        if not 0 <= self.max_right <= 1:
            raise OptionError(f"max_right={self.max_right!r}; must lie between 0 and 1")

    def reading_of(self, role: str, source: Any) -> Reading:
        """How `source` is read: the failures, the retained examples ("retain"), the "passing" ones
        or the "holdout".
        """
        return self.reading.fitting(source, getattr(self, f"{role}_split"))
