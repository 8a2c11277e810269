"""What a repair is about: its model, its data, what makes its run the same run; and one run of a
method on it.
"""

import platform
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from timm_repair import methods
from timm_repair.data.options import DataOptions
from timm_repair.data.preparing import prepare
from timm_repair.data.repair_data import RepairData
from timm_repair.errors import NoEffectWarning, OptionError
from timm_repair.hub import entry_point, saving
from timm_repair.hub.lineage import Base
from timm_repair.hub.loading import load
from timm_repair.images.preprocessing import told
from timm_repair.methods.method import Method, Outcome
from timm_repair.models.copying import as_given, copied, in_working_form, require_real
from timm_repair.models.temporary import in_float32
from timm_repair.models.weights import check_finite, fingerprint
from timm_repair.pipeline.evidence import Evidence
from timm_repair.pipeline.keeping import kept
from timm_repair.pipeline.measuring import Measured, flow_of, latency, measure, sureness
from timm_repair.pipeline.picturing import pictured
from timm_repair.pipeline.repaired import Repaired
from timm_repair.properties import answers, checking, networks, preparing
from timm_repair.report.report import Report
from timm_repair.report.scores import Scores
from timm_repair.report.wording import listed
from timm_repair.runtime.runtime import Runtime

SHOWN = 3  # loops that a note names


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
    passing: Any = None,
) -> RepairData:
    """The data of a repair: of images, or of properties where `failures` are such."""
    with runtime.stage("prepare"):
        if preparing.is_property(failures):
            if passing is not None:
                raise OptionError("passing= goes with images that fail, not with properties")
            return preparing.prepare(
                model, failures, retain=retain, holdout=holdout, options=options, runtime=runtime
            )
        if not isinstance(options, DataOptions | None):
            raise OptionError(
                f"data={options!r:.80} must be a timm_repair.DataOptions: it tells how images are"
                " read and split"
            )
        return prepare(
            model,
            failures,
            retain=retain,
            passing=passing,
            holdout=holdout,
            options=options or DataOptions(),
            runtime=runtime,
        )


def identity(base: Base, method: Method, runtime: Runtime) -> dict[str, Any]:
    """What makes a run the same run, but for its data: only then may it continue where another was
    killed, and be answered from where it was finished.
    """
    return {
        "model": base.sha256,
        "method": method.name,
        "options": _compared(methods.options_of(method)),
        "seed": runtime.seed,
        "versions": versions(),
        **environment(runtime),
    }


def run_of(report: Report) -> dict[str, Any]:
    """The `identity` of the run that a report is of, and its "data"; of older reports as far as
    they tell it.
    """
    return {
        "model": report.base.get("sha256"),
        "data": report.provenance,
        "method": report.method,
        "options": _compared(report.options),
        "seed": report.seed,
        "versions": report.versions,
        **report.environment,
    }


def _compared(options: dict[str, Any]) -> dict[str, Any]:
    training = options.get("training")
    if not isinstance(training, dict):
        return options
    # runs from before these were options go on
    absent = {"augmentation": "flips", "seconds": None}
    known = {k: v for k, v in training.items() if k not in absent or v != absent[k]}
    return options | {"training": known}


def environment(runtime: Runtime) -> dict[str, Any]:
    """Where a run computes."""
    accelerator = runtime.accelerator
    return {
        "processes": accelerator.num_processes,
        "precision": accelerator.mixed_precision,
        "device": runtime.device.type,
        "gradient_accumulation_steps": accelerator.gradient_accumulation_steps,
    }


def working_copy(model: nn.Module, runtime: Runtime) -> nn.Module:
    """A copy to work on.

    Raises:
        ModelError: it cannot be copied, or has parameters that cannot be trained.
    """
    require_real(model)
    copy = copied(model)
    told(model, copy)
    # channels last: convolutions of small maps run several times faster on CPUs, and no slower
    # elsewhere
    return in_working_form(copy, runtime.device, torch.channels_last)


def run_method(
    base: Base,
    original: nn.Module,
    model: nn.Module,
    data: RepairData,
    before: Measured,
    method: Method,
    runtime: Runtime,
    evidence: Evidence,
    asked: Mapping[str, Any] | None = None,
    images: bool = False,
) -> Repaired:
    """Repair `model`, our copy of the `original`, in place, and report.

    Args:
        asked: what the user called for, for the report.
        images: whether pictures of the holdout are taken.
    """
    required = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    optimizers = runtime.accelerator._optimizers
    known = len(optimizers)
    try:
        outcome = method.repair(model, data, runtime)
    finally:
        del optimizers[known:]  # accelerate would keep them, and all their parameters, alive
    model = outcome.model.eval()
    for parameter_name, parameter in model.named_parameters():
        parameter.requires_grad_(required.get(parameter_name, True))
    entry_point.mark(model, outcome.edits)
    as_given(model, original)  # what is measured is what is given back
    done = _Done(base, model, data, before, method, outcome, runtime, evidence, asked or {})
    where = runtime.journal.folder.parent if runtime.journal else None
    with (
        kept(lambda: done.reported(None), "measuring the repaired model", where),
        in_float32(model),
    ):
        with runtime.stage("evaluate"):
            after = measure(model, data, runtime)
            timed, untimed = latency(working_copy(original, runtime), model, data, runtime)
            checked = done.checked()
            flow, unseen = flow_of(model, outcome, data, runtime)
    model.to(memory_format=torch.contiguous_format)
    if all(torch.equal(losses, after.losses[p]) for p, losses in before.losses.items()):
        warnings.warn(
            f"{method.name} changed nothing on the holdout", NoEffectWarning, stacklevel=3
        )
    repaired = done.reported(after, timed, (*untimed, *unseen), checked, flow)
    wanted = images and repaired.main_process and not isinstance(data, preparing.PropertyData)
    if wanted:
        seen = pictured(data, repaired.report.scores, evidence.pictures)
        repaired = replace(repaired, gallery=seen)
    return repaired


