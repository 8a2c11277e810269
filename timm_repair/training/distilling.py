"""Distillation of features (FitNets, Romero et al., ICLR 2015), from the original model.

Where failures are ordinary images seen through something, the rest of the network, which is not
repaired, is best given what it was given for the images themselves: what leaves the repaired blocks
for a retained image seen through the pattern is to be what left them, before the repair, for the
image as it is. What leaves them for the image as it is, is to stay so.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from timm_repair.models.block import Block
from timm_repair.models.copying import copied
from timm_repair.models.entering import Entered, leaving
from timm_repair.models.surgery import extract, swap
from timm_repair.models.temporary import capture
from timm_repair.runtime.processes import agreed, share_of_batch
from timm_repair.training.batches import Batch, Batches
from timm_repair.training.job import Job
from timm_repair.training.losses import repair_loss
from timm_repair.training.populations import Sample
from timm_repair.training.prefix.forward import Forward

EXAMPLES = 256  # retained ones, whose features give the unit of distances
RETAINED = "retained", "pattern"  # of a batch: the same images, as they are and seen through it


@dataclass(frozen=True)
class FeatureDistillation:
    """Cross-entropy, and the squared distance of what leaves a block to what left it before: a loss
    for `tune` and `search`.

    Args:
        original: the model as it was.
        path: of the block, in it and in the model under repair.
        variance: of what left the block, over retained examples, channels and positions; the unit
            of squared distances.
        strength: what the distance of an example counts beside its cross-entropy.
    """

    original: nn.Module
    path: str
    variance: float
    strength: float

    @classmethod
    def of(cls, job: Job, block: Block, strength: float) -> "FeatureDistillation | None":
        """From the job's model as it is now, at the end of `block`, which is going to be swapped
        (`models.surgery`). None where that gives no maps, vectors or tokens of the images, or one
        number only.
        """
        retained = job.data.retained
        assert retained is not None, "there is a pattern of retained examples only"
        original = copied(job.model).eval().requires_grad_(False)
        swap(original, block, extract(original, block))
        path = f"{block.paths[0]}.0"
        rows = torch.arange(min(len(retained), EXAMPLES))

        def moments(rows: Tensor) -> Tensor | None:
            """Mean and mean square of what leaves the block, image by image."""
            pixels = retained.pixels(rows)
            images = job.data.preprocessing.normalize(pixels, job.runtime.device)
            left = leaving(original, path, images)
            if not isinstance(left, Tensor) or not left.is_floating_point():
                return None
            if len(left) != len(rows):
                return None  # windows of tokens, or what is shared by all images
            flat = left.flatten(1).float()
            return torch.stack([flat.mean(1), flat.square().mean(1)]).double().cpu()

        found = [each for each in job.runtime.in_batches(moments, rows) if each is not None]
        if sum(each.shape[1] for each in found) < len(rows):
            return None
        mean, square = torch.cat(found, 1).mean(1).tolist()
        variance = agreed(square - mean**2, job.runtime.accelerator)
        return cls(original, path, variance, strength) if variance > 1e-6 * square else None

    def __call__(self, batches: Batches, forward: Forward) -> Iterator[Tensor]:
        """As `losses.batch_losses`."""
        accelerator, size = batches.runtime.accelerator, batches.training.batch_size
        batch, pieces = batches.take(forward.keeps), accelerator.gradient_accumulation_steps
        for piece in (batch[i::pieces] for i in range(pieces)):
            left: list[Tensor] = []

            def keep(_: nn.Module, inputs: tuple, output: Tensor, left: list = left) -> None:
                left.append(output.clone())  # an in-place layer may overwrite it

            with accelerator.autocast():
                with capture(forward.model, {self.path: keep}):
                    logits = forward.logits(piece.parts, piece.views)
                loss = repair_loss(logits, piece.labels, piece.answers, batches.wrong_class_weight)
                distance = self._distance(left[0], piece, forward)
            loss = loss + self.strength * distance / len(piece.labels)
            yield loss * share_of_batch(len(piece.labels), size, accelerator)

    def _distance(self, left: Tensor, piece: Batch, forward: Forward) -> Tensor:
        """The sum of its retained examples' squared distances, each the mean over features."""
        parts = [part for part in piece.parts if part.name in RETAINED and len(part.rows)]
        if not parts:
            return left.new_zeros(())
        compared = [torch.full_like(part.rows, part.name in RETAINED) for part in piece.parts]
        chosen = left[torch.cat(compared).bool().to(left.device)]
        differences = chosen.float() - self._expected(parts, forward).float()
        return differences.square().flatten(1).mean(1).sum() / self.variance

    @torch.no_grad()
    def _expected(self, parts: Sequence[Sample], forward: Forward) -> Tensor:
        """What left the block for the same images, in the same views, not seen through anything."""
        # what arrives for a fixed view is kept for retained examples, which may have another view
        samples = [
            part if part.name == "retained" else Sample("retained", part.rows, None, part.drawn)
            for part in parts
        ]
        if forward.place is None:
            return leaving(self.original, self.path, forward.examples.images(*samples))
        arrived = torch.cat([forward.arrived(sample) for sample in samples])
        return leaving(Entered(self.original, forward.place), f"model.{self.path}", arrived)
