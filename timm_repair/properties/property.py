"""Property: boxes of inputs, and what a network must not answer in them.

It says what VNN-LIB says: a file describes the violation. In a box, an output violates where all
comparisons of at least one clause hold.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from timm_repair.errors import OptionError, PropertyError, did_you_mean

ANSWERS = ("highest", "lowest")


@dataclass(frozen=True, eq=False)
class Clause:
    """Comparisons that hold together: coefficients @ y <= bounds in every row.

    Args:
        coefficients: (rows, outputs) float64.
        bounds: (rows,) float64.
    """

    coefficients: Tensor
    bounds: Tensor

    def slack(self, outputs: Tensor) -> Tensor:
        """By how much the tightest comparison holds for `outputs` (n, K), negative where it does
        not: (n,).
        """
        coefficients, bounds = (each.to(outputs) for each in (self.coefficients, self.bounds))
        return (bounds - outputs @ coefficients.T).amin(1)

    def compared(self) -> list[tuple[int, int]]:
        """(a, b) for each row that reads y_a <= y_b; empty if a row says anything else."""
        pairs = []
        for row, bound in zip(self.coefficients.tolist(), self.bounds.tolist(), strict=True):
            used = {value: place for place, value in enumerate(row) if value}
            if bound or set(used) != {1.0, -1.0} or sum(map(bool, row)) != 2:
                return []
            pairs.append((used[1.0], used[-1.0]))
        return pairs


@dataclass(frozen=True, eq=False)
class Region:
    """A box of inputs and the clauses of which none may hold in it.

    Args:
        lower, upper: (inputs,) float64; both ends belong to the box.
    """

    lower: Tensor
    upper: Tensor
    clauses: tuple[Clause, ...]

    def holds(self, inputs: Tensor) -> Tensor:
        """(n,) bool: which of `inputs` (n, D) are in the box."""
        inside = (inputs.double() >= self.lower) & (inputs.double() <= self.upper)
        return inside.all(1)

    def margin(self, outputs: Tensor) -> Tensor:
        """How far `outputs` (n, K) are inside the violation: (n,), at least 0 where they violate.
        Differentiable.
        """
        return torch.stack([clause.slack(outputs) for clause in self.clauses]).amax(0)


@dataclass(frozen=True, eq=False)
class Property:
    """What a network must not do, in one box of inputs or in several.

    Args:
        name: for reports, such as the file's name.
        regions: all of the same numbers of inputs and outputs.
        answer: the end of the outputs that is the network's answer, "highest" or "lowest"; None
            reads it from the comparisons, see `answers.of`.

    Raises:
        PropertyError: a box is empty or unbounded, or the numbers of inputs or outputs differ.
    """

    name: str
    regions: tuple[Region, ...]
    answer: str | None = None

    def __post_init__(self):
        if not isinstance(self.name, str) or not self.name:
            raise PropertyError(f"name={self.name!r:.80} must be a text that says which it is")
        if not isinstance(self.regions, tuple) or not all(
            isinstance(region, Region) for region in self.regions
        ):
            raise PropertyError(
                f"{self.name}: regions={self.regions!r:.80} must be a tuple of Region; in one box"
                " Property.allowing is simpler"
            )
        if self.answer is not None and self.answer not in ANSWERS:
            raise OptionError(f"unknown answer {self.answer!r}{did_you_mean(self.answer, ANSWERS)}")
        if not self.regions or not all(region.clauses for region in self.regions):
            raise PropertyError(
                f"{self.name}: it forbids nothing; give at least one box and one condition on"
                " outputs"
            )
        for number, region in enumerate(self.regions, 1):
            box = f"{self.name}, box {number} of {len(self.regions)}"
            _check_box(box, region)
            sizes = {clause.coefficients.shape[1] for clause in region.clauses}
            if sizes != {self.outputs} or len(region.lower) != self.inputs:
                raise PropertyError(
                    f"{box}: its numbers of inputs and outputs are not those of the first box"
                )

    @property
    def inputs(self) -> int:
        return len(self.regions[0].lower)

    @property
    def outputs(self) -> int:
        return self.regions[0].clauses[0].coefficients.shape[1]

    @classmethod
    def allowing(
        cls,
        name: str,
        lower: Sequence[float],
        upper: Sequence[float],
        allowed: Sequence[int],
        *,
        outputs: int,
        answer: str = "highest",
    ) -> "Property":
        """In one box the answer must be among `allowed`: no other output may beat, or equal, all of
        these.

        Example:
            >>> Property.allowing("near zero", [-1, -1], [1, 1], [0, 2], outputs=5, answer="lowest")
        """
        if isinstance(outputs, bool) or not isinstance(outputs, Integral):
            raise PropertyError(f"{name}: outputs={outputs!r:.80} must be how many there are")
        allowed = _whole(f"{name}: allowed", allowed)
        if not allowed or not set(allowed) < set(range(outputs)):
            raise PropertyError(
                f"{name}: allowed={allowed} must be some, but not all, of 0 to {outputs - 1}"
            )
        clauses = []
        for other in sorted(set(range(outputs)) - set(allowed)):
            rows = torch.zeros(len(allowed), outputs, dtype=torch.float64)
            for row, wanted in zip(rows, allowed, strict=True):
                row[other], row[wanted] = (1, -1) if answer == "lowest" else (-1, 1)
            clauses.append(Clause(rows, torch.zeros(len(allowed), dtype=torch.float64)))
        low, high = (
            _numbers(f"{name}: {which}", side)
            for which, side in (("lower", lower), ("upper", upper))
        )
        if low.ndim != 1 or low.shape != high.shape:
            raise PropertyError(
                f"{name}: lower and upper are lists of equally many numbers, not of shapes"
                f" {tuple(low.shape)} and {tuple(high.shape)}"
            )
        return cls(name, (Region(low, high, tuple(clauses)),), answer)

    def margin(self, outputs: Tensor, regions: Tensor) -> Tensor:
        """`Region.margin` of `outputs` (n, K), each in the region whose number is in `regions`
        (n,).
        """
        margins = torch.stack([region.margin(outputs) for region in self.regions])
        return margins.gather(0, regions.to(outputs.device)[None])[0]

    def violated(self, outputs: Tensor, regions: Tensor) -> Tensor:
        """(n,) bool: which of `outputs` (n, K) violate."""
        return self.margin(outputs, regions) >= 0


def _numbers(what: str, given: Any) -> Tensor:
    """Float64 of any shape from numbers, however they are held."""
    try:
        if isinstance(given, str | bytes):
            raise TypeError("a text")
        return torch.as_tensor(given, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise PropertyError(f"{what}={given!r:.80} must be a list of numbers ({error})") from error


def _whole(what: str, given: Any) -> list[int]:
    """Numbers of outputs, each once."""
    values = _numbers(what, list(given) if isinstance(given, set | frozenset | range) else given)
    boolean = isinstance(given, Sequence) and any(isinstance(value, bool) for value in given)
    if values.ndim != 1 or boolean or (values != values.round()).any():
        raise PropertyError(f"{what}={given!r:.80} must be a list of whole numbers, as [0, 2]")
    return list(dict.fromkeys(int(value) for value in values.tolist()))


def _check_box(box: str, region: Region) -> None:
    for axis, (low, high) in enumerate(
        zip(region.lower.tolist(), region.upper.tolist(), strict=True)
    ):
        if not (torch.tensor([low, high]).isfinite().all()):
            raise PropertyError(
                f"{box}: X_{axis} is unbounded ({low} to {high}): inputs are drawn from the whole"
                " box, so give both ends"
            )
        if low > high:
            raise PropertyError(
                f"{box}: it is empty, X_{axis} is at least {low} and at most {high}"
            )
