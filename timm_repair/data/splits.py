"""Disjoint splits: drawn at random, stratified by label, of examples of which it is known which are
the same image.
"""

import logging
from collections.abc import Hashable, Mapping

import torch
from torch import Tensor

from timm_repair.errors import DataError
from timm_repair.images.images import Images

logger = logging.getLogger(__name__)

LEAST = 2  # examples in any split


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


def least(shares: Mapping[str, object]) -> int:
    """How many examples `split` needs: two for each of `shares` and for "train"."""
    return LEAST * (len(shares) + 1)


def split(
    images: Images, shares: Mapping[str, tuple[float, int | None]], generator: torch.Generator
) -> dict[str, Images]:
    """`images` in disjoint parts: "train", and each name of `shares` with its share and at most so
    many examples.

    Raises:
        DataError: there are fewer than two examples for each part.
    """
    total, names = len(images), ", ".join((*shares, "train"))
    needed = least(shares)
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


class Known:
    """Which examples of several sets are the same image: the same id in the same source, the same
    pixels, or where a set is too large to decode, the same file. Whatever is split, is split by
    this.

    Args:
        sets: role or population to its images; of these and their subsets it knows.
    """

    def __init__(self, sets: Mapping[str, Images]):
        self.groups: dict[tuple[int, int], int] = {}  # (id of a pool, row) -> number of the image
        self.pools = [images.pool for images in sets.values()]  # kept, so that no id is used again
        large = any(not images.small for images in sets.values())
        parent: list[int] = []
        seen: dict[Hashable, int] = {}
        for images in sets.values():
            for row, tokens in zip(images.rows.tolist(), self._tokens(images, large), strict=True):
                number = len(parent)
                parent.append(number)
                for token in tokens:
                    other = _root(parent, seen.setdefault(token, number))
                    own = _root(parent, number)
                    parent[max(own, other)] = min(own, other)
                self.groups.setdefault((id(images.pool), row), number)
        self.groups = {key: _root(parent, number) for key, number in self.groups.items()}

    @staticmethod
    def _tokens(images: Images, large: bool) -> list[list[Hashable]]:
        tokens: list[list[Hashable]] = [[("id", *key)] for key in images.keys]
        contents: dict[str, list] = {}
        if images.small:
            contents["pixels"] = images.digests()
        if large and (images.small or getattr(images.pool.reader, "cheap", True)):
            contents["file"] = images.pool.file_digests(images.rows)
        if not contents:
            logger.warning(
                "%s: %d images are too many to compare them by their pixels, and cannot be told"
                " apart without decoding them: copies among them, or in the other data, go unseen",
                images.name,
                len(images),
            )
        for kind, digests in contents.items():
            for each, digest in zip(tokens, digests, strict=True):
                if digest is not None:
                    each.append((kind, images.preprocessing.input_size, digest))
        return tokens

    def numbers(self, images: Images) -> list[int]:
        """(N,) a number for each example, equal for two that are the same image."""
        return [self.groups[id(images.pool), row] for row in images.rows.tolist()]

    def once(self, images: Images) -> Images:
        """`images` with each image once: else copies could be trained on and measured on. An image
        with several labels is left out, since nobody can tell which is true.
        """
        labels: dict[int, set[int]] = {}
        first: dict[int, int] = {}
        numbers = self.numbers(images)
        for i, (number, label) in enumerate(zip(numbers, images.labels.tolist(), strict=True)):
            labels.setdefault(number, set()).add(label)
            first.setdefault(number, i)
        unclear = {number for number, found in labels.items() if len(found) > 1}
        kept = [i for i, number in enumerate(numbers) if number not in unclear]
        if count := len(images) - len(kept):
            logger.warning(
                "%s: %d examples left out, the same image has several labels (%d images)",
                images.name,
                count,
                len(unclear),
            )
        if not kept:
            raise DataError(
                f"{images.name}: all {len(images)} examples were left out, as each image has"
                " several labels and nobody can tell which is true; give each image once, with its"
                " true label"
            )
        images = images.left_out(kept, "the same image under several labels")
        kept = [place for place, i in enumerate(kept) if first[numbers[i]] == i]
        if count := len(images) - len(kept):
            logger.warning(
                "%s: %d exact duplicates left out, of %d examples", images.name, count, len(images)
            )
        return images.left_out(kept, "exact duplicates")

    def without(self, images: Images, others: Images) -> Images:
        """`images` less those that are among the `others` too."""
        found = self.among(images, others)
        if found.any():
            logger.warning(
                "%s: %d examples left out that are among the %s too",
                images.name,
                int(found.sum()),
                others.name,
            )
        if found.all():
            raise DataError(
                f"{images.name}: all {len(images)} examples were left out, as they are among the"
                f" {others.name} too; give others, or none"
            )
        return images.left_out(~found, f"also among the {others.name}")

    def among(self, images: Images, others: Images) -> Tensor:
        """(N,) bool: which of `images` are among the `others` too."""
        numbers = set(self.numbers(others))
        return torch.tensor([n in numbers for n in self.numbers(images)], dtype=torch.bool)

    def refuse_overlap(self, holdout: Mapping[str, Images], sets: Mapping[str, Images]) -> None:
        """Raise DataError for a holdout that holds what the repair trains on or chooses by.

        Args:
            holdout: population to images.
            sets: "failing", and perhaps "passing" and "retained".
        """
        for name, images in holdout.items():
            for role, others in sets.items():
                if not (count := int(self.among(others, images).sum())):
                    continue
                if role != "failing":
                    raise DataError(
                        f"holdout {name!r}: {count} of its examples are among the {role} ones too;"
                        " leave them out of one"
                    )
                raise DataError(
                    f"holdout {name!r}: {count} of its examples are among the failures too, so it"
                    " would be measured on what was trained on; leave them out of one, or give no"
                    " holdout and a part of the failures is set aside"
                )


def _root(parent: list[int], number: int) -> int:
    while parent[number] != number:
        parent[number] = parent[parent[number]]
        number = parent[number]
    return number
