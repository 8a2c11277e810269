"""CARE: the neurons of a layer that cause what the failures' outputs are get factors, found by a
particle swarm.
"""

from dataclasses import dataclass, field
from typing import ClassVar

from torch import nn

from timm_repair.data.repair_data import RepairData
from timm_repair.errors import OptionError, did_you_mean
from timm_repair.gradient_free.causes import effects, hidden_layer, most_responsible, watched
from timm_repair.gradient_free.scaling import Swarming, judges_of, scaled
from timm_repair.localization.target import Target
from timm_repair.methods.method import Outcome
from timm_repair.models.weights import owners
from timm_repair.runtime.processes import agreed
from timm_repair.runtime.runtime import Runtime
from timm_repair.training.job import Job
from timm_repair.training.options import Training

EFFECTS = ("values", "step")


@dataclass(frozen=True, kw_only=True)
class Care(Swarming):
    """Multiply the hidden neurons of one layer with the largest causal effect by factors that a
    swarm finds; no gradient is taken. The options of the swarm are those of `Swarming`.

    Args:
        effect: "values" sets a neuron to several values and asks by how much an output moves from
            the one to the other; "step" adds 1 to it.
        values: how many, from the least to the largest that the examples give it.
        outputs: how many outputs are watched: those that failures have for a label or an answer,
            the most frequent first.
        target: only its block= is used, of which the last layer is taken; None takes the last
            hidden layer of the network.
        training: a step is one round of the swarm; of the rest only choosing and caching matter.
    """

    neurons: int = 5
    caution: float = 0.2
    effect: str = "values"
    values: int = 4
    outputs: int = 2
    target: Target = field(default_factory=Target)
    training: Training = field(default_factory=Training)
    name: ClassVar[str] = "care"
    paper: ClassVar[str] = (
        "Bing Sun et al., Causality-Based Neural Network Repair, ICSE 2022, arXiv:2204.09274"
    )

    def __post_init__(self):
        super().__post_init__()
        self.target.require_named(self.name)
        if self.effect not in EFFECTS:
            raise OptionError(f"unknown effect {self.effect!r}{did_you_mean(self.effect, EFFECTS)}")
        if self.values < 2 or self.outputs < 1:
            raise OptionError("values must be at least 2, outputs at least 1")

    def repair(self, model: nn.Module, data: RepairData, runtime: Runtime) -> Outcome:
        job = Job(model, data, self.training, runtime)
        found, chosen, _, paths = self.target.named_part(model, data, self.training, runtime)
        site = hidden_layer(job, paths)
        if self.reach > 1 and any(dimension == 0 for _, dimension in site.weights):
            raise OptionError(
                f"reach={self.reach:g} makes factors negative, and the factors of"
                f" {site.tap.layer!r} come before its activation, which would not be multiplied by"
                " these: reach is at most 1 but in a chain of linear layers"
            )
        with runtime.stage("localize"):
            # the layer, where its neurons are read, and what multiplies them
            part = owners(model, [f"{site.tap.layer}.weight", *(name for name, _ in site.weights)])
            judges = judges_of(job, part, self, rounds=self.training.steps)
            outputs = agreed(watched(judges, self.outputs), runtime.accelerator)
            values = self.values if self.effect == "values" else None

            def asked():
                moved = effects(judges, site, outputs, values=values)
                return agreed(most_responsible(moved, self.neurons), runtime.accelerator)

            neurons = runtime.once("causes", asked)
        with runtime.stage("finetune"):
            history, notes = scaled(job, [site], neurons, self, rounds=self.training.steps)
        told = (
            f"the neurons of {site.tap.layer!r} with the largest effects on outputs"
            f" {', '.join(map(str, outputs.tolist()))} are {', '.join(map(str, neurons.tolist()))}"
        )
        return Outcome(model, found, chosen, history=history, notes=(told, *notes))
