"""The command `timm-repair app`."""

import argparse
import sys
from importlib import import_module

from timm_repair.cli.answers import Answer
from timm_repair.cli.arguments import describe_running
from timm_repair.cli.parser import Parser


def describe(command: Parser) -> None:
    """Open a repair in a browser: try images, collect wrong answers, repair again."""
    add = command.add_argument
    add("directory", help="a finished repair, a folder with several, or a Hub id")
    add("--port", type=int, help="of this machine; else the first free one from 7860")
    share = "also on a public address of gradio's, where one can look but change nothing"
    add("--share", action="store_true", help=share)
    add("--no-browser", dest="browser", action="store_false", help="only say where it is")
    work = "folder for failures, new repairs and exports; else DIRECTORY-app"
    add("--work", help=work)
    add("--original", help="what was repaired, if the repair does not tell: any name of a model")
    describe_running(command)


def run(arguments: argparse.Namespace) -> Answer:
    """Until Ctrl-C."""
    # by its name, and not before it is wanted: the app stands beside the command line
    serve = import_module("timm_repair.app.serving").serve

    def ready(url: str) -> None:
        print(f"The app is at {url}; Ctrl-C ends it", file=sys.stderr)

    try:
        serve(
            arguments.directory,
            port=arguments.port,
            share=arguments.share,
            browser=arguments.browser,
            work=arguments.work,
            original=arguments.original,
            ready=ready,
        )
    except KeyboardInterrupt:  # the way to end it
        print("The app has ended", file=sys.stderr)
    return Answer(None)
