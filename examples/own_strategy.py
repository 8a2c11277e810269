"""A search strategy of your own: FairDARTS's sigmoids instead of PC-DARTS's softmax.

    python examples/own_strategy.py

A strategy says how the architecture parameters α become operation weights, and how α and the
weights take turns (`strategy.Strategy` lists the fields). In a softmax an operation gains by what
the others lose. FairDARTS (Chu et al., ECCV 2020) gives each a sigmoid of its own, and a loss that
drives it to 0 or 1. `progress` runs from 0 to 1; all randomness comes from `generator`.
"""

import argparse
from dataclasses import dataclass

import torch
from compare_methods import DIGITS, problem
from torch import Tensor

import timm_repair
from timm_repair.methods import named


@dataclass(frozen=True, kw_only=True)
class FairDarts:
    """Sigmoids; `push` is the weight of the loss that drives them to 0 or 1."""

    partial: int = 4
    edge_normalization: bool = False
    warmup: float = 0.3
    learning_rate: float | None = None
    push: float = 0.01

    def weights(self, alpha: Tensor, *, progress: float, generator: torch.Generator) -> Tensor:
        return torch.sigmoid(alpha)

    def penalty(self, alpha: Tensor, *, progress: float) -> Tensor:
        return -self.push * (torch.sigmoid(alpha) - 0.5).square().mean()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--steps",
        type=int,
        default=200,
        help="of each repair; of training the classifier, twice as many",
    )
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    budget = {"steps": arguments.steps, **DIGITS}
    given = problem(steps=2 * arguments.steps, seed=arguments.seed)
    methods = {
        # a path takes so small a net longer than a repair may: strategies are compared all the same
        name: named("archrepair", strategy=strategy, max_latency=None, **budget)
        for name, strategy in (
            ("pc_darts", "pc_darts"),
            ("darts", "darts"),
            ("FairDARTS", FairDarts()),
        )
    }
    comparison = timm_repair.compare(**given, methods=methods, seed=arguments.seed)
    print(f"\n{comparison}")
    for name, report in comparison.reports.items():
        edges = report.genotype["edges"] if report.genotype else []
        found = ", ".join(
            f"{edge['source']} -{edge['operation']}-> {edge['target']}" for edge in edges
        )
        print(f"{name} on {report.block}: {found or 'the raw architecture'}")


if __name__ == "__main__":
    main()
