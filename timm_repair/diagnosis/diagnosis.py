"""`Diagnosis`: what the failures of a model have in common, as a value that prints, goes to JSON
and back, and makes more failures.
"""

import json
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from timm_repair.diagnosis.applying import transformed
from timm_repair.diagnosis.drawing import figure
from timm_repair.diagnosis.findings import (
    Confusion,
    Part,
    Pattern,
    Quality,
    Strength,
    Suspect,
    Undone,
)
from timm_repair.diagnosis.telling import Told
from timm_repair.diagnosis.wording import text
from timm_repair.errors import ConfigError, DataError
from timm_repair.images.images import Images
from timm_repair.report.figures.drawing import Figure

VERSION = 1
HARDLY = 0.55  # told apart no better than this, populations are the same for all that is done here


@dataclass(frozen=True)
class Diagnosis:
    """What the failures have in common, each answer with how sure it is. `print` it.

    Args:
        n: failures; `retained` and `passing` how many of those were given.
        seed: of all random choices.
        input_size: (channels, height, width) of the images that units in pixels refer to.
        told: how well a classifier tells failures from retained images of the same classes.
        patterns: a corruption for each population among the failures; empty if none was found.
        preprocessing: what was undone, the best first.
        placebo: share of failures right after a change without meaning.
        confusions: pairs and lost classes, the most significant first.
        labels: failures whose label may be wrong, the likeliest first; `labels_expected` how many
            there would be if failures were ordinary errors.
        quality: of single images.
        classes: their names, where known.
        notes: what the reader must know.
    """

    n: int
    retained: int
    passing: int
    seed: int
    input_size: tuple[int, ...]
    told: Told
    patterns: tuple[Pattern, ...] = ()
    preprocessing: tuple[Undone, ...] = ()
    placebo: float = 0.0
    confusions: tuple[Confusion, ...] = ()
    labels: tuple[Suspect, ...] = ()
    quality: Quality = field(default_factory=Quality)
    classes: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()
    labels_expected: float = 0.0

    @property
    def same_population(self) -> bool:
        """Whether the retained data already are of the failures' population: nothing tells them
        apart.
        """
        return self.told.low <= 0.5 or self.told.right < HARDLY

    @property
    def wrong_preprocessing(self) -> Undone | None:
        """The best explanation by wrong preprocessing; None if none was found."""
        return next((each for each in self.preprocessing if each.found), None)

    @property
    def nothing(self) -> bool:
        """Whether no corruption and no wrong preprocessing was found."""
        return not self.patterns and self.wrong_preprocessing is None

    def __str__(self) -> str:
        return text(self)

    def apply(self, images: Images, seed: int = 0) -> Images:
        """`images` seen through the patterns that were found: more failures, with true labels.

        Each image takes one of the patterns, in the proportion of their populations. What is
        random follows from `seed` and the image's row in its source. Decoded when first needed.

        Raises:
            DataError: nothing was found, or the images are of another size than those of the
                diagnosis.
        """
        if not self.patterns:
            raise DataError("no corruption was found in the failures, so there is none to apply")
        if tuple(images.preprocessing.input_size) != tuple(self.input_size):
            raise DataError(
                f"the diagnosis is of images of {self.input_size} (channels, height, width), these"
                f" are {images.preprocessing.input_size}: make them with as_images(..., model) for"
                " the model of the diagnosis"
            )
        return transformed(
            images, [(pattern.settings, pattern.share) for pattern in self.patterns], seed
        )

    def figure(self, retain: Images, failures: Images, *, count: int = 8) -> Figure:
        """For each pattern `count` retained images, what it makes of them, and the failures that
        look most like these.

        Raises:
            DataError: nothing was found.
            RepairError: matplotlib is not installed.
        """
        if not self.patterns:
            raise DataError("no corruption was found in the failures, so there is none to draw")
        return figure(self, retain, failures, count)

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return {"version": VERSION} | asdict(self)

    def to_json(self) -> str:
        """As text; the way back is `from_json`."""
        return json.dumps(self.to_dict(), indent=1)

    @classmethod
    def from_json(cls, written: str) -> "Diagnosis":
        """A diagnosis from the text of `to_json`.

        Raises:
            ConfigError: it is none, or of a newer version.
        """
        try:
            values = json.loads(written)
            version = values.pop("version")
        except (ValueError, AttributeError, KeyError, TypeError) as error:
            raise ConfigError("this is no diagnosis: give the text that to_json made") from error
        if version != VERSION:
            raise ConfigError(
                f"the diagnosis is of version {version!r}, this timm_repair reads {VERSION}:"
                " install the version that wrote it"
            )
        try:
            return _diagnosis(values)
        except (TypeError, KeyError, AttributeError) as error:
            raise ConfigError(f"the diagnosis is damaged ({error}): make it anew") from error


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _pattern(values: dict) -> Pattern:
    parts = tuple(
        Part(**{**part, "strengths": tuple(Strength(**each) for each in part["strengths"])})
        for part in values["parts"]
    )
    told = {name: Told(**values[name]) for name in ("plain", "made")}
    return Pattern(**{**values, "parts": parts, "path": tuple(values["path"]), **told})


def _diagnosis(values: dict) -> Diagnosis:
    made = {"preprocessing": Undone, "confusions": Confusion, "labels": Suspect}
    found = {f.name: _tuples(values[f.name]) for f in fields(Diagnosis) if f.name in values}
    for name, kind in made.items():
        found[name] = tuple(kind(**each) for each in values[name])
    found["patterns"] = tuple(map(_pattern, values["patterns"]))
    found["told"] = Told(**values["told"])
    found["quality"] = Quality(**{name: _tuples(v) for name, v in values["quality"].items()})
    return Diagnosis(**found)
