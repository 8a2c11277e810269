"""Probing: repair the blocks that look promising a little, and see what each brings on examples
that it did not see.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from timm_repair.data.repair_data import RepairData
from timm_repair.images.images import Images
from timm_repair.localization.folds import gain_and_rgn
from timm_repair.localization.passes import require_usable
from timm_repair.localization.scores import BlockScores
from timm_repair.models.block import Block
from timm_repair.models.copying import copied
from timm_repair.models.entering import Entrance, entrances
from timm_repair.models.temporary import evaluating, only_trainable, training_mode
from timm_repair.models.tracing import trace
from timm_repair.models.weights import names_in, snapshot
from timm_repair.runtime.memory import out_of_memory_explained
from timm_repair.runtime.runtime import Runtime
from timm_repair.training.descent import Descent
from timm_repair.training.job import Job
from timm_repair.training.losses import repair_loss
from timm_repair.training.mixing import wrong_class_weight
from timm_repair.training.options import Training

WIDTH = 4  # blocks that are tried
STEPS = 30  # at most; fewer would favour late blocks, which learn fast and get less far
BATCH = 32  # half failures, half retained
EPOCHS = 2.5  # over the failures, at most
# of the original batch-norm statistics by the end; in fewer steps than `STEPS` they would lag
# behind the weights
FORGOTTEN = 0.95
JUDGES = 256  # examples of each population at most
SMALLER_PROBE = "choose a score that trains nothing, such as 'rgn', or use mixed precision"


class Halves:
    """The examples of a probe in one row of numbers: those that train and those that judge, of
    failures and of retained ones.
    """

    def __init__(self, data: RepairData, runtime: Runtime):
        generator = runtime.generator("probe")
        self.normalize, self.device = data.preprocessing.normalize, runtime.device
        self.sets: list[Images] = []
        self.rows: dict[str, Tensor] = {
            "training retained": torch.arange(0),
            "judging retained": torch.arange(0),
        }
        start = 0
        for name, images in (("failing", data.failing), ("retained", data.retained)):
            if images is None:
                continue
            order = torch.randperm(len(images), generator=generator)
            count = min(len(images) // 2, JUDGES)
            # one example must do for both
            split = (order[:count], order[count : count + JUDGES]) if count else (order, order)
            parts = dict(zip(("judging", "training"), split, strict=True))
            for purpose, indices in parts.items():
                self.sets.append(images.subset(indices))
                self.rows[f"{purpose} {name}"] = torch.arange(start, start := start + len(indices))
        answers = [
            torch.full((len(images),), -1) if images.answers is None else images.answers
            for images in self.sets
        ]
        self.labels, self.answers = (
            torch.cat(parts).to(self.device)
            for parts in ([images.labels for images in self.sets], answers)
        )

    def __len__(self) -> int:
        return len(self.labels)

    def images(self, rows: Tensor) -> Tensor:
        """What the model takes for `rows` (n,), (n, C, H, W) on the device."""
        pixels, start = [], 0
        place = torch.empty_like(rows)
        for images in self.sets:
            inside = ((rows >= start) & (rows < start + len(images))).nonzero().flatten()
            place[inside] = torch.arange(len(inside)) + sum(map(len, pixels))
            pixels.append(images.pixels(rows[inside] - start))
            start += len(images)
        return self.normalize(torch.cat(pixels)[place], self.device)

    def batch(self, step: int) -> Tensor:
        """Rows of the batch of one step: the same for every block."""
        failing, retained = self.rows["training failing"], self.rows["training retained"]
        share = BATCH // 2 if len(retained) else BATCH
        parts = [(failing, share), (retained, BATCH - share)]
        return torch.cat(
            [
                rows[torch.arange(step * count, (step + 1) * count) % len(rows)]
                for rows, count in parts
                if count
            ]
        )


@dataclass(frozen=True)
class Verdict:
    """How much the loss of each judging failure, and of each judging retained example, went down:
    (n,) and (m,) float64.

    `error_rate` weighs them: with it, `value` estimates how much the loss in production goes down.
    """

    failing: Tensor
    retained: Tensor
    error_rate: float

    @property
    def value(self) -> float:
        parts = ((self.error_rate, self.failing), (1 - self.error_rate, self.retained))
        return sum(share * part.mean().item() for share, part in parts if len(part))

    def error_of_distance(self, other: "Verdict") -> float:
        """Standard error of the difference of two values; the examples are the same, so what they
        share cancels.
        """
        parts = (
            (self.error_rate, self.failing - other.failing),
            (1 - self.error_rate, self.retained - other.retained),
        )
        return (
            sum(
                share**2 * (part.var() / len(part)).item() for share, part in parts if len(part) > 1
            )
            ** 0.5
        )


def probe(job: Job, blocks: Sequence[Block]) -> BlockScores:
    """Try it: how much a short repair of a block lowers the expected loss in production, on
    examples that it did not see.

    One half of the failures trains, the other judges, with as many retained examples, and without
    augmentation, so that what the model computes before a block is computed once (prefix.py). The
    two populations are weighed by the model's error rate where it is known, else equally. Of more
    than `WIDTH` blocks those are tried that rank highest by predicted gain and relative gradient
    norm together; the others score 0, as if left alone, or less where all that were tried do.

    Args:
        job: learning rate and loss are those of its training; steps, batch size and augmentation
            are the probe's own.

    Raises:
        NoFailuresError: the model classifies every failure correctly.
        NonFiniteError: the logits are NaN or infinite.
        MemoryExceededError: a training step does not fit in memory, or judging a single image.
    """
    model, data, training, runtime = job.model, job.data, job.training, job.runtime
    tried = _promising(job, blocks)
    examples, weight = Halves(data, runtime), wrong_class_weight(training, data, mixed=False)
    steps = min(
        max(round(EPOCHS * len(examples.rows["training failing"]) / (BATCH // 2)), 5), STEPS
    )
    training = replace(training, steps=steps, seconds=None, batch_size=BATCH)
    working = copied(model).to(runtime.device)
    for module in working.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = 1 - (1 - FORGOTTEN) ** (1 / steps)
    verdicts = {}
    with evaluating(working), runtime.bar(len(tried), "probe") as bar:
        ways = entrances(
            working,
            tried,
            trace(working, data.preprocessing.input_size),
            examples.images,
            len(examples),
        )
        _require_failures(working, examples, runtime)
        before = _losses(next(iter(ways.values())), examples, weight, runtime)
        for block in tried:
            after = _repaired_losses(ways[block.name], examples, training, weight, runtime)
            failing, retained = (old - new for old, new in zip(before, after, strict=True))
            verdicts[block.name] = Verdict(
                failing, retained, 0.5 if data.error_rate is None else data.error_rate
            )
            bar.update()
    worst = max(verdicts.values(), key=lambda verdict: verdict.value)
    values = {name: verdict.value for name, verdict in verdicts.items()}
    rest = min(0.0, *values.values())
    return BlockScores(
        {block.name: values.get(block.name, rest) for block in blocks},
        errors={name: verdict.error_of_distance(worst) for name, verdict in verdicts.items()},
        gains={name: verdict.failing.mean().item() for name, verdict in verdicts.items()},
        details={"tried": list(verdicts), "steps": steps},
    )


def _promising(job: Job, blocks: Sequence[Block]) -> list[Block]:
    if len(blocks) <= WIDTH:
        return list(blocks)
    ranks = {block.name: 0 for block in blocks}
    for scores in gain_and_rgn(job, blocks):
        for rank, name in enumerate(
            sorted(scores.suspiciousness, key=scores.suspiciousness.__getitem__, reverse=True)
        ):
            ranks[name] += rank
    best = sorted(ranks, key=ranks.__getitem__)[:WIDTH]
    return [block for block in blocks if block.name in best]


@torch.no_grad()
def _require_failures(model: nn.Module, examples: Halves, runtime: Runtime) -> None:
    logits = torch.cat(
        list(
            runtime.in_batches(
                lambda rows: model(examples.images(rows)), examples.rows["judging failing"]
            )
        )
    )
    wrong = logits.argmax(1) != examples.labels[examples.rows["judging failing"]]
    require_usable(int(wrong.sum()), int((~logits.isfinite().all(1)).sum()))


def _repaired_losses(
    entrance: Entrance, examples: Halves, training: Training, weight: float, runtime: Runtime
) -> tuple[Tensor, Tensor]:
    """Losses of the judging examples after a short repair of the block; the model is then as it
    was.
    """
    model = entrance.model
    part = nn.ModuleList(model.get_submodule(path) for path in entrance.block.paths)
    original, descent = snapshot(part), Descent(part.parameters(), training, runtime)
    with entrance.entered() as logits_of:
        with (
            only_trainable(model, names_in(model, part)),
            training_mode(model, part, batch_norm=training.batch_norm),
        ):
            for step in range(training.steps):
                rows = examples.batch(step)
                with out_of_memory_explained(f"a probe's step on {BATCH} images", SMALLER_PROBE):
                    descent.step(
                        repair_loss(
                            logits_of(rows), examples.labels[rows], examples.answers[rows], weight
                        )
                    )
    losses = _losses(entrance, examples, weight, runtime)
    part.load_state_dict(original)
    return losses


@torch.no_grad()
def _losses(
    entrance: Entrance, examples: Halves, weight: float, runtime: Runtime
) -> tuple[Tensor, Tensor]:
    """Losses of the judging failures (n,) and retained examples (m,), float64 on the CPU."""
    losses = []
    with entrance.entered() as logits_of:

        def judge(rows: Tensor) -> Tensor:
            return (
                repair_loss(
                    logits_of(rows),
                    examples.labels[rows],
                    examples.answers[rows],
                    weight,
                    reduction="none",
                )
                .double()
                .cpu()
            )

        for name in ("judging failing", "judging retained"):
            parts = list(runtime.in_batches(judge, examples.rows[name]))
            losses.append(torch.cat(parts) if parts else torch.zeros(0, dtype=torch.float64))
    return tuple(losses)
