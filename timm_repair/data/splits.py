"""Disjoint splits: drawn at random, stratified by label, and checked for the same example under two
names.
"""

import logging
from collections.abc import Mapping

import torch
from torch import Tensor

from timm_repair.errors import DataError
from timm_repair.images.images import Images

logger = logging.getLogger(__name__)

LEAST = 2  # examples in any split
# decoded size up to which retained images are compared by their pixels too
_COMPARED_BYTES = 64 * 1024**2


def stratified(labels: Tensor, sizes: list[int], generator: torch.Generator) -> list[Tensor]:
    """Random disjoint index sets of exactly these `sizes`, each with its share of every label up to
    one example.

    Args:
        labels: (N,) class indices.
        sizes: how many in each part; their sum is N.
        generator: of the draw.

    Returns:
        Per part its indices, ascending.
    """
    shuffled = torch.randperm(len(labels), generator=generator)
    by_label = shuffled[labels[shuffled].argsort(stable=True)]
    counts = labels.bincount()
    first = counts.cumsum(0) - counts
    own = labels[by_label]
    # each class is spread evenly over [0, 1), so that any cut through it takes the same share of
    # every class
    rank = torch.arange(len(labels)) - first[own]
    place = (rank + torch.rand(len(labels), generator=generator)) / counts[own]
    return [part.sort().values for part in by_label[place.argsort(stable=True)].split(sizes)]


def split(
    images: Images, shares: Mapping[str, tuple[float, int | None]], generator: torch.Generator
) -> dict[str, Images]:
    """`images` in disjoint parts: "train", and each name of `shares` with its share and at most so
    many examples.

    Raises:
        DataError: there are fewer than two examples for each part.
    """
    total, names = len(images), ", ".join((*shares, "train"))
    needed = LEAST * (len(shares) + 1)
    if total < needed:
        raise DataError(
            f"{images.name}: {total} examples are too few for the splits ({names}): at least"
            f" {needed} are needed, {LEAST} for each. Give more"
        )
    sizes = []
    for i, (share, most) in enumerate(shares.values()):
        left = total - sum(sizes) - LEAST * (len(shares) - i)
        sizes.append(max(LEAST, min(round(share * total), left, most or left)))
    parts = stratified(images.labels, [*sizes, total - sum(sizes)], generator)
    return {
        name: images.subset(
            part, name=images.name if name == "train" else f"{images.name} ({name})"
        )
        for name, part in zip((*shares, "train"), parts, strict=True)
    }


def without_duplicates(images: Images) -> Images:
    """`images` with one of each group of equal pixels and label: else it could be trained on and
    measured on.
    """
    seen = {}
    for i, example in enumerate(zip(images.digests(), images.labels.tolist(), strict=True)):
        seen.setdefault(example, i)
    if len(seen) == len(images):
        return images
    logger.warning("%s: %d exact duplicates left out", images.name, len(images) - len(seen))
    return images.subset(list(seen.values()))


def without(images: Images, others: Images) -> Images:
    """`images` less the examples that are in `others` too, as far as `shared` finds them."""
    found = shared(images, [others])
    if not found.any():
        return images
    logger.info(
        "%s: %d examples left out that are among the %s", images.name, int(found.sum()), others.name
    )
    return images.subset(~found)


def shared(images: Images, others: list[Images]) -> Tensor:
    """(N,) bool: which of `images` are among `others`: the same id in the same source, or the same
    pixels.

    Pixels are compared only where `images` is small: all of them must be decoded for it.
    """
    keys = {key for other in others for key in other.keys}
    found = torch.tensor([key in keys for key in images.keys], dtype=torch.bool)
    channels, height, width = images.preprocessing.input_size
    if len(images) * channels * height * width <= _COMPARED_BYTES:
        digests = {digest for other in others for digest in other.digests()}
        found |= torch.tensor([digest in digests for digest in images.digests()], dtype=torch.bool)
    return found


def refuse_overlap(holdout: Mapping[str, Images], failing: Images, retained: Images | None) -> None:
    """Raise DataError for a holdout that holds what the repair trains on or chooses by. Pixels: see
    `shared`.
    """
    for name, images in holdout.items():
        digests = set(images.digests())
        count = sum(digest in digests for digest in failing.digests())
        if count:
            raise DataError(
                f"holdout {name!r}: {count} of its examples are among the failures too, so it would"
                " be measured on what was trained on; leave them out of one, or give no holdout"
                " and a part of the failures is set aside"
            )
        count = 0 if retained is None else int(shared(retained, [images]).sum())
        if count:
            raise DataError(
                f"holdout {name!r}: {count} of its examples are among the retained ones too; leave"
                " them out of one"
            )
