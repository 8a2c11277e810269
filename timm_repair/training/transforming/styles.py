"""Styles: which failures are references of style, and how an image takes the style of another.

The references are DeepRepair's: the failures of every class are clustered, and one of each cluster
stands for it. DeepRepair transfers style by a network (WCT2) whose weights come with it; here it is
transferred by statistics, of the channels or of the spectrum.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from scipy.cluster.vq import kmeans2
from torch import Tensor
from torch.nn import functional as F

from timm_repair.errors import OptionError, did_you_mean
from timm_repair.images.images import Images
from timm_repair.options import check_types
from timm_repair.runtime.processes import agreed
from timm_repair.runtime.runtime import Runtime

_SIDE = 32  # pixels of an image as it is clustered: styles are seen at this size


@dataclass(frozen=True, kw_only=True)
class Styling:
    """References of style, and its transfer.

    Args:
        transfer: "fourier": the amplitudes of the reference's spectrum with the image's phases;
            "statistics": the reference's mean and standard deviation of each channel.
        clusters: references of a class.
        references_from: at most so many failures of a class are looked at.
    """

    transfer: str = "fourier"
    clusters: int = 5
    references_from: int = 100

    def __post_init__(self):
        check_types(self)
        if self.transfer not in TRANSFERS:
            known = did_you_mean(self.transfer, TRANSFERS)
            raise OptionError(f"unknown transfer {self.transfer!r}{known}")
        if self.clusters < 1 or self.references_from < 1:
            raise OptionError("clusters and references_from must be at least 1")


def by_statistics(pixels: Tensor, references: Tensor) -> Tensor:
    """`pixels` with each channel's mean and standard deviation those of `references`, both (n, C,
    H, W) on the scale 0 to 255; float, not clamped.
    """
    moments = [torch.std_mean(each.float(), (2, 3), keepdim=True) for each in (pixels, references)]
    (own_std, own_mean), (std, mean) = moments
    return (pixels.float() - own_mean) / own_std.clamp(min=1e-3) * std + mean


def by_fourier(pixels: Tensor, references: Tensor) -> Tensor:
    """`pixels` with the amplitudes of the spectrum of `references`, both (n, C, H, W) on the scale
    0 to 255; float, not clamped.
    """
    own, theirs = (torch.fft.rfft2(each.float()) for each in (pixels, references))
    swapped = torch.polar(theirs.abs(), own.angle())
    return torch.fft.irfft2(swapped, s=pixels.shape[2:])


TRANSFERS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "fourier": by_fourier,
    "statistics": by_statistics,
}


def references(failures: Images, options: Styling, runtime: Runtime) -> Tensor:
    """(n,) rows of the failures that are references of style: a random one of each of
    `options.clusters` clusters of every class.
    """
    generator, rows = runtime.generator("references of style"), []
    for label in failures.labels.unique().tolist():
        own = (failures.labels == label).nonzero().flatten()
        own = own[torch.randperm(len(own), generator=generator)[: options.references_from]]
        clusters = _clustered(failures, own, options.clusters, generator)
        for cluster in clusters.unique().tolist():
            members = own[clusters == cluster]
            rows.append(members[torch.randint(len(members), (), generator=generator)])
    return agreed(torch.stack(rows), runtime.accelerator)


def _clustered(failures: Images, rows: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """(n,) which of at most `count` clusters each of the failures `rows` (n,) is in: k-means on
    their pixels, scaled to 0 … 1, which begins with the first of them, in a random order.
    """
    if len(rows) <= count:
        return torch.arange(len(rows))
    height, width = _size(failures)
    points = torch.cat(
        [
            F.adaptive_avg_pool2d(
                failures.pixels(some).float() / 255,
                (min(height, _SIDE), min(width, _SIDE)),
            ).flatten(1)
            for some in rows.split(256)
        ]
    ).double()
    first = torch.randperm(len(rows), generator=generator)[:count]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a cluster may become empty: it has none
        _, found = kmeans2(points.numpy(), points[first].numpy(), minit="matrix")
    return torch.from_numpy(found).long()


def _size(images: Images) -> tuple[int, ...]:
    return images.preprocessing.input_size[1:]
