"""Single images that are not what they should be: equal, nearly equal, dark, blank, odd-sized, or
stored in a way that is easily read wrongly.
"""

from collections import Counter, defaultdict
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from timm_repair.diagnosis.findings import Quality
from timm_repair.diagnosis.wording import MOST as SHOWN
from timm_repair.images.images import Images
from timm_repair.images.pool import UNREADABLE
from timm_repair.images.preprocessing import open_image

DARK, BLANK = 0.06, 0.004  # brightness of nearly all pixels; standard deviation, one level of 256
NEAR = 3  # of 64 bits of a perceptual hash that may differ
ODD = 2.0  # times as long or as wide as usual
LOOKED_AT = 1000  # failures that are compared
_ORIENTATION = 0x0112  # EXIF


def looked_at(failing: Images, retained: Images | None) -> Quality:
    """What is wrong with single images among the first `LOOKED_AT` failures."""
    count = min(len(failing), LOOKED_AT)
    ids, pixels = failing.ids[:count], failing.pixels(list(range(count)))
    groups = _equal(failing.subset(list(range(count))).digests())
    light = pixels.float().mean(1).flatten(1) / 255
    # the brightest of ordinary pixels: a few lamps do not make a night readable
    dark = light.quantile(0.95, dim=1) < DARK
    blank = light.std(1) < BLANK
    equal = {i for group in groups for i in group[1:]}
    near = _alike([i for i in range(count) if i not in equal and not blank[i]], pixels.numpy())
    leaked, conflicting = _leaked(failing, retained, count)
    return Quality(
        duplicates=tuple(tuple(ids[i] for i in group) for group in groups[:SHOWN]),
        near=tuple((ids[i], ids[j]) for i, j in near[:SHOWN]),
        leaked=leaked[:SHOWN],
        conflicting=conflicting[:SHOWN],
        dark=_named(ids, dark & ~blank),
        blank=_named(ids, blank),
        **_stored(failing, count),
    )


def _named(ids: tuple, chosen: Any) -> tuple:
    return tuple(ids[i] for i in chosen.nonzero().flatten().tolist()[:SHOWN])


def _equal(digests: list[bytes]) -> list[list[int]]:
    groups = defaultdict(list)
    for i, digest in enumerate(digests):
        groups[digest].append(i)
    return [group for group in groups.values() if len(group) > 1]


def _alike(rows: list[int], pixels: np.ndarray) -> list[tuple[int, int]]:
    from imagehash import phash

    if len(rows) < 2:
        return []
    images = (
        Image.fromarray(pixels[i, 0] if pixels.shape[1] == 1 else pixels[i].transpose(1, 2, 0))
        for i in rows
    )
    bits = np.stack([phash(image).hash.flatten() for image in images]).astype(np.int32)
    signs = 2 * bits - 1
    differing = (signs.shape[1] - signs @ signs.T) // 2
    ones, others = np.nonzero(np.triu(differing <= NEAR, 1))
    return [
        (rows[i], rows[j])
        for i, j in zip(ones.tolist(), others.tolist(), strict=True)
        if _close(pixels[rows[i]], pixels[rows[j]])
    ]


def _close(one: np.ndarray, other: np.ndarray) -> bool:
    """Hashes of plain images are equal by chance: what differs must be small besides."""
    a, b = (v.astype(float).ravel() for v in (one, other))
    spread = max(a.std(), b.std(), 1.0)
    return float(np.sqrt(np.square((a - a.mean()) - (b - b.mean())).mean())) < 0.35 * spread


def _leaked(failing: Images, retained: Images | None, count: int) -> tuple[tuple, tuple]:
    if retained is None:
        return (), ()
    kept = dict(zip(retained.digests(), retained.labels.tolist(), strict=True))
    both, conflicting = [], []
    part = failing.subset(list(range(count)))
    for id, digest, label in zip(part.ids, part.digests(), part.labels.tolist(), strict=True):
        if digest in kept:
            both.append(id)
            if kept[digest] != label:
                conflicting.append(id)
    return tuple(both), tuple(conflicting)


def _stored(failing: Images, count: int) -> dict[str, Any]:
    """How the images are stored: modes, EXIF orientations, and sizes out of the usual."""
    modes, turned, sizes = Counter(), 0, {}
    for row, id in zip(failing.rows[:count].tolist(), failing.ids, strict=False):
        try:
            image = open_image(failing.pool.reader.read([row])[0])
        except (*UNREADABLE, UnidentifiedImageError):
            continue  # left out, or replaced, with a warning where it was read
        modes[image.mode] += 1
        sizes[id] = image.size
        turned += image.getexif().get(_ORIENTATION, 1) != 1
    if not sizes:
        return {}
    logs = np.log([[w * h, w / h] for w, h in sizes.values()])
    off = np.abs(logs - np.median(logs, 0)) / np.log([ODD**2, ODD])
    odd = [id for id, far in zip(sizes, off.max(1).tolist(), strict=True) if far > 1]
    return {"modes": dict(modes), "turned": turned, "odd": tuple(odd[:SHOWN])}
