"""The commands repair and estimate, which says what the former would do."""

import argparse
from pathlib import Path
from typing import Any

from timm_repair.cli import documented
from timm_repair.cli.answers import Answer
from timm_repair.cli.arguments import (
    METHODS,
    REPEAT,
    describe_data,
    describe_measuring,
    describe_overwrite,
    describe_property,
    describe_running,
    given,
    holdout,
    of_all_methods,
    takes_options,
)
from timm_repair.cli.parser import Parser

DEFAULT = "archrepair"
HARMFUL = 3  # exit status


def describe(command: Parser, method: str = DEFAULT) -> None:
    """Repair a model and save it."""
    _describe_repair(command, method)
    command.group("output").add_argument(
        "--output",
        required=True,
        help="directory for the repaired model, its card, report and figures",
    )
    command.group("the program").add_argument(
        "--dry-run",
        action="store_true",
        help="say what would be read, which blocks repaired, and about how long it would take;"
        " repair nothing",
    )
    command.group("output").add_argument(
        "--log-with",
        metavar="TRACKER",
        help="follow the training in tensorboard, wandb, …, if that is installed; what is kept on"
        " disk goes to OUTPUT-logs",
    )
    describe_images(command)
    describe_overwrite(command, REPEAT)


def describe_estimate(command: Parser, method: str = DEFAULT) -> None:
    """Say what a repair would read, where it would work, and about how long it would take."""
    _describe_repair(command, method)


def _describe_repair(command: Parser, method: str) -> None:
    describe_data(command)
    describe_property(command)
    known = documented.keys(METHODS)
    command.group("how").add_argument(
        "--method",
        default=DEFAULT,
        choices=known,
        metavar="METHOD",
        help=f"one of {', '.join(known)} (default: %(default)s)",
    )
    describe_measuring(command)
    takes_options(
        command,
        f"an option of the method, e.g. steps=500. These are of {method};"
        " `--method NAME --help` lists those of another",
        lambda: documented.options(documented.row(METHODS, method)),
        of_all_methods,
    )
    describe_running(command)


def describe_images(command: Parser) -> None:
    """Whether report.html shows images."""
    command.group("output").add_argument(
        "--no-images",
        dest="images",
        action="store_false",
        help="show no example of the holdout in report.html",
    )


def run(arguments: argparse.Namespace) -> Answer:
    """Repair, and say what came of it."""
    if arguments.dry_run:
        return estimate(arguments)
    values = given(arguments)
    from timm_repair.pipeline import repairing
    from timm_repair.runtime.accelerators import tracking

    accelerator = tracking(arguments.log_with, arguments.output)
    repaired = repairing.repair(
        arguments.model,
        holdout=holdout(arguments.holdout),
        method=arguments.method,
        output_dir=arguments.output,
        overwrite=arguments.overwrite,
        diagnose=arguments.diagnose,
        images=arguments.images,
        accelerator=accelerator,
        **values,
    )
    if accelerator is not None:
        accelerator.end_training()
    told = f"{repaired.report}\n\n{_where(repaired.report, arguments.output)}"
    status = HARMFUL if repaired.harmful else 0
    return Answer(told, repaired.report.to_dict(), status).of_main_process()


def estimate(arguments: argparse.Namespace) -> Answer:
    """What `repair` would do."""
    values = given(arguments)
    from timm_repair.pipeline import estimating

    found = estimating.estimate(
        arguments.model,
        holdout=holdout(arguments.holdout),
        method=arguments.method,
        diagnose=arguments.diagnose,
        **values,
    )
    return Answer(str(found), found.to_dict()).of_main_process()


def _where(report: Any, output: str) -> str:
    if report.properties:
        names = sorted(path.name for path in Path(output).iterdir())
        return f"Saved to {output}: {', '.join(names)}"
    from timm_repair.hub.folder import PAGE

    return (
        f"Saved to {output}: look at {Path(output) / PAGE}, load it with\n"
        "  import timm, timm_repair\n"
        f"  model = timm.create_model({f'local-dir:{output}'!r}, pretrained=True).eval()"
    )
