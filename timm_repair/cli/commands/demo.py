"""The command demo, which tells as it goes."""

import argparse
from pathlib import Path

from timm_repair.cli.answers import Answer
from timm_repair.cli.arguments import describe_overwrite
from timm_repair.cli.parser import Parser


def describe(command: Parser) -> None:
    """Repair a small classifier that fails on corrupted digits, end to end and offline."""
    told = "directory for the repaired model, its card, report and figures"
    command.add_argument(
        "--output", type=Path, default=Path("demo-output"), help=f"{told} (default: %(default)s)"
    )
    steps = "of the repair; of training the classifier, twice as many"
    command.add_argument("--steps", type=int, default=300, help=steps)
    command.add_argument("--seed", type=int, default=0, help="every random choice follows from it")
    describe_overwrite(command, "replace another repair")


def run(arguments: argparse.Namespace) -> Answer:
    """What the command does."""
    from timm_repair.pipeline.demo import demo

    demo(
        arguments.output,
        steps=arguments.steps,
        seed=arguments.seed,
        overwrite=arguments.overwrite,
    )
    return Answer(None)
