"""Augmentations: how training images are changed.

- `"flips"` (flips.py): random horizontal flips and shifts.

An augmentation has the methods of `Augmentation` (augmentation.py). Ours are found by name in
AUGMENTATIONS; yours is passed as an object, `augmentation=`.
"""

from typing import Any

from timm_repair.options import by_name
from timm_repair.training.augmentations.augmentation import Augmentation
from timm_repair.training.augmentations.flips import Flips
from timm_repair.training.options import Augmenting

AUGMENTATIONS = {"flips": Flips}


def chosen(options: Augmenting) -> Augmentation:
    """The augmentation that `options` names, or the object that it holds.

    Raises:
        OptionError: unknown name, with a suggestion.
    """
    given = options.augmentation
    own: dict[str, Any] = (
        {"hflip": options.hflip, "shift": options.shift} if given == "flips" else {}
    )
    return by_name("augmentation", given, AUGMENTATIONS, **own)
