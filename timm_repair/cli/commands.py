"""The commands of `timm-repair`: of each its arguments, and what it does."""

import argparse
import json
import sys
from pathlib import Path

from accelerate import PartialState

from timm_repair.cli import app_command, compare_command
from timm_repair.cli.arguments import (
    describe_data,
    describe_measuring,
    describe_property,
    given,
    holdout,
    require_file,
)
from timm_repair.errors import ConfigError, OutputError
from timm_repair.hub.exporting import FORMATS, export
from timm_repair.hub.folder import PAGE, PATCH
from timm_repair.hub.loading import from_pretrained
from timm_repair.hub.pictures import FOLDER
from timm_repair.hub.pictures import read as read_pictures
from timm_repair.hub.pushing import push_to_hub
from timm_repair.hub.saving import read_report
from timm_repair.methods import METHODS
from timm_repair.models.partition import GRANULARITIES
from timm_repair.pipeline import demo, inspecting, repairing
from timm_repair.pipeline.shelf import CONTENTS, read_comparison
from timm_repair.report.report import Report
from timm_repair.report.suspects import tie
from timm_repair.runtime.accelerators import tracking

HARMFUL = 3  # exit status


# ---- the commands: the arguments of each, and what it does


def _describe_blocks(command: argparse.ArgumentParser) -> None:
    """List a model's blocks, and why some cannot be repaired."""
    command.add_argument("model", help="timm name, hf-hub:… or local-dir:…")
    command.add_argument("--granularity", default="stage", choices=GRANULARITIES)


def _blocks(arguments: argparse.Namespace) -> None:
    for block in inspecting.blocks(arguments.model, granularity=arguments.granularity):
        shapes = " -> ".join(
            "x".join(map(str, s)) if s else "?" for s in (block.in_shape, block.out_shape)
        )
        print(
            f"{block.name:45s} {shapes:27s} {block.num_params:12,d} "
            f" {'repairable' if block.repairable else block.reason or block.role}"
        )


def _describe_localize(command: argparse.ArgumentParser) -> None:
    """Score the blocks by how suspicious they are."""
    describe_data(command)


def _localize(arguments: argparse.Namespace) -> None:
    found = inspecting.localize(arguments.model, **given(arguments)).to_dict()
    if not PartialState().is_main_process:
        return
    print(json.dumps(found, indent=1))
    if said := tie(found):
        print(said, file=sys.stderr)  # standard output is JSON


def _describe_diagnose(command: argparse.ArgumentParser) -> None:
    """Say what the failures have in common."""
    describe_data(command)
    command.add_argument("--output", type=Path, help="file for the diagnosis as JSON")
    command.add_argument("--overwrite", action="store_true", help="replace what OUTPUT holds")


def _diagnose(arguments: argparse.Namespace) -> None:
    output = None if arguments.output is None else arguments.output.expanduser()
    if output is not None:
        require_file(output, arguments.overwrite)
    found = inspecting.diagnose(arguments.model, **given(arguments))
    if not PartialState().is_main_process:
        return
    print(found)
    if output is not None:
        output.write_text(found.to_json())


def _describe_repair(command: argparse.ArgumentParser) -> None:
    """Repair a model and save it."""
    describe_data(command)
    describe_property(command)
    command.add_argument(
        "--output",
        required=True,
        help="directory for the repaired model, its card, report and figures",
    )
    command.add_argument("--method", default="archrepair", choices=METHODS)
    command.add_argument(
        "--log-with",
        metavar="TRACKER",
        help="follow the training in tensorboard, wandb, …, if that is installed; what is kept on"
        " disk goes to OUTPUT-logs",
    )
    _describe_images(command)
    describe_measuring(command)


def _repair(arguments: argparse.Namespace) -> int:
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
        **given(arguments),
    )
    if accelerator is not None:
        accelerator.end_training()
    if repaired.main_process:
        print(repaired.report)
        _tell_where(repaired.report, arguments.output)
    return HARMFUL if repaired.harmful else 0


