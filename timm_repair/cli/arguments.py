"""Arguments that several commands of the console share: models, failures, properties and data, and
what they mean.

Describing them imports nothing that takes long; what they give to the verbs of the pipeline does.
"""

import argparse
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from timm_repair.cli import documented
from timm_repair.cli.documented import Group
from timm_repair.cli.parser import Parser, Table
from timm_repair.errors import OptionError, OutputError, did_you_mean
from timm_repair.options import make, parse

METHODS = "methods.METHODS"
REPEAT = "repeat what OUTPUT holds, or replace it by what this gives"  # of --overwrite
FORMS = "folder with one folder a class, parquet, csv or json file, or Hub id"


class Named(NamedTuple):
    """A method as it was typed, its name, and the options of its own."""

    text: str
    name: str
    options: dict[str, Any]


def reserved() -> set[str]:
    """Arguments of the library: each has an argument of its own, or none on a console."""
    verbs = ("repairing.repair", "comparing.compare", "inspecting.localize", "inspecting.diagnose")
    names = {name for verb in verbs for name in documented.parameters(f"pipeline.{verb}")}
    return names - {"options"}


def of_all_methods() -> list[str]:
    """Every name that `--set` takes for some method."""
    rows = (documented.row(METHODS, name) for name in documented.keys(METHODS))
    return [name for row in rows for name in documented.names(row)]


def takes_options(
    command: Parser, told: str, groups: Callable[[], Sequence[Group]], names: Callable | None = None
) -> None:
    """`--set NAME=VALUE`, of these groups."""
    add = command.group("how").add_argument
    add("--set", action="append", default=[], metavar="NAME=VALUE", help=told)
    own = names or (lambda: [option.name for group in groups() for option in group.options])
    command.tables.append(Table("--set", f"NAME=VALUE: {told}", groups, own))


def describe_model(command: Parser) -> None:
    """The model."""
    command.group("model and images").add_argument(
        "--model", required=True, help="timm name, hf-hub:… or local-dir:…"
    )


def describe_data(command: Parser) -> None:
    """Model, failures, and how both are read."""
    describe_model(command)
    add = command.group("model and images").add_argument
    add("--failures", metavar="PLACE", help=f"what the model gets wrong: {FORMS}")
    add(
        "--passing",
        metavar="PLACE",
        help="of the failures' population, what the model has right, in any of these forms",
    )
    add("--retain", metavar="PLACE", help="what must not be forgotten, in any of these forms")
    command.group("how").add_argument(
        "--seed", type=int, default=0, help="every random choice follows from it"
    )
    describe_reading(command, properties=True)


def describe_reading(command: Parser, *, properties: bool = False) -> None:
    """How data are read."""
    told = "how data are read and split, e.g. label_column=digit"
    add = command.group("model and images").add_argument
    add("--data", action="append", default=[], metavar="NAME=VALUE", help=told)

    def groups() -> Sequence[Group]:
        return documented.options("data.options.DataOptions")

    def names() -> list[str]:
        drawn = documented.names("properties.sampling.Sampling") if properties else []
        return documented.names("data.options.DataOptions") + drawn

    command.tables.append(Table("--data", f"NAME=VALUE: {told}", groups, names))


def describe_measuring(command: Parser) -> None:
    """What to measure on, and whether to diagnose first."""
    command.group("model and images").add_argument(
        "--holdout",
        action="append",
        default=[],
        metavar="[NAME=]PLACE",
        help="what to measure on, in any of these forms; several with names:"
        " --holdout failing=unseen/ --holdout clean=test.parquet",
    )
    command.group("how").add_argument(
        "--no-diagnosis",
        dest="diagnose",
        action="store_false",
        help="do not ask first what the failures have in common",
    )


def describe_overwrite(command: Parser, told: str = "replace what OUTPUT holds") -> None:
    """Whether what is there may be replaced."""
    command.group("output").add_argument("--overwrite", action="store_true", help=told)


def describe_property(command: Parser) -> None:
    """Properties in the place of failures."""
    add = command.group("model and images").add_argument
    add(
        "--property",
        action="append",
        default=[],
        metavar="FILE",
        help="a VNN-LIB file instead of --failures; several, where several must hold together."
        " --model is then a .nnet or .onnx file, and --data tells how inputs are drawn, e.g."
        " violations=500",
    )
    add(
        "--answer",
        choices=documented.keys("properties.property.ANSWERS"),
        help="whether the network answers by its highest or its lowest output, where the"
        " property's comparisons do not tell",
    )


def describe_running(command: Parser) -> None:
    """How the command itself behaves."""
    group = command.group("the program")
    group.add_argument(
        "--config",
        metavar="FILE",
        help="take arguments from this run.yaml, which a run leaves in its OUTPUT; those typed"
        " beside it go first",
    )
    group.add_argument("--json", action="store_true", help="print the result alone, as JSON")
    group.add_argument(
        "--quiet", action="store_true", help="no progress and no remarks, only warnings and errors"
    )


def describe_new_folder(command: Parser, told: str) -> None:
    """A command that writes a folder, and how it behaves."""
    command.group("output").add_argument("--output", type=Path, required=True, help=told)
    describe_overwrite(command)
    describe_running(command)


def given(arguments: argparse.Namespace) -> dict[str, Any]:
    """What these arguments give to the verbs of the pipeline."""
    files, answer = getattr(arguments, "property", []), getattr(arguments, "answer", None)
    if bool(files) == bool(arguments.failures):
        choice = "either --failures or --property" if "property" in arguments else "--failures"
        raise OptionError(f"nothing says what the model gets wrong: give {choice}")
    if answer and not files:
        raise OptionError("--answer goes with --property")
    options = parse(arguments.set, reserved())
    from timm_repair.data.options import DataOptions
    from timm_repair.properties import vnnlib
    from timm_repair.properties.sampling import Sampling

    return {
        "failures": [vnnlib.read(path, answer=answer) for path in files] or arguments.failures,
        "retain": arguments.retain,
        **({} if arguments.passing is None else {"passing": arguments.passing}),
        "seed": arguments.seed,
        "data": make(Sampling if files else DataOptions, parse(arguments.data)),
        "progress": False,  # the log tells of it
    } | options


def method(text: str) -> Named:
    """A method's name and the options of its own: "finetune block=layer1"."""
    try:
        name, *pairs = shlex.split(text) or [""]
        options = parse(pairs, reserved())
    except (OptionError, ValueError) as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    known = documented.keys(METHODS)
    if name not in known:
        raise argparse.ArgumentTypeError(f"unknown method {name!r}{did_you_mean(name, known)}")
    return Named(text, name, options)


def holdout(given: Sequence[str]) -> Any:
    """What `--holdout` gives to `repair`."""
    parts = [place.partition("=") for place in given]
    if unnamed := next((place for place in given if place.startswith("=")), None):
        raise OptionError(
            f"--holdout {unnamed} has no name before the =: give --holdout clean{unnamed}, or"
            f" --holdout {unnamed[1:]}"
        )
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
