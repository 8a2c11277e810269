"""Batches: augmented batches of failures and retained examples, and the loss on them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from timm_repair.data import Images, RepairData
from timm_repair.distributed import require_shares, share_of_batch
from timm_repair.errors import OptionError
from timm_repair.runtime import Runtime
from timm_repair.training import Training


@dataclass
class Drawn:
    """The state of a random generator."""

    generator: torch.Generator

    def state_dict(self) -> dict:
        """Where it stands."""
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: Mapping) -> None:
        """Go on from there."""
        self.generator.set_state(state["generator"])


class Shuffled:
    """The indices below `length` in a random order, and again in another, without end."""

    def __init__(self, length: int, generator: torch.Generator):
        self.length, self.generator, self.left = length, generator, []

    def take(self, count: int) -> list[int]:
        """The next `count` of them."""
        taken = []
        while len(taken) < count:
            if not self.left:
                self.left = torch.randperm(self.length, generator=self.generator).tolist()
            missing = count - len(taken)
            taken, self.left = taken + self.left[:missing], self.left[missing:]
        return taken


class Batches:
    """An endless supply of augmented batches, `share` of each from `failing` and the rest from `retained`.

    Each population is gone through in a fresh random order again and again. All processes draw the same global batch and keep their
    part of it, so the result does not depend on how many there are.
    """

    def __init__(self, failing: Images, retained: Images | None, data: RepairData, options: Training, runtime: Runtime, purpose: str):
        require_shares(options.batch_size, runtime.accelerator)
        self.data, self.options, self.runtime = data, options, runtime
        self.generator = runtime.generator(purpose)
        self.wrong_class_weight = options.wrong_class_weight_for(data.num_classes)
        if data.num_classes == 2 and self.wrong_class_weight == 0:
            raise OptionError("with two classes wrong_class_weight=0 leaves failures nothing to teach: set it above 0, or leave it out")
        of_failing = options.batch_size if retained is None else round(options.failing_share * options.batch_size)
        if retained is not None and 0 < options.failing_share < 1 < options.batch_size:
            of_failing = min(max(of_failing, 1), options.batch_size - 1)  # rounding must not silence either population
        parts = [(failing, of_failing), (retained, options.batch_size - of_failing)]
        self.parts = [(images, count, Shuffled(len(images), self.generator)) for images, count in parts if images is not None and count]

    def state_dict(self) -> dict:
        """Where the supply stands, for `load_state_dict`."""
        return {"generator": self.generator.get_state(), "left": [order.left for *_, order in self.parts]}

    def load_state_dict(self, state: Mapping) -> None:
        """Go on from there."""
        self.generator.set_state(state["generator"])
        for (*_, order), left in zip(self.parts, state["left"], strict=True):
            order.left = list(left)

    def draw(self) -> tuple[Tensor, Tensor, Tensor]:
        """This process's part of the next batch, on the device.

        Returns:
            Images (n, C, H, W) as the model wants them, labels (n,), and the original's wrong answers (n,), -1 for retained examples.
        """
        pixels, labels, answers = [], [], []
        for images, count, order in self.parts:
            indices = order.take(count)
            pixels.append(images.pixels(indices))
            labels.append(images.labels[indices])
            answers.append(torch.full((count,), -1) if images.answers is None else images.answers[indices])
        pixels = self._augment(torch.cat(pixels))
        accelerator, device = self.runtime.accelerator, self.runtime.device
        mine = slice(accelerator.process_index, None, accelerator.num_processes)
        images = self.data.preprocessing.normalize(pixels[mine], device)
        return images, torch.cat(labels)[mine].to(device), torch.cat(answers)[mine].to(device)

    def loss(self, model: nn.Module) -> Tensor:
        """Cross-entropy of `model` on the next batch, see `Training.wrong_class_weight`; its mean over processes is that over the batch."""
        images, *targets = self.draw()
        accelerator = self.runtime.accelerator
        with accelerator.autocast():
            loss = repair_loss(model(images), *targets, self.wrong_class_weight)
        return loss * share_of_batch(len(images), self.options.batch_size, accelerator)

    def _augment(self, pixels: Tensor) -> Tensor:
        count, _, height, width = pixels.shape
        flipped = torch.rand(count, generator=self.generator) < self.options.hflip
        pixels = torch.where(flipped.view(-1, 1, 1, 1), pixels.flip(3), pixels)
        dy, dx = round(self.options.shift * height), round(self.options.shift * width)
        if not dy and not dx:
            return pixels
        # reflected borders: a black one would be a corruption of its own
        padded = F.pad(pixels.float(), (dx, dx, dy, dy), mode="reflect").to(pixels.dtype)
        rows = torch.randint(2 * dy + 1, (count, 1), generator=self.generator) + torch.arange(height)
        columns = torch.randint(2 * dx + 1, (count, 1), generator=self.generator) + torch.arange(width)
        return padded.permute(0, 2, 3, 1)[torch.arange(count)[:, None, None], rows[:, :, None], columns[:, None]].permute(0, 3, 1, 2)


def repair_loss(logits: Tensor, labels: Tensor, answers: Tensor, wrong_class_weight: float, *, reduction: str = "mean") -> Tensor:
    """Cross-entropy of `logits` (n, classes), see `Training.wrong_class_weight`; `answers` (n,) as from `Batches.draw`."""
    logits = logits if logits.dtype == torch.float64 else logits.float()
    if wrong_class_weight < 1:
        failing = (answers >= 0).nonzero().flatten()
        less = logits.new_tensor(math.log(wrong_class_weight or 1e-30))
        logits = logits.index_put((failing, answers[failing]), less, accumulate=True)
    return F.cross_entropy(logits, labels, reduction=reduction)
