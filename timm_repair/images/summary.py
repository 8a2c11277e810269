"""Summary: what was read from one source, to be looked at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import Tensor

_SHOWN = 6  # classes
REASONS = {
    "unknown_label": "label missing or matching no class",
    "unreadable": "cannot be read",
}


class Read(Protocol):
    """What a summary is made of: `Images`."""

    name: str
    labels: Tensor
    origin: dict
    answers: Tensor | None
    class_names: tuple[str, ...] | None

    def prepared_by(self) -> str: ...


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What was read from one source, as `print(as_images(...))` shows it.

    Args:
        name: the role or population.
        source: where it came from.
        n: examples read and kept.
        left_out: reason to how many were left out.
        matched: by which rule labels became classes of the model.
        classes: the dataset's name or label to the model's class: its index, and name if it has
            one; those that occur.
        per_class: the same to how many there are.
        preprocessing: what is done to an image before the model sees it, and where that came from.
        accuracy: the original's, from 0 to 1, on `asked` of them; None where it was not asked.
        asked: see above.
        stream: of a stream how many were read, else None.
    """

    name: str
    source: str
    n: int
    left_out: Mapping[str, int] = field(default_factory=dict)
    matched: str = ""
    classes: Mapping[str, str] = field(default_factory=dict)
    per_class: Mapping[str, int] = field(default_factory=dict)
    preprocessing: str = ""
    accuracy: float | None = None
    asked: int = 0
    stream: int | None = None

    @classmethod
    def of(cls, images: Read, accuracy: tuple[int, int] | None = None) -> Summary:
        """Of these images.

        Args:
            accuracy: how many of how many the original has right; None takes `images.answers`.
        """
        origin, names = images.origin, images.class_names
        mapping = origin.get("label_mapping", {})
        counts = images.labels.bincount().tolist() if len(images.labels) else []
        classes, per_class = {}, {}
        for label, index in mapping.get("table", {}).items():
            if index < len(counts) and counts[index]:
                classes[label] = f"{index} {names[index]}" if names else str(index)
                per_class[label] = counts[index]
        if accuracy is None and images.answers is not None:
            right = int((images.answers == images.labels).sum())
            accuracy = right, len(images.labels)
        right, asked = accuracy or (0, 0)
        return cls(
            name=images.name,
            source=str(origin.get("source", "unknown")),
            n=len(images.labels),
            left_out={k: v for k, v in origin.get("skipped", {}).items() if v},
            matched=mapping.get("by", "unknown"),
            classes=classes,
            per_class=per_class,
            preprocessing=images.prepared_by(),
            accuracy=right / asked if asked else None,
            asked=asked,
            stream=origin.get("stream", {}).get("read"),
        )

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON."""
        return asdict(self)

    def __str__(self) -> str:
        read = f" (of {self.stream:,} read of the stream)" if self.stream is not None else ""
        lines = [f"{self.name}: {self.n:,} examples from {self.source}{read}"]
        gone = [f"{REASONS.get(kind, kind)}: {count:,}" for kind, count in self.left_out.items()]
        lines.append(f"  left out       {', '.join(gone) or 'nothing'}")
        lines.append(f"  labels         {self.matched}; {len(self.classes)} classes occur")
        for label, found in list(self.classes.items())[:_SHOWN]:
            lines.append(f"    {label!r} -> {found} ({self.per_class[label]:,})")
        if len(self.classes) > _SHOWN:
            lines.append(f"    … and {len(self.classes) - _SHOWN} more")
        lines.append(f"  preprocessing  {self.preprocessing}")
        if self.accuracy is not None:
            lines.append(f"  the original   has {self.accuracy:.1%} right, of {self.asked:,} asked")
        return "\n".join(lines)
