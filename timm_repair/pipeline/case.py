"""What a repair is about: its model, its data, what makes its run the same run; and one run of a
method on it.
"""

import platform
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from timm_repair import methods
from timm_repair.data.options import DataOptions
from timm_repair.data.preparing import prepare
from timm_repair.data.repair_data import RepairData
from timm_repair.errors import NoEffectWarning, RepairError
from timm_repair.hub import entry_point, saving
from timm_repair.hub.lineage import Base
from timm_repair.hub.loading import load
from timm_repair.methods.method import Method
from timm_repair.models.weights import check_finite, fingerprint
from timm_repair.options import plain
from timm_repair.pipeline.measuring import Measured, measure
from timm_repair.pipeline.repaired import Repaired
from timm_repair.properties import answers, checking, networks, preparing
from timm_repair.report.comparison import Comparison
from timm_repair.report.report import Report
from timm_repair.report.scores import Scores
from timm_repair.runtime.runtime import Runtime


def load_model(model: Any) -> tuple[str, nn.Module]:
    """As `loading.load`; files of networks with properties are read too, see `networks.load`."""
    if not networks.is_network_file(model):
        return load(model)
    network = networks.load(model)
    check_finite(network)
    return Path(model).name, network


def check_savable(model: nn.Module, failures: Any) -> None:
    """Raise a RepairError unless what comes of the repair can be saved."""
    if preparing.is_property(failures):
        networks.check_savable(model)
    else:
        saving.check_savable(model)


def read_data(
    model: nn.Module,
    failures: Any,
    retain: Any,
    holdout: Any,
    options: Any,
    runtime: Runtime,
) -> RepairData:
    """The data of a repair: of images, or of properties where `failures` are such."""
    with runtime.stage("prepare"):
        if preparing.is_property(failures):
            return preparing.prepare(
                model, failures, retain=retain, holdout=holdout, options=options, runtime=runtime
            )
        return prepare(
            model,
            failures,
            retain=retain,
            holdout=holdout,
            options=options or DataOptions(),
            runtime=runtime,
        )


def identity(base: Base, data: RepairData, method: Method, runtime: Runtime) -> dict[str, Any]:
    """What makes a run the same run: only then may it continue where another was killed."""
    accelerator, options = runtime.accelerator, methods.options_of(method)
    training = options.get("training")
    if isinstance(training, dict) and training.get("augmentation") == "flips":
        del training["augmentation"]  # runs from before it was an option go on
    return {
        "model": base.sha256,
        "data": plain(data.provenance),
        "method": method.name,
        "options": options,
        "seed": runtime.seed,
        "processes": accelerator.num_processes,
        "versions": versions(),
        "precision": accelerator.mixed_precision,
        "device": runtime.device.type,
        "gradient_accumulation_steps": accelerator.gradient_accumulation_steps,
    }


def working_copy(model: nn.Module, runtime: Runtime) -> nn.Module:
    # channels last: convolutions of small maps run several times faster on CPUs, and no slower
    # elsewhere
    return deepcopy(model).to(runtime.device, torch.float32).to(memory_format=torch.channels_last)


def run_method(
    base: Base,
    model: nn.Module,
    data: RepairData,
    before: Measured,
    method: Method,
    runtime: Runtime,
) -> Repaired:
    """Repair `model`, which is a copy of ours, in place, and report."""
    required = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    optimizers = runtime.accelerator._optimizers
    known = len(optimizers)
    outcome = method.repair(model, data, runtime)
    del optimizers[known:]  # accelerate would keep them, and all their parameters, alive
    model = outcome.model.eval()
    for parameter_name, parameter in model.named_parameters():
        parameter.requires_grad_(required.get(parameter_name, True))
    entry_point.mark(model, outcome.edits)
    after, checked = measure(model, data, runtime), []
    if isinstance(data, preparing.PropertyData):
        answers.restore(model)
        with runtime.stage("evaluate"):
            checked = checking.check(model, data, runtime)
    model.to(memory_format=torch.contiguous_format)
    scores = tuple(
        Scores(p, images.labels, before.answers[p], after.answers[p])
        for p, images in data.holdout.items()
    )
    notes = outcome.notes
    if isinstance(data, preparing.PropertyData):
        notes += data.notes + checking.notes(checked)
    if not data.holdout.keys() - {"failing"}:
        unknown = "what the repair made the model forget is not known; pass retain= or holdout="
        notes += (f"only failures were measured: {unknown}",)
    if all(torch.equal(losses, after.losses[p]) for p, losses in before.losses.items()):
        warnings.warn(
            f"{method.name} changed nothing on the holdout", NoEffectWarning, stacklevel=3
        )
    report = Report(
        method=method.name,
        options=methods.options_of(method),
        model=base.name,
        base=base.to_dict(),
        weights=fingerprint(model.state_dict()),
        scores=scores,
        repaired_blocks=tuple(b.name for b in outcome.repaired),
        blocks=tuple(b.to_dict() for b in outcome.blocks),
        localization=outcome.localization.to_dict() if outcome.localization else None,
        genotypes={name: genotype.to_dict() for name, genotype in outcome.genotypes.items()},
        history=tuple(outcome.history),
        cost={"before": before.cost, "after": after.cost},
        stages=tuple(
            {"name": s.name, "seconds": s.seconds, "peak_memory": s.peak_memory}
            for s in runtime.stages
        ),
        seed=runtime.seed,
        versions=versions(),
        provenance=data.provenance,
        notes=tuple(notes),
        properties=tuple(checked),
    )
    return Repaired(model, report, tuple(outcome.edits), runtime.accelerator.is_main_process)


def versions() -> dict[str, str]:
    """Versions of what the result depends on."""
    packages = ("timm_repair", "torch", "timm", "accelerate", "datasets", "safetensors")
    return {"python": platform.python_version()} | {p: version(p) for p in packages}


@contextmanager
def context(
    name: str, method: Method, finished: Mapping[str, Report] | None = None
) -> Iterator[None]:
    """Add the setting to an error once, and the reports of the methods that were done before it."""
    try:
        yield
    except (RepairError, RuntimeError) as error:
        error.add_note(f"while repairing {name} with {method.name}")
        if finished:
            vars(error)["finished"] = Comparison(finished)
            error.add_note(
                f"done before: {', '.join(finished)}; their reports are this error's attribute"
                " `finished`"
            )
        raise
