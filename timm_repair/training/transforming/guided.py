"""Guided: AugMix in which one chain of every image is led by a failure (few-shot mixing)."""

import torch
from torch import Tensor

from timm_repair.images.images import Images
from timm_repair.training.transforming.chains import Chains, Mixture


class Guided(Chains):
    """A_k(x) = λ x' + (1 - λ) z for one chain k of each image: x' is what AugMix makes of x there,
    z a failure with the label of x (any failure, where none has it), λ ~ Beta(1, 1).

    Args:
        failures: those that lead.
    """

    def __init__(self, options: Mixture, failures: Images):
        super().__init__(options)
        self.failures = failures
        order = failures.labels.argsort(stable=True)
        count = int(failures.labels.max()) + 1
        each = failures.labels.bincount(minlength=count)
        self.order, self.each, self.first = order, each, each.cumsum(0) - each

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """As `Chains.draw`, and which chain is led, by which failure, and λ, from 0 to below 1."""
        return torch.cat(
            [super().draw(count, generator), torch.rand(count, 3, generator=generator)], 1
        )

    def __call__(self, pixels: Tensor, labels: Tensor, drawn: Tensor) -> Tensor:
        chains = self.chains(pixels, drawn)
        led, which, share = drawn[:, -3:].unbind(1)
        led = (led * len(chains)).long()
        failures = self.failures.pixels(self.leaders(labels, which)).to(pixels.device)
        share = share.view(-1, 1, 1, 1)
        mixed = [
            torch.where(
                (led == k).view(-1, 1, 1, 1), share * chain + (1 - share) * failures, chain.float()
            )
            for k, chain in enumerate(chains)
        ]
        return self.mixed(pixels, mixed, drawn)

    def leaders(self, labels: Tensor, which: Tensor) -> Tensor:
        """(n,) rows of the failures that lead images of these labels (n,); `which` (n,), from 0 to
        below 1, says which of those with the label.
        """
        labels, which = labels.cpu(), which.double().cpu()
        known = labels.clamp(max=len(self.each) - 1)
        count = torch.where(labels == known, self.each[known], 0)
        first = torch.where(count > 0, self.first[known], 0)
        count = torch.where(count > 0, count, len(self.order))
        return self.order[first + (which * count).long()]
