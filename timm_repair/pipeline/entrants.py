"""Entrants: the methods and seeds of a comparison, named and checked."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from timm_repair import methods
from timm_repair.data.repair_data import RepairData
from timm_repair.errors import OptionError, RepairError
from timm_repair.localization.target import Target
from timm_repair.methods import archrepair, finetune, surgical, wise_ft
from timm_repair.methods.method import Method
from timm_repair.runtime.runtime import Runtime
from timm_repair.training.batch_sizes import require_enough


def different(seeds: Sequence[int] | None, seed: int) -> tuple[int, ...]:
    """The seeds of a comparison; `seed` alone where no others are given."""
    chosen = (seed,) if seeds is None else tuple(seeds)
    if not chosen or len(set(chosen)) < len(chosen):
        raise OptionError(f"seeds={list(chosen)} must be different numbers, at least one")
    return chosen


def require_all_fit(
    model: nn.Module, rows: Mapping[str, Method], data: RepairData, runtime: Runtime
) -> None:
    """`require_fit` of every row; the error says of which."""
    for label, method in rows.items():
        try:
            require_fit(model, method, data, runtime)
        except RepairError as error:
            error.add_note(f"asked for by {label!r}")
            raise


def require_fit(model: nn.Module, method: Method, data: RepairData, runtime: Runtime) -> None:
    """Raise a RepairError where it is known before any work that a method cannot be carried out:
    too small a batch, or a block that the model does not have.
    """
    size, processes = data.preprocessing.input_size, runtime.accelerator.num_processes
    require_enough(model, size, method.training, processes)
    _require_known(model, method, size)


def _require_known(model: nn.Module, method: Method, size: tuple[int, ...]) -> None:
    """Raise a RepairError where a method, or the one it is about, names what the model lacks."""
    if isinstance(method, wise_ft.WiseFT):
        return _require_known(model, method.inner, size)
    if isinstance(method, surgical.Surgical) and method.candidates is not None:
        method.candidates_of(model, size)
    target = getattr(method, "places", getattr(method, "target", None))
    if isinstance(target, Target) and (target.chosen or target.blocks is not None):
        target.among(model, size)


def labelled(
    given: Mapping[str, str | Method] | Sequence[str | Method],
    options: Mapping[str, Any] | None = None,
) -> dict[str, Method]:
    """Label -> method; those given by name are made with the `options`.

    Raises:
        OptionError: no method, or two under one label.
    """
    if not given:
        raise OptionError(
            f"methods is empty: give at least one of {', '.join(methods.METHODS)}, or an object"
        )
    pairs = given.items() if isinstance(given, Mapping) else [(None, m) for m in given]
    rows = {}
    for label, method in pairs:
        method = methods.named(method, **(options or {} if isinstance(method, str) else {}))
        label = label or _label(method)
        if label in rows:
            raise OptionError(
                f"two methods are called {label!r}: give compare() a dict label -> method"
            )
        rows[label] = method
    return rows


def _label(method: Method) -> str:
    """ "finetune network", "archrepair layer1+layer2", "finetune 2 layers", …: the name, and what
    tells it from its siblings.
    """
    if not isinstance(method, archrepair.ArchRepair | finetune.FineTune):
        return method.name
    target, level = method.target, method.level if isinstance(method, finetune.FineTune) else None
    count = (
        f"{target.blocks} {'layer' if level == 'layer' else 'block'}s" if target.several else level
    )
    return " ".join(filter(None, [method.name, "+".join(target.chosen) or count]))
