"""The commands of `timm-repair`: of each its arguments, and what it does.

- failures.py: collect, corrupt: find what a model gets wrong.
- asking.py: blocks, evaluate, localize, diagnose: ask a model, change nothing.
- repairing.py: repair, estimate.
- comparing.py: compare, tasks: several methods.
- saved.py: report, push, export, revert: what to do with a repair that is there.
- app.py: app; demo.py: demo.

A file describes its commands without importing what takes long; a command imports what it needs
when it runs.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass

from timm_repair.cli.answers import Answer
from timm_repair.cli.commands import app, asking, comparing, demo, failures, repairing, saved


@dataclass(frozen=True)
class Command:
    """A command.

    Args:
        describe: gives a parser its arguments, those of repair and estimate for a `method`; the
            first line of its docstring says what the command is.
        run: does it.
    """

    describe: Callable[..., None]
    run: Callable[[argparse.Namespace], Answer]

    @property
    def told(self) -> str:
        """What it is, in a line."""
        return str(self.describe.__doc__).strip().splitlines()[0].rstrip(".")


# in the order in which one comes to need them
STAGES = {
    "Find failures": {
        "collect": Command(failures.describe_collect, failures.collect),
        "corrupt": Command(failures.describe_corrupt, failures.corrupt),
    },
    "Ask a model": {
        "blocks": Command(asking.describe_blocks, asking.blocks),
        "evaluate": Command(asking.describe_evaluate, asking.evaluate),
        "localize": Command(asking.describe_localize, asking.localize),
        "diagnose": Command(asking.describe_diagnose, asking.diagnose),
    },
    "Repair it": {
        "estimate": Command(repairing.describe_estimate, repairing.estimate),
        "repair": Command(repairing.describe, repairing.run),
        "compare": Command(comparing.describe, comparing.run),
        "tasks": Command(comparing.describe_tasks, comparing.run_tasks),
        "demo": Command(demo.describe, demo.run),
    },
    "Use a repair": {
        "app": Command(app.describe, app.run),
        "report": Command(saved.describe_report, saved.report),
        "push": Command(saved.describe_push, saved.push),
        "export": Command(saved.describe_export, saved.export),
        "revert": Command(saved.describe_revert, saved.revert),
    },
}
COMMANDS = {name: command for stage in STAGES.values() for name, command in stage.items()}
