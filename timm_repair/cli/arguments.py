"""Arguments that several commands of the console share: models, failures, properties and data, and
what they mean.
"""

import argparse
import inspect
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from timm_repair.data.options import DataOptions
from timm_repair.errors import OptionError, OutputError, did_you_mean
from timm_repair.methods import METHODS
from timm_repair.options import make, parse
from timm_repair.pipeline import comparing, inspecting, repairing
from timm_repair.properties import vnnlib
from timm_repair.properties.property import ANSWERS
from timm_repair.properties.sampling import Sampling

# arguments of the library: each has an argument of its own, or none on a console
RESERVED = {
    name
    for verb in (repairing.repair, comparing.compare, inspecting.localize, inspecting.diagnose)
    for name in inspect.signature(verb).parameters
} - {"options"}


def describe_data(command: argparse.ArgumentParser) -> None:
    """Model, failures, and how both are read."""
    command.add_argument("--model", required=True, help="timm name, hf-hub:… or local-dir:…")
    command.add_argument(
        "--failures", help="parquet, csv or json file, imagefolder directory, or Hub id"
    )
    command.add_argument("--retain", help="what must not be forgotten, in any of these forms")
    command.add_argument(
        "--passing",
        help="of the failures' population, what the model has right, in any of these forms",
    )
    command.add_argument("--seed", type=int, default=0)
    command.add_argument(
        "--data",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="how data are read, e.g. label_column=digit",
    )
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an option of the method, e.g. steps=500",
    )


def describe_measuring(command: argparse.ArgumentParser) -> None:
    """What to measure on, and whether what is there may be replaced."""
    command.add_argument(
        "--overwrite",
        action="store_true",
        help="repeat what OUTPUT holds, or replace it by what this command gives",
    )
    command.add_argument(
        "--no-diagnosis",
        dest="diagnose",
        action="store_false",
        help="do not ask first what the failures have in common",
    )
    command.add_argument(
        "--holdout",
        action="append",
        default=[],
        metavar="[NAME=]PLACE",
        help="what to measure on, in any of these forms; several with names:"
        " --holdout failing=unseen/ --holdout clean=test.parquet",
    )


def describe_property(command: argparse.ArgumentParser) -> None:
    """Properties in the place of failures."""
    command.add_argument(
        "--property",
        action="append",
        default=[],
        metavar="FILE",
        help="a VNN-LIB file instead of --failures; several, where several must hold together."
        " --model is then a .nnet or .onnx file, and --data tells how inputs are drawn, e.g."
        " violations=500",
    )
    command.add_argument(
        "--answer",
        choices=ANSWERS,
        help="whether the network answers by its highest or its lowest output, where the"
        " property's comparisons do not tell",
    )


def given(arguments: argparse.Namespace) -> dict[str, Any]:
    """What these arguments give to the verbs of the pipeline."""
    files, answer = getattr(arguments, "property", []), getattr(arguments, "answer", None)
    if bool(files) == bool(arguments.failures):
        choice = "either --failures or --property" if "property" in arguments else "--failures"
        raise OptionError(f"nothing says what the model gets wrong: give {choice}")
    if answer and not files:
        raise OptionError("--answer goes with --property")
    return {
        "failures": [vnnlib.read(path, answer=answer) for path in files] or arguments.failures,
        "retain": arguments.retain,
        **({} if arguments.passing is None else {"passing": arguments.passing}),
        "seed": arguments.seed,
        "data": make(Sampling if files else DataOptions, parse(arguments.data)),
    } | parse(arguments.set, RESERVED)


def method(text: str) -> tuple[str, dict[str, Any]]:
    """A method's name and the options of its own: "finetune block=layer1"."""
    try:
        name, *pairs = shlex.split(text) or [""]
        options = parse(pairs, RESERVED)
    except (OptionError, ValueError) as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    if name not in METHODS:
        raise argparse.ArgumentTypeError(f"unknown method {name!r}{did_you_mean(name, METHODS)}")
    return name, options


def holdout(given: Sequence[str]) -> Any:
    """What `--holdout` gives to `repair`."""
    parts = [place.partition("=") for place in given]
    # a path may hold a "=" too
    named = {n: place for n, equals, place in parts if equals and n and not {"/", "\\"} & set(n)}
    if not given or (len(given) == 1 and not named):
        return given[0] if given else None
    if len(named) < len(given):
        raise OptionError(
            "several --holdout need different names: --holdout failing=unseen/ --holdout"
            " clean=test.parquet"
        )
    return named


def require_file(path: Path, overwrite: bool) -> None:
    """Raise OutputError unless the file can be written, and holds nothing that would be lost."""
    if path.is_file() and path.stat().st_size and not overwrite:
        raise OutputError(
            f"{str(path)!r} exists: choose another file for output_dir=, or overwrite=True"
        )
    new = not path.exists()
    try:
        with path.open("a"):
            pass
    except OSError as error:
        raise OutputError(f"cannot write {str(path)!r} ({error}): choose another file") from error
    if new:
        path.unlink()