@dataclass(frozen=True)
class _Done:
    """A repair that is done, but for its measurement and its report."""

    base: Base
    model: nn.Module
    data: RepairData
    before: Measured
    method: Method
    outcome: Outcome
    runtime: Runtime
    evidence: Evidence
    asked: Mapping[str, Any]

    def checked(self) -> list[dict[str, Any]]:
        """What holds of the properties, if the data have such; measured on outputs as they were
        given, which the repair may have turned.
        """
        if not isinstance(self.data, preparing.PropertyData):
            return []
        answers.restore(self.model)
        return checking.check(self.model, self.data, self.runtime)

    def reported(
        self,
        after: Measured | None = None,
        timed: dict[str, dict[str, Any]] | None = None,
        untimed: Sequence[str] = (),
        checked: Sequence[dict[str, Any]] = (),
        flow: Mapping[str, list] | None = None,
    ) -> Repaired:
        """The model and its report; None is that of a model that could not be measured."""
        outcome, data, before, runtime = self.outcome, self.data, self.before, self.runtime
        if isinstance(data, preparing.PropertyData):
            answers.restore(self.model)
        measured = {} if after is None else data.holdout
        costs = {"before": before.cost} | ({} if after is None else {"after": after.cost})
        timed = timed or {}
        report = Report(
            method=self.method.name,
            options=methods.options_of(self.method),
            model=self.base.name,
            base=self.base.to_dict(),
            weights=fingerprint(self.model.state_dict()),
            scores=tuple(
                Scores(
                    p,
                    images.labels,
                    before.answers[p],
                    after.answers[p],
                    None if checked else sureness(p, images, before, after),
                )
                for p, images in measured.items()
                if after is not None
            ),
            repaired_blocks=tuple(b.name for b in outcome.repaired),
            blocks=tuple(b.to_dict() for b in outcome.blocks),
            localization=outcome.localization.to_dict() if outcome.localization else None,
            genotypes={name: genotype.to_dict() for name, genotype in outcome.genotypes.items()},
            history=tuple(outcome.history),
            cost={name: costs.get(name, {}) | timed.get(name, {}) for name in costs | timed},
            stages=tuple(
                {"name": s.name, "seconds": s.seconds, "peak_memory": s.peak_memory}
                for s in runtime.stages
            ),
            seed=runtime.seed,
            versions=versions(),
            provenance=data.provenance,
            label_names=data.label_names or (),
            environment=environment(runtime),
            notes=(*self.evidence.notes, *outcome.notes, *self._notes(after, untimed, checked)),
            diagnosis=self.evidence.told,
            properties=tuple(checked),
            asked=dict(self.asked),
            flows=dict(flow or {}),
        )
        main = runtime.accelerator.is_main_process
        return Repaired(self.model, report, tuple(outcome.edits), main)

    def _shortened(self) -> str:
        """What the budget in seconds left out."""
        loops = [
            f"{made:,} of {steps:,} steps of {name!r}"
            for name, (made, steps) in self.runtime.shortened.items()
        ]
        more = f", and so on in {len(loops) - SHOWN} more" if len(loops) > SHOWN else ""
        return (
            f"the time was up (seconds={self.method.training.seconds:g}) after"
            f" {listed(loops[:SHOWN])}{more}: schedules followed the clock, and another run may"
            " come out otherwise"
        )

    def _notes(
        self, after: Measured | None, untimed: Sequence[str], checked: Sequence[dict[str, Any]]
    ) -> list[str]:
        measured = self.before.notes if after is None else (*self.before.notes, *after.notes)
        notes = list(dict.fromkeys((*measured, *untimed)))
        if self.runtime.shortened:
            notes.insert(0, self._shortened())
        kinds = {p.dtype for p in self.model.parameters() if p.is_floating_point()}
        if kinds - {torch.float32}:
            names = ", ".join(sorted(str(kind).removeprefix("torch.") for kind in kinds))
            notes.append(
                f"computed in float32; what was repaired was rounded to {names} at the end"
            )
        if after is None:
            notes.append("the repaired model was not measured: an error came first")
        if isinstance(self.data, preparing.PropertyData):
            notes += (*self.data.notes, *checking.notes(checked))
        if not self.data.holdout.keys() - {"failing"}:
            notes.append(
                "only failures were measured: what the repair made the model forget is not known;"
                " give retained examples, or a holdout"
            )
        kept, held = self.data.retained, self.data.holdout.get("retained")
        images = not isinstance(self.data, preparing.PropertyData)
        if images and kept is not None and held is not None and held.pool is kept.pool:
            notes.append(
                "'retained' is a part of the retained examples that the repair did not train on; if"
                " the original was trained on them, they are no unseen data, and it is better there"
                " than elsewhere: give a holdout of unseen examples to measure what it forgets"
            )
        return notes


def versions() -> dict[str, str]:
    """Versions of what the result depends on."""
    packages = ("timm_repair", "torch", "timm", "accelerate", "datasets", "safetensors")
    return {"python": platform.python_version()} | {p: version(p) for p in packages}


@contextmanager
def context(name: str, method: Method) -> Iterator[None]:
    """Add the setting to an error once."""
    try:
        yield
    except Exception as error:
        error.add_note(f"while repairing {name} with {method.name}")
        raise
