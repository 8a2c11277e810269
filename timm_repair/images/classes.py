"""`Classes`: the classes of a model, and what they are called."""

import logging
import re
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from typing import cast

import timm.data
from torch import nn

from timm_repair.errors import DataError, ModelError
from timm_repair.images.preprocessing import Preprocessing
from timm_repair.images.readers import nfc
from timm_repair.models.answering import logits, made_up
from timm_repair.models.description import description
from timm_repair.models.wrapping import unwrapped

logger = logging.getLogger(__name__)

_IMAGENET_TAG = re.compile(r"in(1|12|21|22)k|imagenet")


@dataclass(frozen=True)
class Classes:
    """The classes of a model: how many, and where known their names and longer descriptions
    ("tench, Tinca tinca").
    """

    count: int
    names: tuple[str, ...] | None = None
    descriptions: tuple[str, ...] | None = None

    @classmethod
    def of(cls, model: nn.Module) -> "Classes":
        """Names from `model.pretrained_cfg["label_names"]`, ImageNet's synsets for a model trained
        on it, else none.

        Raises:
            DataError: the model has no classifier, or not two classes.
        """
        config = description(unwrapped(model))
        count = _count(model)
        names, descriptions = config.get("label_names"), config.get("label_descriptions")
        subset = timm.data.infer_imagenet_subset({"num_classes": count})
        if not names and subset and _IMAGENET_TAG.search(config.get("tag") or ""):
            info = timm.data.ImageNetInfo(subset)
            names, descriptions = (
                info.label_names(),
                cast(dict, info.label_descriptions(as_dict=True)),
            )
        if not names:
            return cls(count)
        if len(names) != count:
            logger.warning(
                "pretrained_cfg names %d classes, the model has %d: names ignored",
                len(names),
                count,
            )
            return cls(count)
        return cls(
            count, tuple(names), tuple(map(descriptions.get, names)) if descriptions else None
        )

    @property
    def readable(self) -> tuple[str, ...] | None:
        """What to show a person: the description where there is one, else the name."""
        if self.descriptions is None or self.names is None:
            return self.names
        return tuple(text or name for name, text in zip(self.names, self.descriptions, strict=True))

    def find(self, name: str) -> list[int]:
        """Indices of the classes that `name` may mean: exact, else ignoring case, "_" and "-", else
        a part of the comma-separated description.
        """
        exact, folded, parts = self._index
        return exact.get(nfc(name)) or folded.get(fold(name)) or parts.get(fold(name)) or []

    @cached_property
    def _index(self) -> tuple[dict, dict, dict]:
        exact, folded, parts = defaultdict(list), defaultdict(list), defaultdict(list)
        for i, name in enumerate(self.names or ()):
            exact[nfc(name)].append(i)
            folded[fold(name)].append(i)
        for i, text in enumerate(self.descriptions or ()):
            for part in {fold(text or ""), *map(fold, (text or "").split(","))} - {""}:
                parts[part].append(i)
        return dict(exact), dict(folded), dict(parts)


def _count(model: nn.Module) -> int:
    """How many logits it gives: `num_classes` stays what it was where somebody replaced the head by
    hand, and is believed only of a model that cannot be asked.
    """
    model = unwrapped(model)
    said = getattr(model, "num_classes", None)
    images = made_up(Preprocessing.of(model).input_size, model)[:1]
    try:
        count = logits(model, images).shape[1] if said != 0 else 0  # features, and no classes
    except ModelError:
        if not isinstance(said, int):
            raise
        count = said  # whoever runs it says what is wrong
    if count < 2:
        raise DataError(
            f"the model has {count} classes: a classifier with at least two is needed to be"
            " repaired"
        )
    return count


def fold(name: str) -> str:
    return " ".join(nfc(nfc(name).casefold()).replace("_", " ").replace("-", " ").split())
