"""`Diagnosis`: what the failures of a model have in common, as a value that prints, goes to JSON
and back, and makes more failures.
"""

import json
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from timm_repair.diagnosis.applying import transformed
from timm_repair.diagnosis.drawing import figure
from timm_repair.diagnosis.fitting import Setting, Settings
from timm_repair.diagnosis.telling import Told
from timm_repair.diagnosis.wording import text
from timm_repair.errors import ConfigError, DataError
from timm_repair.images.images import Images
from timm_repair.report.figures.drawing import Figure

VERSION = 1


@dataclass(frozen=True)
class Strength:
    """How strong a part is.

    Args:
        name: which strength, empty where the part has only one.
        value: the typical one; `low` and `high` its 95 % interval.
        words: with its unit, for a reader.
    """

    name: str
    value: float
    low: float
    high: float
    words: str


@dataclass(frozen=True)
class Part:
    """One part of a pattern.

    Args:
        kind: a name from `parts.KINDS`.
        strengths: what was found.
        spread: how much they vary over images: the standard deviation of their logarithm or, for
            those that may be negative, in their natural steps.
        brings: share of the difference between the populations that is explained with this part
            and not without it.
    """

    kind: str
    strengths: tuple[Strength, ...]
    spread: float
    brings: float


@dataclass(frozen=True)
class Pattern:
    """A corruption T: retained images seen through it look like these failures.

    Args:
        parts: the most important first; together they are T.
        share: of the failures that it is about.
        n: of these.
        plain: how well a classifier tells them from retained images as they are, the yardstick.
        made: how well it tells them from T(retained).
        error_retained: share of retained images that the model gets wrong; `error_made` of
            T(retained).
        path: how far the populations are apart with none of the parts, the first, the first two, …
    """

    parts: tuple[Part, ...]
    share: float
    n: int
    plain: Told
    made: Told
    error_retained: float
    error_made: float
    path: tuple[float, ...] = ()

    @property
    def explained(self) -> float:
        """Share of what tells the populations apart that T explains, from 0 to 1."""
        told = self.plain.right - 0.5
        return min(1.0, max(0.0, 1 - (self.made.right - 0.5) / told)) if told > 0 else 0.0

    @property
    def well(self) -> bool:
        """Whether T explains most of it; else what is common is not one of the parts, or not
        alone.
        """
        return self.explained >= 0.6

    @property
    def settings(self) -> Settings:
        """What `fitting.applied` takes."""
        return tuple(
            Setting(part.kind, tuple(s.value for s in part.strengths), part.spread)
            for part in self.parts
        )


@dataclass(frozen=True)
class Undone:
    """A wrong preprocessing, and what comes of undoing it.

    Args:
        name: what may have gone wrong with the data.
        fix: how to mend them.
        right: share of the failures that the original has right after undoing it; `low`, `high`
            its 95 % interval; of `n`.
        retained: share of retained images right with the same change, where it is one of the
            model's own settings; else None.
        found: whether this is so: more become right than by a change without meaning, and the
            failures look more like retained images, or those become right too.
    """

    name: str
    fix: str
    right: float
    low: float
    high: float
    n: int
    retained: float | None
    found: bool


@dataclass(frozen=True)
class Confusion:
    """Two classes, or one, that have more failures than the model's errors on retained data let
    expect.

    Args:
        true: class of the examples; `predicted` what the model says, None for a class that is lost
            to whichever.
        count: failures of this kind.
        share: of all failures (of a lost class with `passing`: of that class); `low`, `high` its
            95 % interval.
        expected: that share on retained data.
        p: of the test that it is no larger, after Holm's correction.
    """

    true: int
    predicted: int | None
    count: int
    share: float
    low: float
    high: float
    expected: float
    p: float


@dataclass(frozen=True)
class Suspect:
    """A failure whose label is probably wrong: its id, the label, what the model says, and the
    probability it gives to the label.
    """

    id: Any
    label: int
    predicted: int
    probability: float


@dataclass(frozen=True)
class Quality:
    """Images that are not what they should be; ids as in `Images.ids`.

    Args:
        duplicates: groups of failures with equal pixels.
        near: pairs of failures that look the same.
        leaked: failures whose pixels are among the retained examples too; `conflicting` those with
            another label there.
        dark, blank: unreadably dark, without any content.
        odd: of an unusual size or aspect ratio.
        modes: how many are stored in which mode of PIL, as {"RGB": 980, "L": 20}.
        turned: how many have an EXIF orientation that is not applied.
    """

    duplicates: tuple[tuple, ...] = ()
    near: tuple[tuple, ...] = ()
    leaked: tuple = ()
    conflicting: tuple = ()
    dark: tuple = ()
    blank: tuple = ()
    odd: tuple = ()
    modes: dict[str, int] = field(default_factory=dict)
    turned: int = 0


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
        labels: likely label errors, the likeliest first.
        quality: of single images.
        classes: their names, where known.
        notes: what the reader must know.
    """

    n: int
    retained: int
    passing: int
    seed: int
    input_size: tuple[int, int, int]
    told: Told
    patterns: tuple[Pattern, ...] = ()
    preprocessing: tuple[Undone, ...] = ()
    placebo: float = 0.0
    confusions: tuple[Confusion, ...] = ()
    labels: tuple[Suspect, ...] = ()
    quality: Quality = field(default_factory=Quality)
    classes: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()

    @property
    def same_population(self) -> bool:
        """Whether the retained data already are of the failures' population: nothing tells them
        apart.
        """
        return self.told.low <= 0.5

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

    def to_json(self) -> str:
        """As text; the way back is `from_json`."""
        return json.dumps({"version": VERSION} | asdict(self), indent=1)

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
    found = {f.name: _tuples(values[f.name]) for f in fields(Diagnosis)}
    for name, kind in made.items():
        found[name] = tuple(kind(**each) for each in values[name])
    found["patterns"] = tuple(map(_pattern, values["patterns"]))
    found["told"] = Told(**values["told"])
    found["quality"] = Quality(**{name: _tuples(v) for name, v in values["quality"].items()})
    return Diagnosis(**found)
