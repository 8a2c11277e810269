"""Fine-tuning: of the whole network, of blocks, of layers, or of neurons (the rows of the paper's
Table 1).
"""

from dataclasses import asdict, dataclass, field, replace
from typing import ClassVar

from torch import nn

from timm_repair.data.repair_data import RepairData
from timm_repair.errors import OptionError, did_you_mean
from timm_repair.localization.localization import Localization
from timm_repair.localization.localizing import localize
from timm_repair.localization.scorers import SCORERS
from timm_repair.localization.scores import NeuronScorer
from timm_repair.localization.target import Target
from timm_repair.methods.method import Outcome
from timm_repair.models import partition
from timm_repair.models.block import Block
from timm_repair.models.temporary import only_channels
from timm_repair.models.weights import part_of
from timm_repair.options import by_name, check_types
from timm_repair.runtime.runtime import Runtime
from timm_repair.training.job import Job
from timm_repair.training.options import Training
from timm_repair.training.tuning import tune

LEVELS = ("network", "block", "layer", "neuron")
NEURONS = "gradient"  # the score of neurons where none is given: the paper's choice in Table 1


@dataclass(frozen=True, kw_only=True)
class FineTune:
    """Train the weights of one part of the model, or of several at once, on the failures and the
    retained examples.

    Args:
        level: "network", "block", "layer", or "neuron": output channels, of which the incoming
            weights and the bias are trained; None is "block" where the target names blocks or says
            how many, else "network".
        target: which blocks or layers, see `Target`. At level "neuron" its `top` neurons by a score
            of neurons, "gradient" unless another is given, in the blocks named or in all.
    """

    level: str | None = None
    target: Target = field(default_factory=Target)
    training: Training = field(default_factory=Training)
    name: ClassVar[str] = "finetune"
    paper: ClassVar[str] = (
        "Hua Qi et al., ArchRepair (its Table 1), 2023, arXiv:2111.13330; of one block: Yoonho Lee"
        " et al., Surgical Fine-Tuning Improves Adaptation to Distribution Shifts, ICLR 2023,"
        " arXiv:2210.11466"
    )

    def __post_init__(self):
        check_types(self)
        told = {"names": self.target.names, "score": self.target.score}
        asked = self.target.chosen or self.target.several or any(map(bool, told.values()))
        if self.level is None:
            object.__setattr__(self, "level", "block" if asked else "network")
        assert self.level is not None, "just said"
        if self.level not in LEVELS:
            raise OptionError(f"unknown level {self.level!r}{did_you_mean(self.level, LEVELS)}")
        if self.level == "network" and asked:
            told = {"block": self.target.block, "blocks": self.target.blocks, **told}
            given = next(f"{name}={value!r:.80}" for name, value in told.items() if value)
            raise OptionError(
                f"{given} needs level='block' or level='layer', or no level at all, which is the"
                " former"
            )
        if self.level == "neuron":
            score = by_name("scorer", self.target.score or NEURONS, SCORERS)
            if not isinstance(score, NeuronScorer):
                known = [name for name, each in SCORERS.items() if isinstance(each, NeuronScorer)]
                raise OptionError(
                    f"score={self.target.score!r:.80} does not score neurons: level='neuron' takes"
                    f" {', '.join(known)}, or a NeuronScorer"
                )
            if self.target.blocks is not None:
                raise OptionError(
                    "blocks= is not used at level='neuron': top= says how many neurons are trained"
                )

    @property
    def places(self) -> Target:
        """The target among what the level speaks of."""
        return replace(self.target, granularity="layer") if self.level == "layer" else self.target

    def repair(self, model: nn.Module, data: RepairData, runtime: Runtime) -> Outcome:
        if self.level == "neuron":
            return self._neurons(model, data, runtime)
        job = Job(model, data, self.training, runtime)
        found, chosen, localization, part = (), (), None, model
        if self.level != "network":
            with runtime.stage("localize"):
                found, chosen, localization = self.places.choose(
                    model, data, self.training, runtime
                )
            part = part_of(model, *chosen)
        with runtime.stage("finetune"):
            history, notes = tune(job, part)
        return Outcome(model, found, chosen, localization, history=history, notes=notes)

    def _neurons(self, model: nn.Module, data: RepairData, runtime: Runtime) -> Outcome:
        with runtime.stage("localize"):
            found, localization = self._localized(model, data, runtime)
        channels = localization.details["vulnerable"]
        if not channels:
            none = "no neuron scores above zero: nothing was trained"
            return Outcome(model, found, localization=localization, notes=(none,))
        by_name = {block.name: block for block in found}
        owners = {localization.layers[layer] for layer in channels}
        chosen = tuple(by_name[name] for name in localization.ranking if name in owners)
        part = nn.ModuleList(model.get_submodule(layer) for layer in channels)
        # decay would move the weights of all other neurons of a layer
        job = Job(model, data, replace(self.training, weight_decay=0.0), runtime)
        with runtime.stage("finetune"), only_channels(model, channels):
            history, notes = tune(job, part)
        count = sum(map(len, channels.values()))
        told = f"{count} neurons of {len(channels)} layers were trained"
        return Outcome(model, found, chosen, localization, history=history, notes=(told, *notes))

    def _localized(
        self, model: nn.Module, data: RepairData, runtime: Runtime
    ) -> tuple[tuple[Block, ...], Localization]:
        """All blocks, and the scores of the neurons in those named, or in all."""
        target, size = self.target, data.preprocessing.input_size
        if target.chosen:
            found, among, _ = target.choose(model, data, self.training, runtime)
        else:
            found = among = partition.blocks(
                model, granularity=target.granularity, names=target.names, input_size=size
            )

        def scored() -> dict:
            return asdict(
                localize(
                    model,
                    among,
                    data,
                    score=target.score or NEURONS,
                    top=target.top,
                    threshold=target.threshold,
                    training=self.training,
                    runtime=runtime,
                )
            )

        return found, Localization(**runtime.once("localization", scored))
