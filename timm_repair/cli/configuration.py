"""Configuration: run.yaml, the arguments of a command as a file. Every run into a folder leaves
one there, and `--config` repeats it.
"""

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from timm_repair.cli.arguments import Named
from timm_repair.cli.parser import Parser
from timm_repair.errors import OptionError, meant
from timm_repair.options import RUN, parse

PAIRS = ("set", "data")  # NAME=VALUE: what is typed is added to what the file says
# of one run alone
MOMENTARY = ("help", "config", "json", "quiet", "overwrite", "dry_run")


def typed(words: Sequence[str], option: str) -> str | None:
    """What was typed for `option`, the last time."""
    found = None
    for i, word in enumerate(words):
        if word.startswith(f"{option}="):
            found = word.partition("=")[2]
        elif word == option and i + 1 < len(words):
            found = words[i + 1]
    return found


def expanded(command: Parser, words: Sequence[str]) -> list[str]:
    """What was typed, with what the file of `--config` says before it.

    Raises:
        OptionError: the file cannot be read, is of another command, or says what this one does not
            take.
    """
    file = typed(words, "--config")
    if file is None:
        return list(words)
    values = _read(Path(file).expanduser())
    name = command.prog.split()[-1]
    if (of := values.pop("command", name)) != name:
        raise OptionError(f"{file!r} is of `{of}`, not of `{name}`")
    known = {_name(action): action for action in command._actions if action.dest not in MOMENTARY}
    found: list[str] = []
    for key, value in values.items():
        if key not in known:
            close = meant(str(key), known)
            said = f"; did you mean {close!r}?" if close else f"; known: {', '.join(known)}"
            raise OptionError(f"{file!r} says {key!r}, which `{name}` does not take{said}")
        action = known[key]
        there = any(typed(words, o) is not None or o in words for o in action.option_strings)
        if value is not None and (key in PAIRS or not there):  # null: as if it were not there
            found += _words(action, value, f"{key} in {file!r}")
    return [*found, *words]


def keep(command: Parser, arguments: argparse.Namespace) -> None:
    """Leave a run.yaml in the folder that `--output` names, if it is one, by the main process."""
    output = getattr(arguments, "output", None)
    folder = None if output is None else Path(output).expanduser()
    if folder is None or not folder.is_dir() or os.environ.get("RANK", "0") != "0":
        return
    (folder / RUN).write_text(written(command, arguments), encoding="utf-8")


def written(command: Parser, arguments: argparse.Namespace) -> str:
    """The text of a run.yaml: what differs from the defaults."""
    name = command.prog.split()[-1]
    values: dict[str, Any] = {"command": name}
    for action in command._actions:
        value = getattr(arguments, action.dest, None)
        if action.dest not in MOMENTARY and value != action.default and value is not None:
            values[_name(action)] = _plain(action, value)
    told = f"# {command.prog} --config {RUN} repeats it, called in {Path.cwd()}"
    return f"{told}\n{yaml.safe_dump(values, sort_keys=False, allow_unicode=True)}"


def _read(file: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeError, yaml.YAMLError) as error:
        said = " ".join(str(error).split())
        raise OptionError(f"--config {str(file)!r} cannot be read ({said:.200})") from error
    if not isinstance(values, Mapping):
        raise OptionError(f"--config {str(file)!r} must hold names with values, as run.yaml does")
    return {str(key): value for key, value in values.items()}


def _name(action: argparse.Action) -> str:
    """What an argument is called in the file: as it is typed, without its dashes."""
    return action.option_strings[-1].lstrip("-") if action.option_strings else action.dest


def _words(action: argparse.Action, value: Any, where: str) -> list[str]:
    """What one would type for this value."""
    option = list(action.option_strings[-1:])
    if action.nargs == 0:
        if not isinstance(value, bool):
            raise OptionError(f"{where} must be true or false")
        return option if value else []
    if isinstance(value, Mapping):
        each = [f"{name}={_typed(part)}" for name, part in value.items()]
    else:
        each = [str(part) for part in (value if isinstance(value, list) else [value])]
    if not option or action.nargs == "+":
        return [*option, *each]
    return [f"{option[0]}={part}" for part in each]


def _typed(value: Any) -> str:
    """A value as NAME=VALUE has it: a word as it is, unless it would be read as something else."""
    if isinstance(value, str) and parse([f"x={value}"])["x"] == value:
        return value
    return repr(value)


def _plain(action: argparse.Action, value: Any) -> Any:
    """A value as the file has it."""
    if _name(action) in PAIRS:
        return parse(value)
    if action.nargs == 0:
        return True
    if isinstance(value, list | tuple):
        return [each.text if isinstance(each, Named) else _as_text(each) for each in value]
    return _as_text(value)


def _as_text(value: Any) -> str | int | float:
    return value if isinstance(value, int | float) else str(value)
