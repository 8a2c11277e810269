"""`Classes`: the classes of a model, and what they are called."""

import logging
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import timm.data
from torch import nn

from timm_repair.errors import DataError, LabelError, ModelError
from timm_repair.images.naming import by_index
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
    descriptions: tuple[str | None, ...] | None = None

    @classmethod
    def of(cls, model: nn.Module) -> "Classes":
        """Names from `model.pretrained_cfg["label_names"]`, ImageNet's synsets for a model trained
        on it, else none.

        Raises:
            DataError: the model has no classifier, or not two classes.
            ModelError: what it says of its classes' names cannot be read.
        """
        config = description(unwrapped(model))
        count = _count(model)
        names = told_names(config.get("label_names"))
        descriptions = config.get("label_descriptions")
        subset = timm.data.infer_imagenet_subset({"num_classes": count})
        if not names and subset and _IMAGENET_TAG.search(config.get("tag") or ""):
            info = timm.data.ImageNetInfo(subset)
            names = list(info.label_names())
            descriptions = cast(dict, info.label_descriptions(as_dict=True))
        if not names:
            return cls(count)
        if len(names) != count:
            logger.warning(
                "pretrained_cfg names %d classes, the model has %d: names ignored",
                len(names),
                count,
            )
            return cls(count)
        return cls(count, tuple(names), _told_descriptions(descriptions, names))

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


def told_names(said: Any) -> list[str] | None:
    """Names in the order of the classes, from `pretrained_cfg["label_names"]`: a list, or a dict
    that is read by its indices.

    Raises:
        ModelError: a class has no name, or more than one.
    """
    if said is None or (hasattr(said, "__len__") and len(said) == 0):
        return None
    where = "model.pretrained_cfg['label_names']"
    try:
        found = by_index(said, where)
    except LabelError as error:
        raise ModelError(str(error)) from error
    for index in range(len(said) if isinstance(said, list | tuple) else len(found)):
        name = found.get(index)
        if not isinstance(name, str):
            raise ModelError(
                f"{where} calls class {index} {name!r:.80}: give one text for each class, 0 to the"
                " last; further names go into model.pretrained_cfg['label_descriptions'] = {name:"
                " 'name, other name'}"
            )
    return [found[index] for index in sorted(found)]


def _told_descriptions(said: Any, names: Sequence[str]) -> tuple[str | None, ...] | None:
    """A description for each of `names`, None where there is none, from
    `pretrained_cfg["label_descriptions"]`: a dict by name, or a list in the order of the classes.

    Raises:
        ModelError: it is neither.
    """
    if said is None or (hasattr(said, "__len__") and len(said) == 0):
        return None
    texts: list[Any] | None = None
    if isinstance(said, Mapping):
        texts = [said.get(name) for name in names]
    elif isinstance(said, list | tuple) and len(said) == len(names):
        texts = list(said)
    if texts is None or not all(text is None or isinstance(text, str) for text in texts):
        raise ModelError(
            f"model.pretrained_cfg['label_descriptions'] is {said!r:.80}: give {{name: text}}, or a"
            f" list of {len(names)} texts in the order of the classes"
        )
    return tuple(texts)


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
