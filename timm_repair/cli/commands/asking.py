"""Commands that ask a model and change nothing: blocks, evaluate, localize, diagnose."""

import argparse
from pathlib import Path

from timm_repair.cli import documented
from timm_repair.cli.answers import Answer
from timm_repair.cli.arguments import (
    FORMS,
    describe_data,
    describe_model,
    describe_overwrite,
    describe_reading,
    describe_running,
    given,
    require_file,
    takes_options,
)
from timm_repair.cli.parser import Parser
from timm_repair.options import make, parse


def describe_blocks(command: Parser) -> None:
    """List a model's blocks, and why some cannot be repaired."""
    command.add_argument("model", help="timm name, hf-hub:… or local-dir:…")
    kinds = documented.keys("models.partition.GRANULARITIES")
    command.add_argument("--granularity", default="stage", choices=kinds, help="what a block is")
    describe_running(command)


def blocks(arguments: argparse.Namespace) -> Answer:
    """One line a block."""
    from timm_repair.pipeline import inspecting

    found = inspecting.blocks(arguments.model, granularity=arguments.granularity)
    lines = []
    for block in found:
        shapes = " -> ".join(
            "x".join(map(str, s)) if s else "?" for s in (block.in_shape, block.out_shape)
        )
        told = "repairable" if block.repairable else block.reason or block.role
        lines.append(f"{block.name:45s} {shapes:27s} {block.num_params:12,d}  {told}")
    return Answer("\n".join(lines), [block.to_dict() for block in found])


def describe_evaluate(command: Parser) -> None:
    """Count what a model has right, as a whole and class by class."""
    describe_model(command)
    add = command.group("model and images").add_argument
    add("--images", required=True, metavar="PLACE", help=f"labelled images: {FORMS}")
    describe_reading(command)
    describe_running(command)


def evaluate(arguments: argparse.Namespace) -> Answer:
    """Accuracy with its interval, and the worst classes."""
    from timm_repair.data.options import DataOptions
    from timm_repair.pipeline import inspecting

    data = make(DataOptions, parse(arguments.data))
    found = inspecting.evaluate(arguments.model, arguments.images, progress=False, data=data)
    return Answer(str(found), found.to_dict()).of_main_process()


def describe_localize(command: Parser) -> None:
    """Say how suspicious each block is."""
    describe_data(command)
    takes_options(
        command,
        "how blocks are chosen, e.g. score=spectrum_gradient",
        lambda: documented.options("pipeline.inspecting._Asked"),
    )
    describe_running(command)


def localize(arguments: argparse.Namespace) -> Answer:
    """What `repair` says of it."""
    values = given(arguments)
    from timm_repair.pipeline import inspecting
    from timm_repair.report import suspects

    found = inspecting.localize(arguments.model, **values).to_dict()
    return Answer("\n".join(suspects.text(found, None)), found).of_main_process()


def describe_diagnose(command: Parser) -> None:
    """Say what the failures have in common."""
    describe_data(command)
    takes_options(
        command,
        "how closely is looked, e.g. parts=2",
        lambda: documented.options("diagnosis.sampling.Looking"),
    )
    told = "file for the diagnosis as JSON"
    command.group("output").add_argument("--output", type=Path, help=told)
    describe_overwrite(command)
    describe_running(command)


def diagnose(arguments: argparse.Namespace) -> Answer:
    """Say it, and write it."""
    output = None if arguments.output is None else arguments.output.expanduser()
    if output is not None:
        require_file(output, arguments.overwrite)
    values = given(arguments)
    from timm_repair.pipeline import inspecting

    found = inspecting.diagnose(arguments.model, **values)
    answer = Answer(str(found), found.to_dict()).of_main_process()
    if output is not None and answer.text is not None:
        output.write_text(found.to_json())
    return answer
