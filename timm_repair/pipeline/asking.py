"""Asking: what a user called `repair` with, as far as it can be told again: for the command that
repeats a repair.
"""

from collections.abc import Mapping
from dataclasses import is_dataclass
from os import PathLike
from typing import Any

from timm_repair.options import flat, plain


def asking(arguments: Mapping[str, Any], data: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """As plain JSON, for `Report.asked`.

    Args:
        arguments: of `repair`, by name. A name or a path is told as it was given, of a holdout with
            names each; of an object that there was one, by None.
        data: `DataOptions` or `Sampling`; what differs from the defaults is told.
        options: of the method, as they were given.
    """
    told = {name: _named(value) for name, value in arguments.items() if value is not None}
    if is_dataclass(data) and not isinstance(data, type):
        usual, given = flat(type(data)()), flat(data)
        told["data"] = {name: value for name, value in given.items() if value != usual[name]}
    return told | {"options": plain(options)}


def _named(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _named(each) for name, each in value.items()}
    if isinstance(value, PathLike):
        return str(value)
    return value if isinstance(value, str | bool | int) else None
