"""Surgical fine-tuning (Lee et al., ICLR 2023): every block is tried, and the whole network; the
selection split says which, and how fast.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

from torch import nn

from timm_repair.data.repair_data import RepairData
from timm_repair.errors import OptionError, PartitionError, did_you_mean
from timm_repair.methods.method import Outcome
from timm_repair.models import partition
from timm_repair.models.block import Block
from timm_repair.models.partition import GRANULARITIES
from timm_repair.models.weights import part_of, snapshot
from timm_repair.options import check_types
from timm_repair.runtime.runtime import Runtime
from timm_repair.training.job import Job
from timm_repair.training.options import Training
from timm_repair.training.trials import Trial, tried
from timm_repair.training.tuning import tune

NETWORK = "network"


@dataclass(frozen=True, kw_only=True)
class Surgical:
    """Fine-tune each candidate for a while, then the best of them for the rest of the steps.

    Args:
        candidates: names of those that are tried: of blocks, or "network"; None takes the stem with
            the first block, every other block, the head, and the network.
        granularity: what a block is, see `partition.blocks`.
        rates: times `learning_rate`. All candidates are tried with the first; the best of them with
            the others too.
        trial_share: of the steps, spent on the trials in equal parts.
    """

    candidates: tuple[str, ...] | None = None
    granularity: str = "stage"
    rates: tuple[float, ...] = (1.0, 0.1)
    trial_share: float = 0.5
    training: Training = field(default_factory=Training)
    name: ClassVar[str] = "surgical"
    paper: ClassVar[str] = (
        "Yoonho Lee et al., Surgical Fine-Tuning Improves Adaptation to Distribution Shifts,"
        " ICLR 2023, arXiv:2210.11466"
    )

    def __post_init__(self):
        check_types(self)
        for name in ("candidates", "rates"):
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.granularity not in GRANULARITIES:
            known = did_you_mean(self.granularity, GRANULARITIES)
            raise OptionError(f"unknown granularity {self.granularity!r}{known}")
        numbers = isinstance(self.rates, tuple) and self.rates
        if not numbers or not all(isinstance(r, int | float) and r > 0 for r in self.rates):
            raise OptionError(f"rates={self.rates!r:.80} must be positive numbers, at least one")
        names = self.candidates or ()
        if not isinstance(names, tuple) or not all(isinstance(name, str) for name in names):
            raise OptionError(f"candidates={names!r:.80} must be a list of names, or None")
        if not 0 < self.trial_share < 1:
            raise OptionError(f"trial_share lies between 0 and 1, got {self.trial_share}")

    def repair(self, model: nn.Module, data: RepairData, runtime: Runtime) -> Outcome:
        job, steps = Job(model, data, self.training, runtime), self.training.steps
        found, sets = self.candidates_of(model, data.preprocessing.input_size)
        count = len(sets) + len(self.rates) - 1
        each = int(self.trial_share * steps / count)
        if not each:
            raise OptionError(
                f"{count} trials need more than steps={steps}: give at least"
                f" {int(count / self.trial_share) + 1}, or name fewer candidates="
            )
        history, trials = [], []
        with runtime.stage("try"):
            for name in sets:
                trials.append(_try(job, name, sets[name], self.rates[0], each))
            for rate in self.rates[1:]:
                name = _best(trials).name
                trials.append(_try(job, name, sets[name], rate, each))
        best = _best(trials)
        chosen = sets[best.name]
        part = part_of(model, *chosen) if chosen else model
        original = snapshot(part)
        part.load_state_dict(best.trial.state)
        final = replace(job, training=_training(job, best.rate, steps - each * count))
        with runtime.stage("finetune"):
            rows, notes = tune(final, part, original=original)
        for candidate in trials:
            history += candidate.trial.history
        told = ", ".join(f"{t.name} x{t.rate:g}: {t.trial.value:.4f}" for t in trials)
        said = (
            f"{best.name} was best in {count} trials of {each} steps, at {best.rate:g} times the"
            f" learning rate; objectives: {told}"
        )
        return Outcome(model, found, chosen, history=history + rows, notes=(said, *notes))

    def candidates_of(
        self, model: nn.Module, input_size: tuple[int, ...]
    ) -> tuple[tuple[Block, ...], dict[str, tuple[Block, ...]]]:
        """All blocks, and name -> those that are trained together; of the network none.

        Raises:
            PartitionError: one that is named is none of the model's.
        """
        found = partition.blocks(model, granularity=self.granularity, input_size=input_size)
        return found, self._candidates(found)

    def _candidates(self, found: Sequence[Block]) -> dict[str, tuple[Block, ...]]:
        by_role = {
            role: [b for b in found if b.role == role and b.parameters]
            for role in ("stem", "body", "head")
        }
        if self.candidates is None:
            body = [(block,) for block in by_role["body"]]
            sets = [(*by_role["stem"], *body[0]), *body[1:], tuple(by_role["head"])]
            return {_joined(some): some for some in sets if some} | {NETWORK: ()}
        named = {block.name: (block,) for block in found} | {NETWORK: ()}
        for name in self.candidates:
            if name not in named:
                raise PartitionError(f"the model has no block {name!r}{did_you_mean(name, named)}")
        return {name: named[name] for name in self.candidates}


@dataclass(frozen=True)
class _Candidate:
    """A candidate at a rate, and what came of it."""

    name: str
    rate: float
    trial: Trial


def _try(job: Job, name: str, blocks: tuple[Block, ...], rate: float, steps: int) -> _Candidate:
    """A short repair of these blocks, or of the network; the model comes back as it was."""
    short = replace(job, training=_training(job, rate, steps))
    part = part_of(job.model, *blocks) if blocks else job.model
    return _Candidate(name, rate, tried(short, part, stage=f"try {name} x{rate:g}"))


def _best(trials: Sequence[_Candidate]) -> _Candidate:
    """Of equals the first."""
    return max(trials, key=lambda each: each.trial.value)


def _training(job: Job, rate: float, steps: int) -> Training:
    peak = rate * job.training.optimizing.learning_rate
    return replace(job.training.within(steps), learning_rate=peak)


def _joined(blocks: Sequence[Block]) -> str:
    return "+".join(block.name for block in blocks)
