"""The parser of one command: its help with the options in groups, and what to do about an option
that it does not know.
"""

import argparse
import shutil
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

from timm_repair.cli.documented import Group
from timm_repair.errors import DEVICES, meant

PROGRAM = "timm-repair"
DEVICE = (
    "accelerate chooses the device: CUDA_VISIBLE_DEVICES=1 or ACCELERATE_USE_CPU=true before the"
    " command, or `accelerate launch` for several"
)


@dataclass(frozen=True)
class Table:
    """What an option takes as NAME=VALUE.

    Args:
        option: "--set".
        told: what there is to say of it.
        groups: those that the help lists, read when they are asked for.
        names: all that it takes, for messages.
    """

    option: str
    told: str
    groups: Callable[[], Sequence[Group]]
    names: Callable[[], Iterable[str]]


class Parser(argparse.ArgumentParser):
    """The arguments of one command; `tables` are of what its NAME=VALUE arguments take."""

    def __init__(self, name: str, description: str = ""):
        super().__init__(
            prog=f"{PROGRAM} {name}",
            description=description,
            formatter_class=_Formatter,
            allow_abbrev=False,
        )
        self.tables: list[Table] = []
        self._groups: dict[str, argparse._ArgumentGroup] = {}

    def group(self, title: str) -> argparse._ArgumentGroup:
        """The group of arguments with this title in the help."""
        if title not in self._groups:
            self._groups[title] = self.add_argument_group(title)
        return self._groups[title]

    def names(self) -> dict[str, str]:
        """The names that NAME=VALUE arguments take, each with its option."""
        return {name: table.option for table in self.tables for name in table.names()}

    def format_usage(self) -> str:
        """A line: what must be given."""
        needed = [
            " ".join((*action.option_strings[-1:], str(action.metavar or action.dest).upper()))
            + " …" * (action.nargs == "+")
            for action in self._actions
            if action.required
        ]
        return f"usage: {' '.join([self.prog, *needed])} [OPTION …]\n"

    def format_help(self) -> str:
        """What argparse says, then the tables."""
        self.usage = self.format_usage().partition(" ")[2].rstrip()
        parts = [super().format_help()]
        for table in self.tables:
            lines = [line for group in table.groups() for line in _lines(group)]
            parts += ["\n".join([*textwrap.wrap(f"{table.option} {table.told}", width()), *lines])]
        return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"

    def parse(self, words: Sequence[str]) -> argparse.Namespace:
        """The arguments; an unknown option is told before one that is missing."""
        seen = set()
        for word in words:
            if word == "--":
                break
            option = word.partition("=")[0]
            if not word.startswith("--"):
                continue
            if option not in self._option_string_actions:
                self.error(f"unknown option {option}{self._meant(option)}")
            # of a number the last is meant; of places none would be looked at but the last
            if option in seen and self._option_string_actions[option].metavar == "PLACE":
                self.error(f"{option} is given twice: put what both hold into one place")
            seen.add(option)
        return self.parse_args(words)

    def error(self, message: str) -> NoReturn:
        """One line, and where help is."""
        self.exit(2, f"{self.prog}: {message}\n{self.format_usage().rstrip()}; see --help\n")

    def _meant(self, option: str) -> str:
        given = option.lstrip("-").replace("-", "_").lower()
        if given in DEVICES:
            return f": {DEVICE}"
        own = [o.lstrip("-") for o in self._option_string_actions if o.startswith("--")]
        known = self.names() | dict.fromkeys((o.replace("-", "_") for o in own), "")
        name = given if given in known else meant(given, known)
        if name is None:
            return ""
        if flag := known[name]:
            return f"; did you mean {flag} {name}=VALUE?"
        return f"; did you mean --{name.replace('_', '-')}?"


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Defaults are told where there are any."""

    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=30, width=width())

    def _get_help_string(self, action: argparse.Action) -> str:
        told, default = action.help or "", action.default
        shown = isinstance(default, str | int | float) and not isinstance(default, bool)
        shown = shown and default != argparse.SUPPRESS
        if shown and action.option_strings and "%(default)" not in told:
            told += " (default: %(default)s)"
        return told.lstrip()


def width() -> int:
    """Columns of the terminal, at most 100: longer lines are hard to read."""
    return min(shutil.get_terminal_size().columns, 100)


def _lines(group: Group) -> list[str]:
    lines = ["", *textwrap.wrap(f"{group.title}:", width(), initial_indent="  ",
                                subsequent_indent="  ")]  # fmt: skip
    for option in group.options:
        head = f"    {option.name}" + (f"={option.default}" if option.default else "")
        room = 30
        told = textwrap.wrap(option.meaning, width() - room)
        if len(head) >= room:
            lines.append(head)
            head = ""
        first, *rest = told or [""]
        lines += [f"{head:{room}}{first}".rstrip(), *(" " * room + line for line in rest)]
    return lines


def overview(stages: Mapping[str, Iterable[tuple[str, str]]]) -> str:
    """What `timm-repair --help` says.

    Args:
        stages: what one does, to commands with what each does.
    """
    lines = [
        f"usage: {PROGRAM} COMMAND [OPTION …]",
        "",
        "Repairs trained image classifiers, and measures what was fixed and broken.",
    ]
    for stage, commands in stages.items():
        lines += ["", f"{stage}:", *(f"  {name:10} {told}" for name, told in commands)]
    return "\n".join(
        [
            *lines,
            "",
            f"`{PROGRAM} COMMAND --help` tells the options of a command; `{PROGRAM} --version` the"
            " version.",
            "Exit status: 0 done; 2 an error, told in one message; 3 repaired, but the repair"
            " harms; 130",
            "interrupted. Begin with the failures: collect, then repair, then look at"
            " OUT/report.html.",
        ]
    )
