"""What a diagnosis is made of: the answers to its questions, as plain values."""

from dataclasses import dataclass, field
from typing import Any

from timm_repair.diagnosis.fitting import Setting, Settings
from timm_repair.diagnosis.telling import Told


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
        picture: of a fixed overlay, see `parts.overlay`.
    """

    kind: str
    strengths: tuple[Strength, ...]
    spread: float
    brings: float
    picture: str = ""


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
            Setting(part.kind, (), 0.0, part.picture)
            if part.picture
            else Setting(part.kind, tuple(s.value for s in part.strengths), part.spread)
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
            model's own settings, of which more failures are right; else None.
        found: whether this is so: more become right than by a change without meaning, and the
            failures look more like retained images, or those become right too.
        share: about how many of the failures (of those and what passes beside them) it happened
            to, from 0 to 1.
    """

    name: str
    fix: str
    right: float
    low: float
    high: float
    n: int
    retained: float | None
    found: bool
    share: float = 1.0


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
