"""Every error timm_repair raises on purpose, one family. Each message says what is wrong and what
to do about it.

Catch `RepairError` for all of them; the second base class lets code that knows nothing of
timm_repair catch them too.
"""

import difflib
from collections.abc import Iterable
from importlib import import_module
from importlib.util import find_spec

# what options and arguments are called in other programs
ELSEWHERE = {
    "lr": ("learning_rate",),
    "wd": ("weight_decay",),
    "bs": ("batch_size",),
    "epochs": ("steps",),
    "iterations": ("steps",),
    "out": ("output", "output_dir"),
    "output": ("output_dir",),
    "output_dir": ("output",),
    "val": ("holdout",),
    "test": ("holdout",),
    "train": ("retain",),
}
DEVICES = {"device", "gpu", "gpus", "cpu", "cuda", "fp16", "bf16", "amp"}  # accelerate's


class RepairError(Exception):
    """Base of the family."""


class OptionError(RepairError, ValueError):
    """An option, or the name of a method, scorer or strategy, is unknown or out of range."""

    unknown: str | None = None  # the option that there is none of, where that is what is wrong


class DataError(RepairError, ValueError):
    """The failures, the retained data or the holdout cannot be used as they are."""


class LabelError(DataError):
    """Labels outside the model's classes, missing, or named in a way that matches none of them."""


class NoFailuresError(DataError):
    """There is nothing to repair: no example given, or none that the model gets wrong."""


class PropertyError(DataError):
    """A property or a network's file is malformed, or the two do not fit together; the message has
    the line or the box.
    """


class ModelError(RepairError, ValueError):
    """The model cannot be loaded (no such name, folder or repository), copied or run, or does not
    say how its images are prepared.
    """


class PartitionError(RepairError, ValueError):
    """The model has no block that can be repaired, or a block named by hand does not exist."""


class NonFiniteError(RepairError, ArithmeticError):
    """Weights, logits or a loss are NaN or infinite."""


class MemoryExceededError(RepairError, MemoryError):
    """Not even the smallest piece of work fits in the memory of the accelerator or of the host."""


class OutputError(RepairError, OSError):
    """The output directory cannot be written, or holds something that would be lost."""


class ResumeError(RepairError, RuntimeError):
    """An unfinished run cannot be continued: it is another one, or its checkpoint is damaged."""


class ConfigError(RepairError, ValueError):
    """A saved repair is damaged, was changed by hand, or was written by a newer version."""


class HubError(RepairError, OSError):
    """The Hub cannot be reached, does not have what was asked for, or does not let this user have
    it.
    """


class UnexpectedError(RepairError, RuntimeError):
    """Something was raised that nobody foresaw, by the model, the data or a package; it is the
    `__cause__`.
    """


class MissingPackageError(RepairError, ImportError):
    """What was asked for needs a package that timm_repair installs as an extra only."""


class NoEffectWarning(UserWarning):
    """A repair changed nothing: the repaired model answers exactly as the original does."""


class AssumptionWarning(UserWarning):
    """Something was assumed that the model or the data do not say; the message says how to say
    it.
    """


def require_packages(extra: str, what: str, *packages: str) -> None:
    """Check, before any work, that the packages (names to import) of an extra are installed and can
    be imported; `what` needs them.

    Raises:
        MissingPackageError: those that are not there, and the command that installs them; or why
            one that is there does not work.
    """
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        raise MissingPackageError(
            f"{what} needs {', '.join(missing)}, not installed here: pip install"
            f" 'timm_repair[{extra}]'",
            name=missing[0],
        )
    for package in packages:
        try:
            import_module(package)
        except Exception as error:
            said = " ".join(f"{type(error).__name__}: {error}".split())
            raise MissingPackageError(
                f"{what} needs {package}, which is installed but cannot be imported ({said:.300}):"
                f" pip install --force-reinstall 'timm_repair[{extra}]'",
                name=package,
            ) from error


def meant(name: str, known: Iterable[str]) -> str | None:
    """Which of `known` was meant by `name`: what it is called here, or what is written alike."""
    known = sorted(known)
    ours = [each for each in ELSEWHERE.get(name, ()) if each in known]
    return next(iter(ours or difflib.get_close_matches(name, known, n=1)), None)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`"; did you mean 'x'? Known: …"`, to be appended to the message of an error about `name`."""
    known = sorted(known)
    close = meant(name, known)
    hint = f"; did you mean {close!r}?" if close is not None else ";"
    return f"{hint} Known: {', '.join(known)}"
