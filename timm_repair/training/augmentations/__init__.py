"""Augmentations: how training images are changed.

- `"flips"` (flips.py): random horizontal flips and shifts.

An augmentation has the methods of `Augmentation` (augmentation.py).
"""

from timm_repair.training.augmentations.augmentation import Augmentation
from timm_repair.training.augmentations.flips import Flips

AUGMENTATIONS: dict[str, type[Augmentation]] = {"flips": Flips}