def _tell_where(report: Report, output: str) -> None:
    if report.properties:
        names = sorted(path.name for path in Path(output).iterdir())
        print(f"\nSaved to {output}: {', '.join(names)}")
        return
    print(
        f"\nSaved to {output}: look at {Path(output) / PAGE}, load it with\n"
        "  import timm, timm_repair\n"
        f"  model = timm.create_model({f'local-dir:{output}'!r}, pretrained=True)"
    )


def _describe_report(command: argparse.ArgumentParser) -> None:
    """Print the report of a saved repair or comparison, or write a repair's as a page."""
    command.add_argument("directory", type=Path)
    page = "write it to DIRECTORY/report.html instead, to be opened in a browser without a network"
    command.add_argument("--html", action="store_true", help=page)
    _describe_images(command)


def _describe_images(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--no-images",
        dest="images",
        action="store_false",
        help="show no example of the holdout in report.html",
    )


def _report(arguments: argparse.Namespace) -> None:
    path = arguments.directory / "repair.json"
    if (arguments.directory / CONTENTS).is_file():
        print(read_comparison(arguments.directory))
        return
    if not path.is_file():
        raise ConfigError(f"{str(path)!r} does not exist: give the directory of a saved repair")
    report = read_report(path)
    if not arguments.html:
        print(report)
        return
    pictures = read_pictures(arguments.directory / FOLDER, report) if arguments.images else None
    page = arguments.directory / PAGE
    try:
        page.write_text(report.to_html(pictures), encoding="utf-8")
    except OSError as error:
        raise OutputError(
            f"cannot write {str(page)!r} ({error}): free it, or its folder"
        ) from error
    print(page)


def _describe_push(command: argparse.ArgumentParser) -> None:
    """Upload a saved repair to the Hugging Face Hub (log in before: hf auth login)."""
    add = command.add_argument
    add("directory", type=Path, help="of a saved repair")
    add("repo_id", help="user/name; made if there is none")
    private = "if the repository is new; else the owner's default"
    add("--private", action="store_true", default=None, help=private)
    add("--revision", help="branch; made if there is none")
    add("--create-pr", action="store_true", help="open a pull request instead of committing")
    add("--commit-message")
    patch = "only what the repair changed; the original must be on the Hub"
    add("--patch", action="store_true", help=patch)
    code = "also for transformers' trust_remote_code=True"
    add("--remote-code", action="store_true", help=code)
    replace = "keep nothing of a README.md that is there"
    add("--replace-model-card", action="store_true", help=replace)
    add("--base-model", help="Hub id of the original, if the report does not tell")
    add("--license", help="of the original, if the report does not tell")
    images = "show examples of the holdout in the report.html that is uploaded"
    add("--images", action="store_true", help=images)


def _push(arguments: argparse.Namespace) -> None:
    given = {
        name: value
        for name, value in vars(arguments).items()
        if name not in ("run", "command", "directory", "repo_id")
    }
    if not arguments.directory.is_dir():
        raise ConfigError(
            f"{str(arguments.directory)!r} is no directory: give the directory of a saved repair"
        )
    card = arguments.directory / "README.md"
    model = from_pretrained(arguments.directory)
    given["patch"] |= (arguments.directory / PATCH).is_file()  # as it was saved
    readme = card.read_text(encoding="utf-8") if card.is_file() else None
    print(push_to_hub(model, arguments.repo_id, readme=readme, **given))


def _describe_export(command: argparse.ArgumentParser) -> None:
    """Write a saved or published repair as one file: ONNX, or a program of torch."""
    command.add_argument("model", help="directory or Hub id")
    command.add_argument("file")
    command.add_argument("--format", default="onnx", choices=FORMATS)


def _export(arguments: argparse.Namespace) -> None:
    print(export(from_pretrained(arguments.model), arguments.file, format=arguments.format))


COMMANDS = {
    "blocks": (_describe_blocks, _blocks),
    "localize": (_describe_localize, _localize),
    "diagnose": (_describe_diagnose, _diagnose),
    "repair": (_describe_repair, _repair),
    "compare": (compare_command.describe, compare_command.run),
    "tasks": (compare_command.describe_tasks, compare_command.run_tasks),
    "report": (_describe_report, _report),
    "push": (_describe_push, _push),
    "export": (_describe_export, _export),
    "app": (app_command.describe, app_command.run),
    "demo": (demo.describe, demo.run),
}
