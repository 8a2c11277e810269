"""Pair: the original of a repair and the repaired model, asked the same."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import nn

from timm_repair.app.opening import Saved
from timm_repair.errors import ConfigError, RepairError
from timm_repair.hub.lineage import lineage, revert
from timm_repair.hub.loading import from_pretrained, load, load_base
from timm_repair.images.classes import Classes
from timm_repair.images.preprocessing import Preprocessing
from timm_repair.models.answering import logits
from timm_repair.models.weights import fingerprint
from timm_repair.report.wording import clean

SHOWN = 3  # answers of a model to an image
SCHEMES = ("hf-hub:", "hf_hub:", "local-dir:")


@dataclass(frozen=True)
class Answer:
    """A class, what it is called, and the probability that a model gave it."""

    label: int
    name: str
    sure: float


@dataclass(frozen=True)
class Answers:
    """What both said to one image, the likeliest first; `before` is empty where the original is
    not there.
    """

    before: tuple[Answer, ...]
    after: tuple[Answer, ...]


@dataclass(frozen=True)
class Pair:
    """Both models, on the CPU and in eval mode.

    Args:
        original: None where it cannot be had; `lacking` says why.
        names: of all classes, to be shown.
    """

    original: nn.Module | None
    lacking: str
    repaired: nn.Module
    classes: Classes
    names: tuple[str, ...]
    preprocessing: Preprocessing

    @classmethod
    def of(cls, saved: Saved, original: str | None = None) -> "Pair":
        """Load both.

        Args:
            original: what the original is called; None takes what the repair tells.

        Raises:
            RepairError: the repaired model cannot be loaded, or `original` is not what was
                repaired.
        """
        repaired = from_pretrained(saved.source)
        before, lacking = _original(saved, repaired, original)
        classes = Classes.of(repaired)
        readable = classes.readable or saved.report.label_names
        names = [clean(str(name), 60) for name in readable]
        if len(names) != classes.count:
            names = [f"class {i}" for i in range(classes.count)]
        return cls(before, lacking, repaired, classes, _distinct(names), Preprocessing.of(repaired))

    @torch.no_grad()
    def answers(self, images: Sequence[Image.Image]) -> list[Answers]:
        """What both say to each of a few images.

        Raises:
            DataError, or what PIL raises: an image is none that a model takes.
        """
        if not images:
            return []
        pixels = torch.stack([self.preprocessing.decode(image) for image in images])
        inputs = self.preprocessing.normalize(pixels)
        after = self._likeliest(self.repaired, inputs)
        before = [()] * len(after)
        if self.original is not None:
            before = self._likeliest(self.original, inputs)
        return [Answers(b, a) for b, a in zip(before, after, strict=True)]

    def _likeliest(self, model: nn.Module, inputs: torch.Tensor) -> list[tuple[Answer, ...]]:
        sure = logits(model, inputs).float().softmax(dim=1)
        values, labels = sure.topk(min(SHOWN, sure.shape[1]), dim=1)
        return [
            tuple(Answer(i, self.names[i], s) for i, s in zip(row, shares, strict=True))
            for row, shares in zip(labels.tolist(), values.tolist(), strict=True)
        ]


def _distinct(names: list[str]) -> tuple[str, ...]:
    """`names`, those that several classes have with their number."""
    counts = Counter(names)
    return tuple(f"{name} ({i})" if counts[name] > 1 else name for i, name in enumerate(names))


def _original(saved: Saved, repaired: nn.Module, given: str | None) -> tuple[nn.Module | None, str]:
    """The model that was repaired; None, and why, where it cannot be had."""
    if given is not None:
        found = _named(given)
        _require_same(found, saved, given)
        return found, ""
    known = lineage(repaired)
    if known is not None and known.knows_original:
        return revert(repaired), ""
    base, name = saved.report.base, saved.report.model
    try:
        if base.get("id"):
            found = load_base(base["id"], base.get("revision"))[0].eval()
        elif name.startswith(SCHEMES) or saved.report.asked.get("model") == name:
            found = _named(name)
        else:
            return None, "the repair does not tell where its original is"
        _require_same(found, saved, base.get("id") or name)
    except RepairError as error:
        return None, clean(str(error), 300)
    return found, ""


def _named(name: str) -> nn.Module:
    _, model = load(Path(name) if Path(name).expanduser().is_dir() else name)
    return model.eval()


def _require_same(model: nn.Module, saved: Saved, name: str) -> None:
    """Raise ConfigError unless `model` has the weights that were repaired, as far as they are
    known.
    """
    expected = saved.report.base.get("sha256")
    if expected is not None and fingerprint(model.state_dict()) != expected:
        raise ConfigError(f"{name} does not have the weights that were repaired in {saved.name}")
