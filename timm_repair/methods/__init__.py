"""Repair methods behind one verb: `repair(model, data, runtime) -> Outcome`.

A method is a frozen dataclass of options. Ours are found by name in METHODS; yours is passed as an
object. Copying the model, evaluating, reporting and saving are not its business: `pipeline.repair`
does them once for all.
"""

from dataclasses import fields, is_dataclass
from typing import Any, Protocol

from torch import nn

from timm_repair.data import RepairData
from timm_repair.errors import OptionError, did_you_mean
from timm_repair.methods.archrepair import ArchRepair
from timm_repair.methods.bn_recalibration import BnRecalibration
from timm_repair.methods.finetune import FineTune
from timm_repair.methods.outcome import Outcome
from timm_repair.methods.selecting import Target
from timm_repair.runtime import Runtime
from timm_repair.training import Training

__all__ = [
    "METHODS",
    "ArchRepair",
    "BnRecalibration",
    "FineTune",
    "Method",
    "Outcome",
    "Target",
    "Training",
    "get",
    "options_of",
]


class Method(Protocol):
    """What `pipeline.repair` asks of a method."""

    name: str
    training: Training

    def repair(self, model: nn.Module, data: RepairData, runtime: Runtime) -> Outcome:
        """Repair `model` in place (it is the pipeline's own copy), choosing on `data.selection`;
        `data.holdout` is out of bounds.
        """


METHODS = {"archrepair": ArchRepair, "finetune": FineTune, "bn_recalibration": BnRecalibration}


def get(method: str | Method, **options: Any) -> Method:
    """The method of that name. `options` are its fields, or fields of the option groups it has
    (`Training`, `Target`), flat.

    An object is returned as it is.

    Raises:
        OptionError: unknown name or option, with a suggestion.

    Example:
        >>> get("archrepair", block="layer1", level="layer", steps=500)
    """
    if not isinstance(method, str):
        if options:
            raise OptionError(
                f"options {', '.join(options)} go with a method's name; set them on your object"
                " instead"
            )
        return method
    if method not in METHODS:
        raise OptionError(f"unknown method {method!r}{did_you_mean(method, METHODS)}")
    kind = METHODS[method]
    groups = {f.name: f.default_factory for f in fields(kind) if is_dataclass(f.default_factory)}
    owner = {f.name: None for f in fields(kind)} | {
        f.name: group for group, cls in groups.items() for f in fields(cls)
    }
    own: dict[str, Any] = {}
    grouped: dict[str, dict[str, Any]] = {}
    for option, value in options.items():
        if option not in owner:
            raise OptionError(
                f"method {method!r} has no option {option!r}{did_you_mean(option, owner)}"
            )
        (own if owner[option] is None else grouped.setdefault(owner[option], {}))[option] = value
    for group, values in grouped.items():
        if group in own:
            raise OptionError(f"give either {group}= or {', '.join(values)}, not both")
        own[group] = groups[group](**values)
    return kind(**own)


def options_of(method: Method) -> dict[str, Any]:
    """The method's options as plain JSON, for the report."""

    def plain(value: Any) -> Any:
        if is_dataclass(value):
            return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
        if isinstance(value, tuple | list):
            return [plain(each) for each in value]
        # a repr may hold an address, and would differ from run to run
        return (
            value
            if isinstance(value, (str, int, float, bool, type(None)))
            else getattr(value, "__qualname__", type(value).__qualname__)
        )

    return plain(method) if is_dataclass(method) else {"method": type(method).__qualname__}
