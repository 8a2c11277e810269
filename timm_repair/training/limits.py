"""Limits on harm: how much of what the model had right a repair may lose on the selection split
before it is made dear, see `objective`.
"""

from dataclasses import dataclass

from torch import Tensor

from timm_repair.images.images import Images
from timm_repair.report.wording import UNHELD
from timm_repair.training.options import Choosing

ENOUGH = 20  # examples of a class, below which nothing is said of it
# standard errors that may be lost beyond a limit, since it may be chance: of all, and of the worst
# of several classes
_ERRORS, _ERRORS_OF_A_CLASS = 1.0, 1.64


@dataclass(frozen=True)
class Loss:
    """What was lost of the retained examples beyond chance, in percentage points; negative where
    it got better.

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
                classes.append((_at_least(own, _ERRORS_OF_A_CLASS), label))
        return cls(_at_least(lost, _ERRORS), max(classes, default=None))

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
                f"at least {self.all:.1f} points of the retained examples were lost"
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
        memory = "of images that the model was trained on, part of it is memory"
        unheld = f"{UNHELD} on the selection split, for what was gained"
        return f"{unheld}: {', '.join(said)}; {memory}" if said else None


def _at_least(lost: Tensor, errors: float) -> float:
    """Points of the mean of `lost` (N,), less so many of its standard errors."""
    error = (lost.var() / len(lost)).sqrt().item() if len(lost) > 1 else 0.0
    return 100 * (lost.mean().item() - errors * error)
