"""Genes: transformations of an image as small integers, which mutate and cross (SENSEI).

A gene counts steps away from leaving the image as it is; five steps of 6° each way are the ±30° of
the paper. So two transformations are the same where their integers are.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from timm_repair.errors import OptionError
from timm_repair.options import check_types
from timm_repair.training.transforming.warping import placing, warped

GEOMETRIC = {"rotation": 5, "dx": 3, "dy": 3, "shear": 5}  # steps each way
FILTERS = {"zoom": 5, "brightness": 8, "contrast": 4}
_LARGER = ("rotation", "shear")  # whose steps are doubled where the model is sure
TRIES = 10  # children drawn for each that is wanted, to find so many that differ


@dataclass(frozen=True, kw_only=True)
class Varying:
    """The space of transformations; 0 leaves one out.

    Args:
        rotation: degrees each way.
        translation: pixels each way, as a share of the image's side.
        shear: pixels to the side for each pixel down, each way.
        zoom: share of the size, each way; this and the next two only with `filters`.
        brightness: grey levels of 255 each way.
        contrast: each way from 1.
        filters: look among these as well.
    """

    rotation: float = 30.0
    translation: float = 3 / 32
    shear: float = 0.1
    zoom: float = 0.1
    brightness: float = 32.0
    contrast: float = 0.2
    filters: bool = False

    def __post_init__(self):
        check_types(self)
        sizes = (self.rotation, self.translation, self.shear, self.zoom, self.contrast)
        if min(*sizes, self.brightness) < 0 or max(self.translation, self.zoom, self.contrast) >= 1:
            raise OptionError(
                "sizes of transformations must not be negative, and translation, zoom and contrast"
                " be below 1"
            )


class Space:
    """Transformations as genes (n, k), int64: a step of each is 1.

    Args:
        options: how far each goes.
    """

    def __init__(self, options: Varying):
        names = GEOMETRIC | (FILTERS if options.filters else {})
        sizes = {name: getattr(options, name, options.translation) for name in names}
        self.names = tuple(names)
        self.limits = torch.tensor([steps if sizes[n] else 0 for n, steps in names.items()])
        self.steps = torch.tensor([sizes[name] / steps for name, steps in names.items()])
        self.larger = torch.tensor([1 + (name in _LARGER) for name in names])
        self.changes = 4 if options.filters else 2

    @property
    def noise(self) -> int:
        """Random numbers that one child takes."""
        return 1 + 3 * len(self.names)

    def applied(self, pixels: Tensor, genes: Tensor) -> Tensor:
        """uint8 (n, C, H, W): each of `pixels` as its genes (n, k) say. Zeros leave it to the
        bit as it is.
        """
        height, width = pixels.shape[2:]
        amounts = (genes.cpu() * self.steps).to(pixels.device)
        found = dict(zip(self.names, amounts.unbind(1), strict=True))
        shift = torch.stack([found["dx"] * width, found["dy"] * height], 1)
        zoom = 1 + found["zoom"] if "zoom" in found else None
        placed = placing(rotation=found["rotation"], shear_x=found["shear"], zoom=zoom)
        result = warped(pixels, placed, shift)
        if "contrast" not in found:
            return result
        contrast, brightness = (found[n].view(-1, 1, 1, 1) for n in ("contrast", "brightness"))
        changed = (1 + contrast) * result.float() + brightness
        return changed.round().clamp(0, 255).to(pixels.dtype)

    def beginning(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """No transformation, and others from anywhere in the space by numbers (n, q - 1, k) from 0
        to below 1: genes (n, q, k), each once, and which of their places are taken (n, q).
        """
        random = (noise * (2 * self.limits + 1)).floor().long() - self.limits
        genes = F.pad(random, (0, 0, 1, 0))
        return _first_different(
            genes, genes[:, :0], genes[:, :0, 0] > 0, genes.shape[1], self.limits
        )

    def children(
        self, queues: Tensor, there: Tensor, losses: Tensor, noise: Tensor, mutation: float
    ) -> tuple[Tensor, Tensor]:
        """Of queues (n, q, k), the worst first, and which of their places are taken (n, q) bool:
        children (n, c, k) that differ from these and among each other, and which of their places
        are taken (n, c), as not always so many are found.

        Args:
            losses: (n,) of the worst.
            noise: (n, c · TRIES, `self.noise`) from 0 to below 1.
            mutation: probability that a child is the worst mutated; else it is that crossed with
                the most different of its queue.
        """
        k, tries = len(self.names), noise.shape[1]
        worst = queues[:, :1].expand(-1, tries, -1)
        kind, which, change, bits = noise.split([1, k, k, k], 2)
        distance = (queues - queues[:, :1]).abs() / self.limits.clamp(min=1)
        far = distance.sum(2).masked_fill(~there, -1).argmax(1)
        other = queues[torch.arange(len(queues)), far][:, None]
        crossed = torch.where(bits < 0.5, worst, other)
        children = torch.where(
            kind < mutation, self._mutated(worst, losses, which, change), crossed
        )
        return _first_different(children, queues, there, tries // TRIES, self.limits)

    def _mutated(self, genes: Tensor, losses: Tensor, which: Tensor, change: Tensor) -> Tensor:
        """Some genes a step up or down, or with the other sign."""
        step = torch.where(losses[:, None, None] < 1e-3, self.larger, 1)
        moved = torch.where(change < 1 / 3, genes + step, genes - step)
        moved = torch.where(change < 2 / 3, moved, -genes)
        chosen = which.argsort(2).argsort(2) < self.changes
        return torch.where(chosen, moved.minimum(self.limits).maximum(-self.limits), genes)


def _first_different(
    candidates: Tensor, queues: Tensor, there: Tensor, most: int, limits: Tensor
) -> tuple[Tensor, Tensor]:
    """Of candidates (n, c, k) the first `most` that are new, in no queue (n, q, k) nor before among
    themselves; and how many there are, as places (n, most) bool.
    """
    sizes = (2 * limits + 1).flip(0).cumprod(0)
    radix = torch.cat([torch.ones(1, dtype=torch.long), sizes[:-1]]).flip(0)
    own, taken = (((genes + limits) * radix).sum(2) for genes in (candidates, queues))
    taken = taken.masked_fill(~there, -1)
    earlier = (own[:, :, None] == own[:, None, :]).tril(-1).any(2)
    new = ~earlier & ~(own[:, :, None] == taken[:, None, :]).any(2)
    order = (~new).long().argsort(dim=1, stable=True)[:, :most]
    rows = torch.arange(len(candidates))[:, None]
    return candidates[rows, order], new[rows, order]
