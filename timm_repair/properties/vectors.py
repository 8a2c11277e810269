"""`Vectors`: labelled inputs that are numbers and not images. To all that repairs, they are what
`Images` is.

The inputs are taken as they are: their preprocessing is the identity, and nothing augments them.
What is right of an answer to them, the properties say.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from timm_repair.images.images import Images
from timm_repair.images.preprocessing import Preprocessing
from timm_repair.properties.property import Property, Region


class Identity(Preprocessing):
    """The preprocessing of vectors of so many `inputs`: none."""

    def __init__(self, inputs: int):
        super().__init__((inputs,), (), (), {})

    def normalize(self, pixels: Tensor, device: torch.device | str | None = None) -> Tensor:
        """`pixels` (n, inputs) as they are, on `device`."""
        return pixels.to(device, torch.float32, non_blocking=True)


@dataclass(frozen=True)
class Judge:
    """Tells violations, wherever an input lies.

    Args:
        properties: all that are to hold.
        sign: of the outputs that it is given: -1 where the network's own are negated.
    """

    properties: tuple[Property, ...]
    sign: int = 1

    @property
    def regions(self) -> list[Region]:
        """The boxes of all properties."""
        return [region for each in self.properties for region in each.regions]

    def inside(self, inputs: Tensor) -> Tensor:
        """(n, boxes) bool: in which of all boxes `inputs` (n, D) are."""
        return torch.stack([region.holds(inputs) for region in self.regions], 1)

    def excess(self, inside: Tensor, outputs: Tensor) -> Tensor:
        """(n,) how far `outputs` (n, K) violate what holds for their inputs, at least 0 where they
        do; -inf outside of all boxes.

        Args:
            inside: (n, boxes) of the inputs.
        """
        margins = [region.margin(self.sign * outputs) for region in self.regions]
        inside = inside.to(outputs.device)
        return torch.stack(margins, 1).masked_fill(~inside, -torch.inf).amax(1)


class Vectors(Images):
    """Labelled inputs of a network.

    Args:
        inputs: (N, inputs) float32.
        labels: (N,) the answers that are wanted.
        judge: tells violations.
        name: what these are, for messages.
        strict: an answer is right only if it is the label; else any answer that violates nothing.
        answers: (N,) the original's answers; None where nobody asked it.
        ids: one name each; None numbers them.
    """

    def __init__(
        self,
        inputs: Tensor,
        labels: Tensor,
        judge: Judge,
        *,
        name: str,
        strict: bool,
        answers: Tensor | None = None,
        ids: Sequence | None = None,
    ):
        # nothing is decoded, so there is no pool
        self.inputs, self.labels, self.answers = inputs.cpu().float(), labels.cpu(), answers
        self.judge, self.name, self.strict = judge, name, strict
        self.origin, self.error_rate, self.on_unreadable = {}, None, "stop"
        self.ids = tuple(range(len(inputs))) if ids is None else tuple(ids)
        self.identity, self.inside = Identity(inputs.shape[1]), judge.inside(self.inputs)

    def __repr__(self) -> str:
        return f"Vectors({self.name!r}, n={len(self)}, inputs={self.inputs.shape[1]})"

    @property
    def preprocessing(self) -> Preprocessing:
        return self.identity

    @property
    def keys(self) -> list[tuple]:
        """What identifies each example: its numbers."""
        return [(digest,) for digest in self.digests()]

    def subset(
        self,
        indices: Sequence[int] | Tensor,
        *,
        own_cache: bool = False,
        name: str | None = None,
        error_rate: float | None = None,
        answers: Tensor | None = None,
    ) -> "Vectors":
        """The examples at `indices` (n,), or where this mask is true; as `Images.subset`."""
        indices = torch.as_tensor(indices)
        indices = indices.nonzero().flatten() if indices.dtype == torch.bool else indices.long()
        if answers is None and self.answers is not None:
            answers = self.answers[indices]
        return Vectors(
            self.inputs[indices],
            self.labels[indices],
            self.judge,
            name=name or self.name,
            strict=self.strict,
            answers=answers,
            ids=[self.ids[i] for i in indices.tolist()],
        )

    def pixels(self, indices: Sequence[int] | Tensor) -> Tensor:
        """Float32 (n, inputs) of the examples at `indices` (n,)."""
        return self.inputs[torch.as_tensor(indices)]

    def right(self, logits: Tensor, rows: Tensor) -> Tensor:
        """(n,) bool: which of `logits` (n, K) violate nothing and, if strict, have the label."""
        allowed = self.judge.excess(self.inside[rows], logits) < 0
        return allowed & super().right(logits, rows) if self.strict else allowed

    def margins(self, logits: Tensor, rows: Tensor) -> Tensor:
        """(n,) how far each of `logits` (n, K) is from a violation, negative where it is one."""
        return -self.judge.excess(self.inside[rows], logits)

    def expect(self, indices: Sequence[int] | Tensor) -> None:
        """Nothing has to be decoded."""

    def readable(self) -> Tensor:
        """(N,) bool: all are."""
        return torch.ones(len(self), dtype=torch.bool)

    def first_unreadable(self) -> None:
        """None is unreadable."""

    def digests(self) -> list[bytes]:
        """SHA-256 of each example's numbers."""
        return [hashlib.sha256(row.numpy().tobytes()).digest() for row in self.inputs]

    def describe(self) -> dict:
        """Provenance as plain JSON: the number of examples, SHA-256 over their numbers and
        labels.
        """
        digest = hashlib.sha256(self.inputs.numpy().tobytes() + self.labels.numpy().tobytes())
        return {"n": len(self), "sha256": digest.hexdigest()}
