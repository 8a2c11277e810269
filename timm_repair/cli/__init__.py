"""The console command `timm-repair`: blocks, localize, repair, compare, tasks, report, push, …

It is also what `accelerate launch examples/repair.py` runs. Exit status: 0 done; 2 an error, in one
message; 3 repaired, but the verdict is that the repair harms; 130 interrupted.

What goes wrong is told in the language of the command line: the library's messages speak Python,
`retain=`; here it is `--retain`.

- commands.py: one pair of functions a command: its arguments, what it does.
- compare_command.py: those of compare and tasks; app_command.py: that of app.
- arguments.py: arguments that several commands share.
"""

import argparse
import logging
import re
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from timm_repair.cli.commands import COMMANDS
from timm_repair.data.options import DataOptions
from timm_repair.errors import RepairError
from timm_repair.methods import METHODS
from timm_repair.options import flat_names
from timm_repair.runtime.boundary import of_the_family
from timm_repair.runtime.journal import FOLDER

PROGRAM = "timm-repair"
INTERRUPTED = 130  # exit status, as shells have it
# arguments of the library that have another name here
SAID = {"output_dir": "output", "save_directory": "output", "path": "file"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status. What goes wrong is printed in one message instead
    of a traceback.
    """
    logging.basicConfig(format="%(message)s")  # the program's right, not the library's
    arguments = _parser().parse_args(argv)
    words = language(arguments.command)
    with readable_warnings(words):
        try:
            return arguments.run(arguments) or 0
        except RepairError as error:
            report_error(error, words)
            return 2
        except KeyboardInterrupt:
            print(f"\n{PROGRAM}: interrupted{_way_on(arguments)}", file=sys.stderr)
            return INTERRUPTED
        except Exception as error:  # noqa: BLE001  it is told, with its place
            report_error(of_the_family(error, arguments.command.prog), words)
            return 2


def _way_on(arguments: argparse.Namespace) -> str:
    output = getattr(arguments, "output", None)
    # of a comparison each row has its own
    if output is not None and any(Path(output).expanduser().rglob(FOLDER)):
        return f"; what was done is kept in {output}: the same command again goes on from there"
    return "; nothing was kept, the same command again starts anew"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, (describe, run) in COMMANDS.items():
        help = str(describe.__doc__).strip()
        command = commands.add_parser(name, help=help[0].lower() + help[1:].rstrip("."))
        describe(command)
        command.set_defaults(run=run, command=command)
    return parser


def language(command: argparse.ArgumentParser) -> dict[str, str]:
    """What each argument of the library is called on the command line of this command: "--retain",
    or "--set steps" for one that is given as NAME=VALUE.
    """
    methods = [name for method in METHODS.values() for name in flat_names(method)]
    groups = {"--data": flat_names(DataOptions), "--set": methods}
    options = {o: action for action in command._actions for o in action.option_strings}
    words = {n: f"{o} {n}" for o, names in groups.items() if o in options for n in names}
    words |= {action.dest: o for o, action in options.items() if o.startswith("--")}
    return words | {name: words[to] for name, to in SAID.items() if to in words}


def spoken(text: str, words: Mapping[str, str]) -> str:
    """`text` with the library's arguments as the command line has them: "pass retain=" becomes
    "pass --retain", "steps=0" becomes "--set steps=0".
    """

    def said(match: re.Match) -> str:
        name, value = match.groups()
        if name not in words:
            return match[0]
        word = words[name]
        if " " in word:  # NAME=VALUE stays as it is
            return f"{word.split()[0]} {name}={value}"
        if value in ("True", "False"):  # a switch
            return word if value == "True" else f"no {word}"
        return f"{word} {value}".rstrip() if value else word

    text = re.sub(r"\bdata=DataOptions\(([^()]*)\)", r"\1", text)
    # not within a path, an option, a quotation or an attribute
    text = re.sub(r"(?<![\w/.='\"-])([a-z][a-z_]*)=([^\s,;)=]*+)(?!=)", said, text)
    for name, word in (("output_dir", "output"), ("DataOptions", "data")):
        text = re.sub(rf"(?<![\w/.'\"=-]){name}\b(?!\()", words.get(word, name), text)
    return text


def report_error(error: BaseException, words: Mapping[str, str]) -> None:
    """One line on standard error, its notes indented below."""
    notes = (spoken(note, words) for note in getattr(error, "__notes__", ()))
    print(f"{PROGRAM}: {spoken(str(error), words)}", *notes, sep="\n  ", file=sys.stderr)


@contextmanager
def readable_warnings(words: Mapping[str, str]) -> Iterator[None]:
    """Warnings are a line each, without the line of source that Python shows."""

    def show(message, category, filename, lineno, file=None, line=None) -> None:
        text = " ".join(str(message).split())
        print(f"{PROGRAM}: warning: {spoken(text, words)}", file=file or sys.stderr)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield
