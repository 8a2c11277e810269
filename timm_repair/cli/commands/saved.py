"""Commands about a repair that is saved: report, push, export, revert."""

import argparse
from pathlib import Path

from timm_repair.cli import documented
from timm_repair.cli.answers import Answer
from timm_repair.cli.arguments import describe_new_folder, describe_running
from timm_repair.cli.commands.repairing import describe_images
from timm_repair.cli.parser import Parser
from timm_repair.errors import ConfigError, OutputError
from timm_repair.hub.folder import PAGE, PATCH, REPORT


def describe_report(command: Parser) -> None:
    """Print the report of a saved repair or comparison, or write a repair's as a page."""
    command.add_argument("directory", type=Path, help="of a saved repair or comparison")
    page = "write it to DIRECTORY/report.html instead, to be opened in a browser without a network"
    command.add_argument("--html", action="store_true", help=page)
    describe_images(command)
    describe_running(command)


def report(arguments: argparse.Namespace) -> Answer:
    """The report, or where its page is."""
    from timm_repair.hub import pictures
    from timm_repair.hub.saving import read_report
    from timm_repair.pipeline.shelf import CONTENTS, read_comparison

    path = arguments.directory / REPORT
    if (arguments.directory / CONTENTS).is_file():
        comparison = read_comparison(arguments.directory)
        return Answer(str(comparison), comparison.to_dict())
    if not path.is_file():
        raise ConfigError(f"{str(path)!r} does not exist: give the directory of a saved repair")
    found = read_report(path)
    if not arguments.html:
        return Answer(str(found), found.to_dict())
    folder = arguments.directory / pictures.FOLDER
    shown = pictures.read(folder, found) if arguments.images else None
    page = arguments.directory / PAGE
    try:
        page.write_text(found.to_html(shown), encoding="utf-8")
    except OSError as error:
        raise OutputError(
            f"cannot write {str(page)!r} ({error}): free it, or its folder"
        ) from error
    return Answer(str(page), {"page": str(page)})


def describe_push(command: Parser) -> None:
    """Upload a saved repair to the Hugging Face Hub (log in before: hf auth login)."""
    add = command.add_argument
    add("directory", type=Path, help="of a saved repair")
    add("repo_id", help="user/name; made if there is none")
    private = "if the repository is new; else the owner's default"
    add("--private", action="store_true", default=None, help=private)
    add("--revision", help="branch; made if there is none")
    add("--create-pr", action="store_true", help="open a pull request instead of committing")
    add("--commit-message", help="instead of one that says what was repaired")
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

    describe_running(command)


def push(arguments: argparse.Namespace) -> Answer:
    """Where it is."""
    if not arguments.directory.is_dir():
        raise ConfigError(
            f"{str(arguments.directory)!r} is no directory: give the directory of a saved repair"
        )
    from timm_repair.hub.loading import from_pretrained
    from timm_repair.hub.pushing import push_to_hub

    card = arguments.directory / "README.md"
    model = from_pretrained(arguments.directory)
    pushed = push_to_hub(
        model,
        arguments.repo_id,
        readme=card.read_text(encoding="utf-8") if card.is_file() else None,
        private=arguments.private,
        revision=arguments.revision,
        create_pr=arguments.create_pr,
        commit_message=arguments.commit_message,
        patch=arguments.patch or (arguments.directory / PATCH).is_file(),  # as it was saved
        remote_code=arguments.remote_code,
        replace_model_card=arguments.replace_model_card,
        base_model=arguments.base_model,
        license=arguments.license,
        images=arguments.images,
    )
    return Answer(str(pushed), {"url": str(pushed)})


def describe_export(command: Parser) -> None:
    """Write a saved or published repair as one file: ONNX, or a program of torch."""
    command.add_argument("model", help="directory or Hub id")
    command.add_argument("file", help="to write")
    formats = documented.keys("hub.exporting.FORMATS")
    command.add_argument("--format", default="onnx", choices=formats, help="of the file")
    describe_running(command)


def export(arguments: argparse.Namespace) -> Answer:
    """Where it is."""
    from timm_repair.hub import exporting
    from timm_repair.hub.loading import from_pretrained

    model = from_pretrained(arguments.model)
    file = exporting.export(model, arguments.file, format=arguments.format)
    return Answer(str(file), {"file": str(file)})


def describe_revert(command: Parser) -> None:
    """Give back the model as it was before a repair."""
    command.add_argument("directory", type=Path, help="of a saved repair")
    told = "folder for the original, as timm saves a model"
    describe_new_folder(command, told)


def revert(arguments: argparse.Namespace) -> Answer:
    """Where it is."""
    from timm_repair.pipeline.reverting import save_original

    output = arguments.output.expanduser()
    origin = save_original(arguments.directory, output, overwrite=arguments.overwrite)
    told = f"The original, from {origin}, is in {output}: bit for bit what was repaired"
    return Answer(told, {"output": str(output), "from": origin})
