"""The console command `timm-repair`: blocks, localize, repair, compare, report, push, …

It is also what `accelerate launch examples/repair.py` runs. Exit status: 0 done; 2 an error, in one
message; 3 repaired, but the verdict is that the repair harms; 130 interrupted.

Nothing that takes long is imported before a command runs: `--help` is there at once.

- commands/: one pair of functions a command: its arguments, what it does.
- arguments.py: arguments that several commands share.
- parser.py: the help, and what to do about an option that is none; documented.py: what the options
  are, read from the source.
- configuration.py: run.yaml, which repeats a command.
- language.py: the library's messages in the words of the command line.
- answers.py: the result, for people or as JSON; progress.py: what is told on the way.
"""

import os
import platform
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from timm_repair.cli import configuration, documented
from timm_repair.cli.commands import COMMANDS, STAGES
from timm_repair.cli.language import language, readable_warnings, report_error
from timm_repair.cli.parser import PROGRAM, Parser, overview
from timm_repair.cli.progress import told
from timm_repair.errors import RepairError, did_you_mean

INTERRUPTED = 130  # exit status, as shells have it


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status. What goes wrong is printed in one message instead
    of a traceback.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0].startswith("-"):
        return _without_command(words)
    name, *words = words
    if name not in COMMANDS:
        print(f"{PROGRAM}: no command {name!r}{did_you_mean(name, COMMANDS)}", file=sys.stderr)
        return 2
    command = parser(name, words)
    try:
        arguments = command.parse(configuration.expanded(command, words))
    except RepairError as error:
        report_error(error, {})
        return 2
    said = language(command)
    output = getattr(arguments, "output", None)
    with readable_warnings(said), told(said, quiet=getattr(arguments, "quiet", False)) as teller:
        try:
            with teller.busy("torch and timm are being loaded"):
                for dear in ("torch", "timm"):
                    import_module(dear)
            answer = COMMANDS[name].run(arguments)
            if not getattr(arguments, "dry_run", False):
                configuration.keep(command, arguments)
        except KeyboardInterrupt:
            print(f"\n{PROGRAM}: interrupted{_way_on(output)}", file=sys.stderr)
            return INTERRUPTED
        except Exception as error:  # noqa: BLE001  it is told, with its place
            report_error(_of_the_family(error, command.prog), said)
            return 2
    try:
        answer.show(as_json=getattr(arguments, "json", False))
        sys.stdout.flush()
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return answer.status


def parser(name: str, words: Sequence[str] = ()) -> Parser:
    """The parser of this command.

    Args:
        words: what was typed; the help of `repair` is about the method that is named there.
    """
    told = COMMANDS[name].told
    command = Parser(name, f"{told}.")
    method = configuration.typed(words, "--method")
    known = documented.keys("methods.METHODS") if name in ("repair", "estimate") else ()
    COMMANDS[name].describe(command, **({"method": method} if method in known else {}))
    return command


def _without_command(words: Sequence[str]) -> int:
    if words[:1] == ["--version"]:
        print(f"{PROGRAM} {_version('timm_repair')} ({', '.join(_versions())})")
        return 0
    stages = {s: [(n, c.told) for n, c in each.items()] for s, each in STAGES.items()}
    asked = words[:1] in (["--help"], ["-h"])
    print(overview(stages), file=sys.stdout if asked else sys.stderr)
    return 0 if asked else 2


def _versions() -> list[str]:
    beside = ("torch", "timm", "accelerate", "datasets")
    return [f"Python {platform.python_version()}", *(f"{p} {_version(p)}" for p in beside)]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"


def _way_on(output: str | Path | None) -> str:
    folder = documented.value("runtime.journal.FOLDER")
    # of a comparison each row has its own
    if output is not None and any(Path(output).expanduser().rglob(folder)):
        return f"; what was done is kept in {output}: the same command again goes on from there"
    return "; nothing was kept, the same command again starts anew"


def _of_the_family(error: Exception, where: str) -> BaseException:
    if isinstance(error, RepairError) or "timm_repair.runtime.boundary" not in sys.modules:
        return error  # the latter: torch itself cannot be imported
    from timm_repair.runtime.boundary import of_the_family

    return of_the_family(error, where)
