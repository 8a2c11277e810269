"""Answers: what a command has to say, for people and for programs."""

import json
import sys
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Answer:
    """What a command gives back.

    Args:
        text: for people; None says nothing, as processes that are not the main one.
        data: the same as plain JSON, for `--json`.
        status: the exit status.
    """

    text: str | None
    data: Any = None
    status: int = 0

    def of_main_process(self) -> "Answer":
        """Said by the main process alone."""
        from accelerate import PartialState

        return self if PartialState().is_main_process else replace(self, text=None)

    def show(self, *, as_json: bool) -> None:
        """On standard output."""
        if self.text is None:
            return
        if as_json:
            json.dump(self.data, sys.stdout, indent=1, allow_nan=False)
            print()
        else:
            print(self.text)
