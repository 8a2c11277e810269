"""Chains: AugMix (Hendrycks et al., ICLR 2020), x~ = (1 - m) x + m Σ_k w_k A_k(x)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from timm_repair.errors import OptionError
from timm_repair.options import check_types
from timm_repair.training.transforming.operations import OPERATIONS, Operation

_PLACE = 3  # numbers that say what happens at one place of a chain: operation, level, sign


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """What AugMix mixes an image with.

    Args:
        width: chains.
        depth: operations of a chain at most; it has 1 to so many.
        severity: highest level of an operation, out of 10.
    """

    width: int = 3
    depth: int = 3
    severity: float = 3.0

    def __post_init__(self):
        check_types(self)
        if self.width < 1 or self.depth < 1:
            raise OptionError("width and depth must be at least 1")
        if not 0.1 < self.severity <= 10:
            raise OptionError(f"severity is a level above 0.1, at most 10, got {self.severity}")


class Chains:
    """AugMix, in the form that `ConsistencyLoss` asks for. Drawing and applying are apart, see the
    package.

    Args:
        operations: what a chain is made of.
    """

    def __init__(self, options: Mixture, operations: Sequence[Operation] = OPERATIONS):
        self.options, self.operations = options, operations

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """For each of `count` images m, the w_k, and of every chain its length and the operation
        (from 0 to below 1), level and sign of each place: (count, k), on the CPU.
        """
        width, depth = self.options.width, self.options.depth

        def uniform(*shape: int) -> Tensor:
            return torch.rand(count, *shape, generator=generator)

        m, weights = uniform(1), -(1 - uniform(width)).log()  # Beta(1, 1), and Dirichlet(1)
        lengths = 1 + (depth * uniform(width, 1)).floor()
        operations, levels, signs = (uniform(width, depth, 1) for _ in range(_PLACE))
        levels = 0.1 + (self.options.severity - 0.1) * levels
        signs = torch.where(signs < 0.5, -1.0, 1.0)
        places = torch.cat([operations, levels, signs], 3).flatten(2)
        chains = torch.cat([lengths, places], 2).flatten(1)
        return torch.cat([m, weights / weights.sum(1, keepdim=True), chains], 1)

    def __call__(self, pixels: Tensor, labels: Tensor, drawn: Tensor) -> Tensor:
        """The mixed images, float (n, C, H, W) on the scale 0 to 255, of `pixels` uint8 and what
        was drawn for each (n, k).
        """
        return self.mixed(pixels, self.chains(pixels, drawn), drawn)

    def chains(self, pixels: Tensor, drawn: Tensor) -> list[Tensor]:
        """A_1(x), A_2(x), …: what comes out of every chain, uint8."""
        width, depth = self.options.width, self.options.depth
        places = drawn[:, 1 + width : 1 + width + width * (1 + depth * _PLACE)]
        results = []
        for chain in places.view(len(drawn), width, -1).unbind(1):
            length, steps = chain[:, 0], chain[:, 1:].view(-1, depth, _PLACE)
            found = self.begun(pixels, length, steps[:, :, 0], drawn)
            for place, (operation, level, sign) in enumerate(s.unbind(1) for s in steps.unbind(1)):
                chosen = torch.where(place < length, self._numbers(operation), -1)
                found = self._applied(found, chosen, level, sign)
            results.append(found)
        return results

    def begun(self, pixels: Tensor, length: Tensor, operations: Tensor, drawn: Tensor) -> Tensor:
        """What a chain of `length` (n,), whose operations (n, depth) were drawn, begins with."""
        return pixels

    def mixed(self, pixels: Tensor, chains: Sequence[Tensor], drawn: Tensor) -> Tensor:
        """(1 - m) x + m Σ_k w_k A_k(x)."""
        m, weights = drawn[:, 0].view(-1, 1, 1, 1), drawn[:, 1 : 1 + len(chains)]
        total = torch.zeros_like(pixels, dtype=torch.float32)
        for weight, chain in zip(weights.unbind(1), chains, strict=True):
            total += weight.view(-1, 1, 1, 1) * chain.float()
        return (1 - m) * pixels.float() + m * total

    def _numbers(self, drawn: Tensor) -> Tensor:
        return (drawn * len(self.operations)).long()

    def _applied(self, pixels: Tensor, chosen: Tensor, level: Tensor, sign: Tensor) -> Tensor:
        """Each image after the operation whose number is `chosen` (n,); -1 leaves it as it is."""
        result = pixels.clone()
        for number, operation in enumerate(self.operations):
            these = (chosen == number).nonzero().flatten()
            if len(these):
                result[these] = operation(pixels[these], level[these], sign[these])
        return result
