"""DataOptions: how the data of a repair are read and split."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from timm_repair.data.splits import LEAST
from timm_repair.errors import OptionError
from timm_repair.images.sources import can_stream, is_stream
from timm_repair.options import check_types


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """How the data of a repair are read and split.

    Args:
        selection_share: of the failures, for choosing (early stopping, block, strength); never
            trained on.
        holdout_share: of the failures, for measuring; never trained on nor chosen by.
        retained_selection_share: the same for the retained examples, at most
            `retained_selection_max` of them.
        retained_selection_max: see above.
        retained_holdout_share: of the retained examples, for measuring where no holdout is given,
            at most `retained_holdout_max` of them.
        retained_holdout_max: see above.
        max_right: share of the given failures that the model may get right; above, they are taken
            for mislabelled.
        failures_split: which split of the failures, where they have several; likewise for the other
            two.
        retain_split: see above.
        holdout_split: see above.
        image_column: see `as_images`, as for all that follow; they apply to every source.
        label_column: see above.
        label_map: see above.
        on_unreadable: see above.
        on_unknown: see above.
        streaming: see above; only Hub ids and files are streamed, other sources are read as ever.
        max_examples: see above; of each stream, other sources are read as ever.
    """

    selection_share: float = 0.2
    holdout_share: float = 0.2
    retained_selection_share: float = 0.1
    retained_selection_max: int = 1000
    retained_holdout_share: float = 0.2
    retained_holdout_max: int = 2000
    max_right: float = 0.5
    failures_split: str | None = None
    retain_split: str | None = None
    holdout_split: str | None = None
    image_column: str | None = None
    label_column: str | None = None
    label_map: Mapping | Sequence[str] | str | Path | None = None
    on_unreadable: str = "stop"
    on_unknown: str = "stop"
    streaming: bool = False
    max_examples: int | None = None

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
        if self.max_examples is not None and self.max_examples < 1:
            raise OptionError(f"max_examples={self.max_examples!r}; must be at least 1, or None")
        if not 0 <= self.max_right <= 1:
            raise OptionError(f"max_right={self.max_right!r}; must lie between 0 and 1")

    def shares(self, name: str, held_out: bool) -> dict[str, tuple[float, int | None]]:
        """For `splits.split` of the "failing" or "retained": share and most of each part beside the
        one trained on.
        """
        kind = "retained_" if name == "retained" else ""
        parts = ("selection",) if held_out else ("selection", "holdout")
        return {
            p: (getattr(self, f"{kind}{p}_share"), getattr(self, f"{kind}{p}_max", None))
            for p in parts
        }

    def source_options(self, role: str, source: Any) -> dict:
        """Keyword arguments of `as_images` for `source`: the failures, the retained examples
        ("retain") or the "holdout".
        """
        names = ("image_column", "label_column", "label_map", "on_unreadable", "on_unknown")
        streaming = self.streaming and can_stream(source)
        most = self.max_examples if is_stream(source, streaming) else None
        chosen = {
            "split": getattr(self, f"{role}_split"),
            "streaming": streaming,
            "max_examples": most,
        }
        return {name: getattr(self, name) for name in names} | chosen
