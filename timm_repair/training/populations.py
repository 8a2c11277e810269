"""The examples of a repair as its model sees them: a population, rows of it, and how these are
augmented.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from timm_repair.data.repair_data import RepairData
from timm_repair.errors import OptionError
from timm_repair.images.images import Images
from timm_repair.runtime.runtime import Runtime
from timm_repair.training.augmentations import chosen
from timm_repair.training.options import Training

SELECTION = "selection "  # before the name of a population of the selection split


def require_images(data: RepairData, method: str) -> None:
    """Raise OptionError where the inputs are plain numbers, which nothing can rotate or mix."""
    if len(data.preprocessing.input_size) != 3:
        raise OptionError(
            f"{method} changes images, and these inputs are plain numbers: use another method"
        )


class _Unchanged:
    """The augmentation of what has no sides: none."""

    def varies(self, size: tuple[int, ...]) -> bool:
        return False

    def draw(self, count: int, size: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return torch.zeros(count, 0)

    def __call__(self, pixels: Tensor, drawn: Tensor) -> Tensor:
        return pixels


@dataclass(frozen=True)
class Sample:
    """Some examples of one population.

    Args:
        name: of the population.
        rows: (n,) which of its examples.
        views: (n,) which of its fixed views each is seen in; None where it is augmented anew.
        drawn: (n, k) how each is augmented; None where they are left as they are.
    """

    name: str
    rows: Tensor
    views: Tensor | None
    drawn: Tensor | None

    def __getitem__(self, indices: Tensor | slice) -> "Sample":
        views, drawn = (
            None if each is None else each[indices] for each in (self.views, self.drawn)
        )
        return Sample(self.name, self.rows[indices], views, drawn)


class Populations:
    """All populations that training and choosing read, of the failures and of the retained
    examples.

    Attributes:
        populations: those of `RepairData.train`, and those of the selection split, "selection
            failing", ….
        views: how many fixed views a training example has; None where it is augmented anew each
            time.
    """

    def __init__(self, data: RepairData, training: Training, runtime: Runtime):
        self.training, self.runtime, self.preprocessing = training, runtime, data.preprocessing
        self.populations: Mapping[str, Images] = data.train | {
            SELECTION + name: images for name, images in data.selection.items()
        }
        # of an image; inputs that are plain numbers have none
        self.size = cast(tuple[int, int], data.preprocessing.input_size[1:])
        self.augmentation = chosen(training.augmenting) if self.size else _Unchanged()
        self.views = training.augmenting.views if self.augmentation.varies(self.size) else 1
        self._drawn: dict[tuple[str, int], Tensor] = {}

    def view(self, name: str, rows: Tensor, views: Tensor) -> Sample:
        """The examples `rows` (n,) of a population, each in the fixed view whose number is in
        `views` (n,).

        Those of the selection split have one view: as they are.
        """
        if name.startswith(SELECTION):
            return Sample(name, rows, torch.zeros_like(rows), None)
        pieces = [(views == view).nonzero().flatten() for view in views.unique().tolist()]
        drawn = [self._view(name, int(views[these[0]]))[rows[these]] for these in pieces]
        drawn = torch.cat(drawn)[torch.cat(pieces).argsort()]
        return Sample(name, rows, views, drawn)

    def pixels(self, *samples: Sample) -> Tensor:
        """The examples of `samples`, augmented: uint8 (n, C, H, W), on the CPU."""
        pixels = []
        for sample in samples:
            found = self.populations[sample.name].pixels(sample.rows)
            pixels.append(found if sample.drawn is None else self.augmentation(found, sample.drawn))
        return torch.cat(pixels)

    def images(self, *samples: Sample) -> Tensor:
        """What the model takes for the examples of `samples`, (n, C, H, W) on the device."""
        return self.preprocessing.normalize(self.pixels(*samples), self.runtime.device)

    def expect(self, sample: Sample) -> None:
        """Begin to decode the images of `sample`, which will be wanted next."""
        self.populations[sample.name].expect(sample.rows)

    def _view(self, name: str, view: int) -> Tensor:
        if (name, view) not in self._drawn:
            # of the run and not of a stage: what was computed for a view serves all
            generator = self.runtime.generator(f"view {view} of {name}")
            self._drawn[name, view] = self.augmentation.draw(
                len(self.populations[name]), self.size, generator
            )
        return self._drawn[name, view]
