"""Block: a part of a model that can be taken out and replaced."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Block:
    """A part of a model that can be taken out and replaced.

    Args:
        name: module path ("layer3"), or first and last member of a run ("features.24-29").
        paths: the modules it spans: consecutive children of one parent, in call order.
        role: "stem", "body" or "head".
        in_shape: of what arrives for one image: (C, H, W) of a map, (H, W, C) where channels are
            last, (N, C) of tokens; None where that is not one tensor.
        out_shape: the same for what leaves.
        parameters: full names of the parameters it owns.
        num_params: how many numbers they hold.
        flops: of one image's forward pass; a multiply-add counts two.
        reason: why it cannot be repaired; "" if it can.
        maps: whether one (C, H, W) map arrives, with nothing beside it, and one leaves; tokens and
            maps with their channels last have another layout.
    """

    name: str
    paths: tuple[str, ...]
    role: str
    in_shape: tuple[int, ...] | None
    out_shape: tuple[int, ...] | None
    parameters: tuple[str, ...]
    num_params: int
    flops: int
    reason: str = ""
    maps: bool = True

    @classmethod
    def at(cls, paths: Sequence[str]) -> "Block":
        """A body block of which only the place is known, as an edit names it: enough to take it out
        and put it in.
        """
        return cls(paths[0], tuple(paths), "body", None, None, (), 0, 0)

    def to_dict(self) -> dict[str, Any]:
        """What a report tells of it, as plain JSON."""
        names = ("name", "role", "in_shape", "out_shape", "num_params", "flops", "reason")
        values = {name: getattr(self, name) for name in names}
        return {key: list(v) if isinstance(v, tuple) else v for key, v in values.items()}

    @property
    def repairable(self) -> bool:
        """Whether a repair may choose it."""
        return self.role == "body" and not self.reason
