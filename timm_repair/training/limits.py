"""Limits on harm: how much of what the model had right a repair may lose, held on the selection
split.
"""

from dataclasses import dataclass

from torch import Tensor

from timm_repair.images.images import Images
from timm_repair.training.options import Choosing

ENOUGH = 20  # examples of a class, below which nothing is said of it
_ERRORS = 1.64  # standard errors that a class may lose beyond its limit, as it may be chance


@dataclass(frozen=True)
class Loss:
    """What was lost of the retained examples, in percentage points; negative where it got better.

    Args:
        all: of all of them.
        worst: of the class that lost most beyond chance, and its index; None where none has enough
            examples.
    """

    all: float
    worst: tuple[float, int] | None

    @classmethod
    def of(cls, right: Tensor, images: Images) -> "Loss | None":
        """From which of the examples are right now (N,) bool; None where it is not known which the
        original had right.
        """
        if images.answers is None:
            return None
        lost = (images.answers == images.labels).double() - right.double()
        classes = []
        for label in images.labels.unique().tolist():
            own = lost[images.labels == label]
            if len(own) >= ENOUGH:
                error = (own.var() / len(own)).sqrt().item()
                classes.append((100 * (own.mean().item() - _ERRORS * error), label))
        return cls(100 * lost.mean().item(), max(classes, default=None))

    def excess(self, choosing: Choosing) -> float:
        """Points above the limits; of two the larger."""
        over = [0.0]
        if choosing.max_clean_loss is not None:
            over.append(self.all - choosing.max_clean_loss)
        if choosing.max_class_loss is not None and self.worst is not None:
            over.append(self.worst[0] - choosing.max_class_loss)
        return max(over)

    def told(self, choosing: Choosing) -> str | None:
        """A sentence where a limit is not held."""
        said = []
        if choosing.max_clean_loss is not None and self.all > choosing.max_clean_loss:
            said.append(
                f"{self.all:.1f} points of the retained examples were lost"
                f" (max_clean_loss={choosing.max_clean_loss:g})"
            )
        if (
            choosing.max_class_loss is not None
            and self.worst is not None
            and self.worst[0] > choosing.max_class_loss
        ):
            said.append(
                f"at least {self.worst[0]:.1f} of those of class {self.worst[1]}"
                f" (max_class_loss={choosing.max_class_loss:g})"
            )
        held = "a limit on harm could not be held on the selection split"
        return f"{held}: {', '.join(said)}" if said else None
