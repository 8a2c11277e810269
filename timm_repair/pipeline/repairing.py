"""repair(): prepare the data, measure, repair a copy, measure the same examples again, report.

Here and in comparing.py the Runtime is made and the global random state is fenced off.
"""

from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from torch import nn

from timm_repair import methods
from timm_repair.data.options import DataOptions
from timm_repair.hub import saving
from timm_repair.hub.folder import require_apart
from timm_repair.hub.lineage import Base, Lineage
from timm_repair.methods.method import Method
from timm_repair.options import plain
from timm_repair.pipeline.asking import asking
from timm_repair.pipeline.case import (
    check_savable,
    context,
    identity,
    load_model,
    read_data,
    run_method,
    working_copy,
)
from timm_repair.pipeline.entrants import require_fit
from timm_repair.pipeline.evidence import looked_at
from timm_repair.pipeline.finished import answered, finished, refuse_another
from timm_repair.pipeline.keeping import kept
from timm_repair.pipeline.measuring import Measured, measure
from timm_repair.pipeline.repaired import Repaired
from timm_repair.properties.sampling import Sampling
from timm_repair.runtime.accelerators import make_accelerator
from timm_repair.runtime.boundary import public
from timm_repair.runtime.journal import Journal
from timm_repair.runtime.processes import require_shares
from timm_repair.runtime.randomness import own_randomness
from timm_repair.runtime.runtime import Runtime


@public
def repair(
    model: str | PathLike | nn.Module,
    failures: Any,
    *,
    retain: Any = None,
    passing: Any = None,
    holdout: Any = None,
    method: str | Method = "archrepair",
    diagnose: bool = True,
    seed: int = 0,
    accelerator: Accelerator | None = None,
    progress: bool = True,
    data: DataOptions | Sampling | None = None,
    output_dir: str | Path | None = None,
    overwrite: bool = False,
    images: bool = True,
    **options: Any,
) -> Repaired:
    """Repair a trained image classifier on examples it gets wrong. The model given is not changed.

    Args:
        model: a timm name, "hf-hub:…", "local-dir:…" (loaded with pretrained weights), or any
            nn.Module; with a property also the name of a .nnet or .onnx file.
        failures: examples the model gets wrong, with their true labels: a datasets.Dataset, a torch
            Dataset, a parquet, csv or json file, an imagefolder directory, a Hub id, or a list of
            (PIL image, label); see `sources.as_images`. Or what a network must not do: a
            `Property`, the name of a VNN-LIB file, or a list of these.
        retain: examples of what the model must not forget, typically its training set, in any of
            these forms. Without it forgetting cannot be measured, and the report says so.
        passing: examples of the failing population that the model gets right, in any of these
            forms; those it gets wrong are left out. None takes those that `collect_failures` gave
            with the failures. They are trained on with the failures in their natural proportion,
            which is the failures' `error_rate` where it is known, else their share of both.
        holdout: examples to measure on, never used otherwise: one dataset, or a dict of named
            populations. Without it a part of the failures, of `passing` and of `retain` is set
            aside.
        method: a name from `METHODS` or an object; `options` are the named method's fields
            (block=, blocks=, steps=, …).
        diagnose: first ask what the failures have in common, as `timm_repair.diagnose` does; if it
            is a corruption, train on retained examples seen through it too.
        seed: every random choice follows from it; on one CPU the same seed gives the same result.
        accelerator: yours, if you have one; it decides device and precision.
        data: how the data are read and split; a `Sampling` with a property.
        output_dir: where to save, checked first. A run that was killed goes on there, to the same
            bits, when called again; one that was finished is answered from there, and another one
            is refused.
        overwrite: repair anew all the same, and replace what is in `output_dir` at the end.
        images: whether small pictures of what was fixed and broken are taken for the page that
            shows the repair, see `Repaired.to_html`. They stay on this machine.

    Returns:
        The repaired model and its report.

    Raises:
        RepairError: bad input, with the fix in the message; before any long work starts. Where the
            result could not be saved, it is the error's attribute `repaired`.

    Example:
        >>> repaired = timm_repair.repair("resnet50", failures, retain=train, seed=0)
        >>> print(repaired.report)
        >>> repaired.save_pretrained("out/")
    """
    chosen = methods.named(method, **options)
    roles = {"failures": failures, "retain": retain, "passing": passing, "holdout": holdout}
    how = {"method": method, "seed": seed, "diagnose": diagnose}
    asked = asking({"model": model} | roles | how, data, options)
    if output_dir is not None:
        require_apart(output_dir, roles)
    target = None if output_dir is None else saving.check_output(output_dir)
    runtime = Runtime(accelerator or make_accelerator(), seed, progress)
    require_shares(chosen.training.batch_size, runtime.accelerator)
    named = isinstance(model, str)
    name, model = load_model(model)
    if target is not None:
        check_savable(model, failures)
    original = model
    base = Base.of(name, model, loaded=named)
    run = identity(base, chosen, runtime)
    done = None if target is None or overwrite else finished(target)
    with context(name, chosen), own_randomness(seed):
        if target is not None and done is not None:
            refuse_another(done, target, run)
        model = working_copy(model, runtime)
        prepared = read_data(model, failures, retain, holdout, data, runtime, passing)
        prepared.provenance["diagnose"] = diagnose  # another run without
        run |= {"data": plain(prepared.provenance)}
        if target is not None and done is not None:
            return answered(target, done, run, base, original, runtime)
        require_fit(model, chosen, prepared, runtime)
        if target is not None:
            runtime.keep(Journal(target, run, runtime.accelerator))
        with runtime.stage("evaluate"):
            before = Measured(
                **runtime.once("before", lambda: vars(measure(model, prepared, runtime)))
            )
        pictures = images and runtime.accelerator.is_main_process
        prepared, evidence = looked_at(model, prepared, runtime, asked=diagnose, images=pictures)
        repaired = run_method(
            *(base, original, model, prepared, before, chosen, runtime, evidence),
            asked=asked,
            images=pictures,
        )
    return _handed_over(repaired, base, original, target, runtime)


def _handed_over(
    repaired: Repaired, base: Base, original: nn.Module, target: Path | None, runtime: Runtime
) -> Repaired:
    """On the device of the original, with the way back to it; saved where that was asked for."""
    with kept(lambda: repaired, "giving back the repaired model", target):
        repaired.model.to(next(original.parameters()).device)
        known = Lineage.between(base, original, repaired.model, repaired.edits, repaired.report)
        replace(known, gallery=repaired.gallery).attach(repaired.model)
    if target is not None and runtime.accelerator.is_main_process:
        with kept(lambda: repaired, f"saving to {str(target)!r}", target):
            repaired.save_pretrained(target)
        if runtime.journal is not None:
            runtime.journal.close()
    return repaired
