"""A repair method of your own: last-layer retraining, set beside the built-in ones.

    python examples/own_method.py

A method is a frozen dataclass with a name and one verb. It gets the pipeline's own copy of the
model, changes it in place, chooses by `data.selection`, and leaves measuring, reporting and saving
to the pipeline. Retraining the last layer alone is known to suffice when the features are good and
only their use is wrong (Kirichenko et al., ICLR 2023); a corruption spoils the features themselves.
"""

import argparse
from dataclasses import dataclass, field
from typing import ClassVar

from compare_methods import DIGITS, problem
from torch import nn

import timm_repair
from timm_repair.data.repair_data import RepairData
from timm_repair.methods import named
from timm_repair.methods.method import Outcome
from timm_repair.runtime.runtime import Runtime
from timm_repair.training import Job, Training, tune


@dataclass(frozen=True, kw_only=True)
class LastLayer:
    """Train the classifier of a timm model and nothing else."""

    training: Training = field(default_factory=Training)
    name: ClassVar[str] = "last layer"

    def repair(self, model: nn.Module, data: RepairData, runtime: Runtime) -> Outcome:
        job = Job(model, data, self.training, runtime)
        with runtime.stage("finetune"):  # what happens in here is timed for the report
            history, notes = tune(job, model.get_classifier())
        return Outcome(model, history=history, notes=notes)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--steps",
        type=int,
        default=200,
        help="of each method; of training the classifier, twice as many",
    )
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    budget = {"steps": arguments.steps, **DIGITS}
    given = problem(steps=2 * arguments.steps, seed=arguments.seed)
    # alone: timm_repair.repair(model, failures, method=LastLayer(), …)
    methods = [
        LastLayer(training=Training(**budget)),
        named("finetune", **budget),
        named("archrepair", **budget),
    ]
    print(f"\n{timm_repair.compare(**given, methods=methods, seed=arguments.seed)}")


if __name__ == "__main__":
    main()
