"""The commands `timm-repair compare` and `timm-repair tasks`."""

import argparse
import json
from pathlib import Path

from accelerate import PartialState

from timm_repair.cli.arguments import (
    RESERVED,
    describe_data,
    describe_measuring,
    describe_property,
    given,
    holdout,
    method,
    require_file,
)
from timm_repair.methods import METHODS, named
from timm_repair.pipeline import comparing
from timm_repair.pipeline.entrants import labelled
from timm_repair.pipeline.protocols import PROTOCOLS
from timm_repair.pipeline.shelf import read_comparison
from timm_repair.report.tasks import REPEATS, Tasks

NOTHING = 2  # exit status where every row failed
# what is compared unless methods are named: those that take any image classifier and any failures
GENERAL = ["archrepair", "finetune", "bn_recalibration"]


def describe(command: argparse.ArgumentParser) -> None:
    """Run several methods on the same data with the same budget."""
    describe_data(command)
    describe_property(command)
    command.add_argument(
        "--methods",
        nargs="+",
        type=method,
        default=[(name, {}) for name in GENERAL],
        metavar="METHOD",
        help=f"of {', '.join(METHODS)}; with options of its own in quotes: 'finetune block=layer1'",
    )
    command.add_argument(
        "--seeds", nargs="+", type=int, help="repeat everything under each of these"
    )
    command.add_argument(
        "--protocol",
        default=PROTOCOLS[0],
        choices=PROTOCOLS,
        help="paper: --failures is the whole test set, 1,000 failures are drawn from it, and the"
        " rest is measured on",
    )
    command.add_argument(
        "--output",
        type=Path,
        help="folder for the comparison and every repaired model, where it goes on if it was"
        " interrupted; or a file NAME.json for the comparison alone",
    )
    describe_measuring(command)


def run(arguments: argparse.Namespace) -> int:
    """Compare; the exit status."""
    output = None if arguments.output is None else arguments.output.expanduser()
    file = output if output is not None and output.suffix == ".json" else None
    if file is not None:
        require_file(file, arguments.overwrite)
    options = given(arguments)
    shared = {name: options.pop(name) for name in options.keys() - RESERVED}
    comparison = comparing.compare(
        arguments.model,
        methods=labelled([named(n, **shared | own) for n, own in arguments.methods]),
        holdout=holdout(arguments.holdout),
        protocol=arguments.protocol,
        seeds=arguments.seeds,
        diagnose=arguments.diagnose,
        output_dir=None if file is not None else output,
        overwrite=arguments.overwrite and file is None,
        **options,
    )
    if PartialState().is_main_process:
        print(comparison)
        if file is not None:
            file.write_text(json.dumps(comparison.to_dict(), indent=1))
        elif output is not None:
            print(f"\nSaved to {output}: each row's model is in its folder there")
    return 0 if comparison.populations else NOTHING


def describe_tasks(command: argparse.ArgumentParser) -> None:
    """Test methods against each other over the comparisons of several tasks."""
    command.add_argument(
        "comparisons", nargs="+", type=Path, help="what `compare --output` wrote for each task"
    )
    command.add_argument(
        "--repeats",
        default=REPEATS[0],
        choices=REPEATS,
        help="each: every seed counts as a task, as in the paper",
    )


def run_tasks(arguments: argparse.Namespace) -> None:
    """Print the tests."""
    found = {str(path): read_comparison(path) for path in arguments.comparisons}
    print(Tasks(found, arguments.repeats))
