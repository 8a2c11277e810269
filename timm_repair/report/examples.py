"""Examples: what is known of each single example of a population beside its answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from timm_repair.errors import DataError

LONGEST = 200  # characters of an id


@dataclass(frozen=True, eq=False)
class Examples:
    """How sure both models were of each example, and how its source calls it.

    Probabilities are the softmax of the logits, to four decimals: what a model says of itself, not
    how often it is right.

    Args:
        before, after: (N, 2) the probability of the answer, and that of the true class, by the
            original and by the repaired model.
        ids: (N,) of the source: a file's path in its folder, a row's number; None where they are
            not told.

    Raises:
        DataError: the numbers of examples differ.
    """

    before: Tensor
    after: Tensor
    ids: tuple[str, ...] | None = None

    def __post_init__(self):
        for name in ("before", "after"):
            value = torch.as_tensor(getattr(self, name)).detach().cpu().double()
            object.__setattr__(self, name, value.reshape(-1, 2).round(decimals=4))
        if self.ids is not None:
            ids = tuple(str(each)[:LONGEST] for each in self.ids)
            object.__setattr__(self, "ids", ids)
        lengths = {len(self.before), len(self.after), len(self if self.ids is None else self.ids)}
        if len(lengths) > 1:
            raise DataError(f"probabilities and ids of {sorted(lengths)} examples go not together")

    @classmethod
    def of(
        cls,
        before: tuple[Tensor, Tensor],
        after: tuple[Tensor, Tensor],
        ids: Sequence[object] | None = None,
    ) -> "Examples":
        """From (N,) confidences and cross-entropies of both models, see `predict`."""
        first, second = (torch.stack([sure, (-loss).exp()], 1) for sure, loss in (before, after))
        return cls(first, second, None if ids is None else tuple(map(str, ids)))

    def __len__(self) -> int:
        return len(self.before)

    @property
    def change(self) -> Tensor:
        """(N,) by how much the probability of the true class rose."""
        return self.after[:, 1] - self.before[:, 1]

    def at(self, rows: Tensor) -> "Examples":
        """Those at `rows`, numbers or a mask."""
        known = self.ids
        numbers = torch.arange(len(self))[rows].tolist()
        ids = None if known is None else tuple(known[row] for row in numbers)
        return Examples(self.before[rows], self.after[rows], ids)

    def to_dict(self) -> dict:
        """Plain JSON."""
        sides = {
            name: {"answer": side[:, 0].tolist(), "truth": side[:, 1].tolist()}
            for name, side in (("before", self.before), ("after", self.after))
        }
        return {"ids": None if self.ids is None else list(self.ids), **sides}

    @classmethod
    def from_dict(cls, data: Mapping) -> "Examples":
        """Inverse of `to_dict`."""
        before, after = (
            torch.tensor([data[name]["answer"], data[name]["truth"]], dtype=torch.double).T
            for name in ("before", "after")
        )
        ids = data["ids"]
        if ids is not None and not all(isinstance(each, str) for each in ids):
            raise ValueError("ids must be texts")
        return cls(before, after, None if ids is None else tuple(ids))
