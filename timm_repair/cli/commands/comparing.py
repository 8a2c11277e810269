"""The commands compare and tasks."""

import argparse
import json
from pathlib import Path

from timm_repair.cli import documented
from timm_repair.cli.answers import Answer
from timm_repair.cli.arguments import (
    METHODS,
    REPEAT,
    Named,
    describe_data,
    describe_measuring,
    describe_overwrite,
    describe_property,
    describe_running,
    given,
    holdout,
    method,
    of_all_methods,
    require_file,
    reserved,
    takes_options,
)
from timm_repair.cli.parser import Parser

NOTHING = 2  # exit status where every row failed
# what is compared unless methods are named: those that take any image classifier and any failures
GENERAL = ["archrepair", "finetune", "bn_recalibration"]


def describe(command: Parser) -> None:
    """Run several methods on the same data with the same budget."""
    describe_data(command)
    describe_property(command)
    add = command.group("how").add_argument
    add(
        "--methods",
        nargs="+",
        type=method,
        default=[Named(name, name, {}) for name in GENERAL],
        metavar="METHOD",
        help=f"of {', '.join(documented.keys(METHODS))}; with options of its own in quotes:"
        f" 'finetune block=layer1' (default: {' '.join(GENERAL)})",
    )
    add("--seeds", nargs="+", type=int, help="repeat everything under each of these")
    protocols = documented.keys("pipeline.protocols.PROTOCOLS")
    add(
        "--protocol",
        default=protocols[0],
        choices=protocols,
        help="paper: --failures is the whole test set, 1,000 failures are drawn from it, and the"
        " rest is measured on",
    )
    command.group("output").add_argument(
        "--output",
        type=Path,
        help="folder for the comparison and every repaired model, where it goes on if it was"
        " interrupted; or a file NAME.json for the comparison alone",
    )
    describe_overwrite(command, REPEAT)
    describe_measuring(command)
    takes_options(
        command,
        "an option of all methods, e.g. steps=500; `timm-repair repair --method NAME --help` lists"
        " those of one",
        lambda: documented.options("training.options.Training"),
        of_all_methods,
    )
    describe_running(command)


def run(arguments: argparse.Namespace) -> Answer:
    """Compare, and say what came of it."""
    output = None if arguments.output is None else arguments.output.expanduser()
    file = output if output is not None and output.suffix == ".json" else None
    if file is not None:
        require_file(file, arguments.overwrite)
    options = given(arguments)
    shared = {name: options.pop(name) for name in options.keys() - reserved()}
    from timm_repair.methods import named
    from timm_repair.pipeline import comparing
    from timm_repair.pipeline.entrants import labelled

    comparison = comparing.compare(
        arguments.model,
        methods=labelled([named(m.name, **shared | m.options) for m in arguments.methods]),
        holdout=holdout(arguments.holdout),
        protocol=arguments.protocol,
        seeds=arguments.seeds,
        diagnose=arguments.diagnose,
        output_dir=None if file is not None else output,
        overwrite=arguments.overwrite and file is None,
        **options,
    )
    told, data = str(comparison), comparison.to_dict()
    if output is not None and file is None:
        told += f"\n\nSaved to {output}: each row's model is in its folder there"
    answer = Answer(told, data, 0 if comparison.populations else NOTHING).of_main_process()
    if file is not None and answer.text is not None:
        file.write_text(json.dumps(data, indent=1))
    return answer


def describe_tasks(command: Parser) -> None:
    """Test methods against each other over the comparisons of several tasks."""
    command.add_argument(
        "comparisons", nargs="+", type=Path, help="what `compare --output` wrote for each task"
    )
    repeats = documented.keys("report.tasks.REPEATS")
    command.add_argument(
        "--repeats",
        default=repeats[0],
        choices=repeats,
        help="each: every seed counts as a task, as in the paper",
    )


def run_tasks(arguments: argparse.Namespace) -> Answer:
    """The tests."""
    from timm_repair.pipeline.shelf import read_comparison
    from timm_repair.report.tasks import Tasks

    found = {str(path): read_comparison(path) for path in arguments.comparisons}
    return Answer(str(Tasks(found, arguments.repeats)))
