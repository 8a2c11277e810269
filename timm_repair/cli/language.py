"""The language of the command line: what goes wrong is told with the arguments that were typed.

The library's messages speak Python, `retain=`; here it is `--retain`.
"""

import re
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from timm_repair.cli.parser import PROGRAM, Parser

# arguments of the library that have another name here
SAID = {"output_dir": "output", "save_directory": "output", "path": "file"}


def language(command: Parser) -> dict[str, str]:
    """What each argument of the library is called on the command line of this command: "--retain",
    or "--set steps" for one that is given as NAME=VALUE.
    """
    options = {o: action for action in command._actions for o in action.option_strings}
    words = {name: f"{flag} {name}" for name, flag in command.names().items()}
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
