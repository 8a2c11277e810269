"""The boundary: what every public function does around its work.

- A call that does not fit its signature is an OptionError that names the argument and says what is
  taken: hints are checked, so that no typo runs for minutes first.
- Torch is as it comes inside (fence.py). Random states, warning filters and the modes of torch are
  the caller's again afterwards.
- Whatever else is raised comes out as one of the family.
"""

import collections.abc
import inspect
import random
import types
import typing
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, wraps
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch

from timm_repair.errors import (
    DEVICES,
    MemoryExceededError,
    ModelError,
    OptionError,
    RepairError,
    UnexpectedError,
    did_you_mean,
    meant,
)
from timm_repair.runtime.fence import fenced

P = ParamSpec("P")
R = TypeVar("R")

ACCELERATOR = "accelerate.Accelerator(cpu=True), or mixed_precision='bf16' in it"
# what is taken, in words, where the hint's names would say it to few
TAKES = {
    "model": "a timm name, 'hf-hub:user/name', 'local-dir:FOLDER', its path, or a torch.nn.Module,"
    " such as repaired.model",
    "accelerator": "an accelerate.Accelerator, such as Accelerator(cpu=True), or None",
    "data": "timm_repair.DataOptions(…), such as DataOptions(holdout_share=0.3), or None",
    "method": "the name of a method, or an object with a method `repair`",
    "methods": "a list of names or objects, or a dict label -> method",
    "report": "a timm_repair.Report, or None",
    "seed": "an integer from 0 on",
    "severity": "1, 2, 3, 4 or 5",
    "format": "'onnx' or 'torch'",
}
# left by an error that passes: see `pipeline.repairing`
KEPT = ("repaired", "finished")


def public(function: Callable[P, R]) -> Callable[P, R]:
    """A decorator for what users call; see the module's docstring."""
    signature = inspect.signature(function)

    @wraps(function)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        _check_call(function, signature, args, kwargs)
        with as_it_was():
            try:
                return function(*args, **kwargs)
            except OptionError as error:
                error.args = (f"{error}{_argument_meant(error.unknown, signature, kwargs)}",)
                raise
            # a warning that is an error is what its filter asked for
            except (RepairError, Warning):
                raise
            except Exception as error:
                raise of_the_family(error, function.__name__) from error

    return guarded


@contextmanager
def as_it_was() -> Iterator[None]:
    """Global state that the work inside may change is the caller's again afterwards."""
    mine, numbers = random.getstate(), np.random.get_state()
    with (
        torch.random.fork_rng(devices=range(torch.cuda.device_count())),
        fenced(),
        warnings.catch_warnings(),
    ):
        try:
            yield
        finally:
            random.setstate(mine)
            np.random.set_state(numbers)


def of_the_family(error: Exception, where: str) -> RepairError:
    """An error that nobody foresaw, as one of ours; what it carries is kept."""
    said = " ".join(f"{type(error).__name__}: {error}".split())
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        ours: RepairError = MemoryExceededError(
            f"{where}: memory is full ({said:.200}): give a smaller batch_size=, or fewer images"
        )
    else:
        ours = UnexpectedError(
            f"{where}: {said:.400} — raised by the model, the data or a package, and not foreseen;"
            " what raised it is this error's __cause__. If that is none of your own code, please"
            " report it"
        )
    for note in getattr(error, "__notes__", ()):
        ours.add_note(note)
    vars(ours).update({name: value for name, value in vars(error).items() if name in KEPT})
    return ours


def _argument_meant(unknown: str | None, signature: inspect.Signature, given: dict) -> str:
    """What to say of an option that there is none of, where it is an argument misspelled, or the
    device; nothing otherwise.
    """
    if unknown is None or unknown not in given:
        return ""
    own = [name for name, p in signature.parameters.items() if p.kind != p.VAR_KEYWORD]
    if unknown in DEVICES and "accelerator" in own:
        return f". Device and precision are the accelerator's: accelerator={ACCELERATOR}"
    close = meant(unknown, [name for name in own if name not in given])
    return f". Or did you mean the argument {close}=?" if close else ""


def _check_call(
    function: Callable, signature: inspect.Signature, args: tuple, kwargs: dict[str, Any]
) -> None:
    try:
        given = signature.bind(*args, **kwargs).arguments
    except TypeError as error:
        known = [name for name, p in signature.parameters.items() if p.kind != p.VAR_KEYWORD]
        wrong = next((name for name in kwargs if name not in known), None)
        hint = did_you_mean(wrong, known) if wrong else f". It takes {', '.join(known)}"
        raise OptionError(f"{function.__name__}(): {error}{hint}") from None
    hints = _hints(function)
    for name, value in given.items():
        if name in hints and signature.parameters[name].kind not in (
            inspect.Parameter.VAR_KEYWORD,
            inspect.Parameter.VAR_POSITIONAL,
        ):
            require(name, value, hints[name])


@cache
def _hints(function: Callable) -> dict[str, Any]:
    return typing.get_type_hints(function)


def require(name: str, value: Any, hint: Any) -> None:
    """Raise OptionError, of a model ModelError, unless `value` is of the type that `hint` says."""
    if not _fits(value, hint):
        kind = ModelError if name == "model" else OptionError
        raise kind(f"{name}={_shown(name, value)}: must be {_taken(name, hint)}")


def _fits(value: Any, hint: Any) -> bool:
    kind, parts = typing.get_origin(hint) or hint, typing.get_args(hint)
    if kind in (typing.Union, types.UnionType):
        return any(_fits(value, part) for part in parts)
    if kind is typing.Literal:
        return value in parts
    if kind is Any or not isinstance(kind, type) or getattr(kind, "_is_protocol", False):
        return True  # Any, a type variable, a protocol: not for us to tell
    if kind in (int, float):
        numbers = (int, np.integer) if kind is int else (int, float, np.integer, np.floating)
        return isinstance(value, numbers) and not isinstance(value, bool)
    if kind in (tuple, list, collections.abc.Sequence):
        return (
            isinstance(value, list | tuple | collections.abc.Sequence)
            and not isinstance(value, str | bytes)
            and all(_fits(each, parts[0]) for each in (value if parts else ()))
        )
    return isinstance(value, kind)


def _shown(name: str, value: Any) -> str:
    plain = isinstance(value, str | int | float | bool | None) and name != "token"
    return f"{value!r:.80}" if plain else f"<{type(value).__name__}>"


def _taken(name: str, hint: Any) -> str:
    return TAKES.get(name) or _named(hint)


def _named(hint: Any) -> str:
    kind, parts = typing.get_origin(hint) or hint, typing.get_args(hint)
    if kind in (typing.Union, types.UnionType):
        return " or ".join(_named(part) for part in parts)
    if hint is type(None):
        return "None"
    if kind in (tuple, list, collections.abc.Sequence) and parts:
        return f"a list of {_named(parts[0])}"
    return getattr(kind, "__name__", str(kind))
