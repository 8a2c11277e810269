"""Styled: AugMix with one operation more, which gives an image the style of a failure
(DeepRepair).
"""

import torch
from torch import Tensor

from timm_repair.images.images import Images
from timm_repair.training.transforming.chains import Chains, Mixture
from timm_repair.training.transforming.operations import OPERATIONS
from timm_repair.training.transforming.styles import TRANSFERS


def style(pixels: Tensor, level: Tensor, sign: Tensor) -> Tensor:
    """The place of STYLE among the operations of a chain: a chain that has it begins with it, so
    nothing is left to do.
    """
    return pixels


class Styled(Chains):
    """A chain in which STYLE is drawn, however often, begins with it; see `styles`.

    Args:
        failures: what has the style.
        rows: (n,) those of them that are references.
        transfer: a name of `styles.TRANSFERS`.
    """

    def __init__(self, options: Mixture, failures: Images, rows: Tensor, transfer: str):
        super().__init__(options, (*OPERATIONS, style))
        self.failures, self.rows, self.transfer = failures, rows, TRANSFERS[transfer]

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """As `Chains.draw`, and which reference gives its style, from 0 to below 1."""
        return torch.cat(
            [super().draw(count, generator), torch.rand(count, 1, generator=generator)], 1
        )

    def begun(self, pixels: Tensor, length: Tensor, operations: Tensor, drawn: Tensor) -> Tensor:
        places = torch.arange(operations.shape[1], device=length.device)
        is_style = self._numbers(operations) == len(OPERATIONS)
        these = (is_style & (places < length[:, None])).any(1).nonzero().flatten()
        if not len(these):
            return pixels
        which = (drawn[these, -1].double().cpu() * len(self.rows)).long()
        references = self.failures.pixels(self.rows[which]).to(pixels.device)
        result = pixels.clone()
        found = self.transfer(pixels[these], references)
        result[these] = found.round().clamp(0, 255).to(pixels.dtype)
        return result
