"""The pipeline: repair() and compare(). Prepare the data, measure, repair a copy, measure the same
examples again, report.

This is the one place where models are copied, the Runtime is made, the global random state is
fenced off and errors get their context.
"""

import platform
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from huggingface_hub import CommitInfo
from torch import nn

from timm_repair import exporting, hub, methods, pushing, saving
from timm_repair.data import DataOptions, RepairData, prepare
from timm_repair.distributed import require_shares
from timm_repair.errors import NoEffectWarning, OptionError, RepairError
from timm_repair.journal import Journal
from timm_repair.lineage import Base, Lineage, fingerprint
from timm_repair.loading import load
from timm_repair.localization import Localization
from timm_repair.measuring import Measured, measure
from timm_repair.methods import Method
from timm_repair.report import Comparison, Report, Scores
from timm_repair.runtime import Runtime, own_randomness
from timm_repair.saved import plain


@dataclass(frozen=True)
class Repaired:
    """A repaired model, a plain timm model in eval mode, and the report of what the repair fixed
    and broke.
    """

    model: nn.Module
    report: Report
    edits: tuple[dict, ...] = ()
    main_process: bool = True  # False on all processes but one: only that one prints and saves

    def save_pretrained(self, save_directory: str | Path, **options: Any) -> Path:
        """Write config.json, model.safetensors, repair.json, the card and the figures; see
        `pushing.save_pretrained`.

        Writes nothing in all processes but the main one.
        """
        if not self.main_process:
            return Path(save_directory)
        return pushing.save_pretrained(self.model, save_directory, report=self.report, **options)

    def push_to_hub(self, repo_id: str, **options: Any) -> CommitInfo | None:
        """Upload them in one commit; see `pushing.push_to_hub`. Does nothing, and returns None, in
        all processes but the main one.
        """
        return (
            pushing.push_to_hub(self.model, repo_id, report=self.report, **options)
            if self.main_process
            else None
        )

    def export(self, path: str | Path, *, format: str = "onnx") -> Path:
        """Write the model as one file that runs without timm_repair; see `exporting.export`."""
        return exporting.export(self.model, path, format=format)


def repair(
    model: str | nn.Module,
    failures: Any,
    *,
    retain: Any = None,
    holdout: Any = None,
    method: str | Method = "archrepair",
    seed: int = 0,
    accelerator: Accelerator | None = None,
    progress: bool = True,
    data: DataOptions | None = None,
    output_dir: str | Path | None = None,
    **options: Any,
) -> Repaired:
    """Repair a trained image classifier on examples it gets wrong. The model given is not changed.

    Args:
        model: a timm name, "hf-hub:…", "local-dir:…" (loaded with pretrained weights), or any
            nn.Module.
        failures: examples the model gets wrong, with their true labels: a datasets.Dataset, a torch
            Dataset, a parquet, csv or json file, an imagefolder directory, a Hub id, or a list of
            (PIL image, label); see `sources.as_images`.
        retain: examples of what the model must not forget, typically its training set, in any of
            these forms. Without it forgetting cannot be measured, and the report says so.
        holdout: examples to measure on, never used otherwise: one dataset, or a dict of named
            populations. Without it a part of the failures and of `retain` is set aside.
        method: a name from `methods.METHODS` or an object; `options` are the named method's fields
            (block=, blocks=, steps=, …).
        seed: every random choice follows from it; on one CPU the same seed gives the same result.
        accelerator: yours, if you have one; it decides device and precision.
        data: how the data are read and split.
        output_dir: where to save, checked first. A run that was killed goes on there, to the same
            bits, when called again.

    Returns:
        The repaired model and its report.

    Raises:
        RepairError: bad input, with the fix in the message; before any long work starts.

    Example:
        >>> repaired = timm_repair.repair("resnet50", failures, retain=train, seed=0)
        >>> print(repaired.report)
        >>> repaired.save_pretrained("out/")
    """
    chosen = methods.get(method, **options)
    target = None if output_dir is None else saving.check_output(output_dir)
    runtime = Runtime(accelerator, seed, progress)
    require_shares(chosen.training.batch_size, runtime.accelerator)
    named = isinstance(model, str)
    name, model = load(model)
    if target is not None:
        saving.check_savable(model)
    original, base, home = (
        model,
        Base.of(name, model, loaded=named),
        next(model.parameters()).device,
    )
    with _context(name, chosen), own_randomness(seed):
        model = _working_copy(model, runtime)
        prepared = _prepare(model, failures, retain, holdout, data, runtime)
        if target is not None:
            runtime.journal = Journal(
                target, _identity(base, prepared, chosen, runtime), runtime.accelerator
            )
        before = Measured(**runtime.once("before", lambda: vars(measure(model, prepared, runtime))))
        repaired = _run(base, model, prepared, before, chosen, runtime)
    repaired.model.to(home)
    Lineage.between(base, original, repaired.model, repaired.edits, repaired.report).attach(
        repaired.model
    )
    if target is not None and runtime.accelerator.is_main_process:
        try:
            repaired.save_pretrained(target)
        except (RepairError, OSError) as error:
            error.repaired = repaired
            error.add_note("the repair itself is done: it is this error's attribute `repaired`")
            raise
        runtime.journal.close()
    return repaired


def compare(
    model: str | nn.Module,
    failures: Any,
    *,
    methods: Mapping[str, Method] | Sequence[str | Method],
    retain: Any = None,
    holdout: Any = None,
    seed: int = 0,
    accelerator: Accelerator | None = None,
    progress: bool = True,
    data: DataOptions | None = None,
    **options: Any,
) -> Comparison:
    """Run several methods on the same data, from the same model, with the same seed and `options`
    (the training budget).

    Args:
        methods: names or objects, or a dict label -> method to name them yourself.
        options: as for `repair`; they go to every method given by name.

    Returns:
        One row per method; the examples measured on are the same for all.

    Raises:
        RepairError: as `repair`; or two methods under one label.
    """
    rows = _labelled(methods, options)
    runtime = Runtime(accelerator, seed, progress)
    for method in rows.values():
        require_shares(method.training.batch_size, runtime.accelerator)
    named = isinstance(model, str)
    name, model = load(model)
    base = Base.of(name, model, loaded=named)
    with own_randomness(seed):
        model = _working_copy(model, runtime)
        prepared = _prepare(model, failures, retain, holdout, data, runtime)
        before = measure(model, prepared, runtime)
    reports = {}
    for label, method in rows.items():
        with _context(name, method, reports), own_randomness(seed):
            reports[label] = _run(
                base, deepcopy(model), prepared, before, method, replace(runtime, stages=[])
            ).report
    return Comparison(reports)


def localize(
    model: str | nn.Module,
    failures: Any,
    retain: Any = None,
    *,
    seed: int = 0,
    accelerator: Accelerator | None = None,
    progress: bool = True,
    data: DataOptions | None = None,
    **options: Any,
) -> Localization:
    """Which block is most suspicious (paper §3.2), without repairing anything.

    Args:
        options: score=, granularity=, top=, threshold=, … see `methods.Target`.

    Example:
        >>> timm_repair.localize("resnet50", failures, train, score="spectrum_gradient").ranking
    """
    chosen = methods.get("archrepair", **options)
    runtime = Runtime(accelerator, seed, progress)
    _, model = load(model)
    with own_randomness(seed):
        model = _working_copy(model, runtime)
        prepared = _prepare(model, failures, retain, None, data, runtime)
        return replace(chosen.target, block=None, blocks=1).choose(
            model, prepared, chosen.training, runtime
        )[2]


def _labelled(
    given: Mapping[str, Method] | Sequence[str | Method], options: dict[str, Any]
) -> dict[str, Method]:
    pairs = given.items() if isinstance(given, Mapping) else [(None, m) for m in given]
    rows = {}
    for label, method in pairs:
        method = methods.get(method, **(options if isinstance(method, str) else {}))
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
    if not isinstance(method, methods.ArchRepair | methods.FineTune):
        return method.name
    target, level = method.target, method.level if isinstance(method, methods.FineTune) else None
    count = (
        f"{target.blocks} {'layer' if level == 'layer' else 'block'}s"
        if target.blocks > 1
        else level
    )
    return " ".join(filter(None, [method.name, "+".join(target.chosen) or count]))


def _prepare(
    model: nn.Module,
    failures: Any,
    retain: Any,
    holdout: Any,
    options: DataOptions | None,
    runtime: Runtime,
) -> RepairData:
    with runtime.stage("prepare"):
        return prepare(
            model,
            failures,
            retain=retain,
            holdout=holdout,
            options=options or DataOptions(),
            runtime=runtime,
        )


def _identity(base: Base, data: RepairData, method: Method, runtime: Runtime) -> dict[str, Any]:
    """What makes a run the same run: only then may it continue where another was killed."""
    accelerator = runtime.accelerator
    return {
        "model": base.sha256,
        "data": plain(data.provenance),
        "method": method.name,
        "options": plain(methods.options_of(method)),
        "seed": runtime.seed,
        "processes": accelerator.num_processes,
        "versions": versions(),
        "precision": accelerator.mixed_precision,
        "device": runtime.device.type,
        "gradient_accumulation_steps": accelerator.gradient_accumulation_steps,
    }


def _working_copy(model: nn.Module, runtime: Runtime) -> nn.Module:
    # channels last: convolutions of small maps run several times faster on CPUs, and no slower
    # elsewhere
    return deepcopy(model).to(runtime.device, torch.float32, memory_format=torch.channels_last)


def _run(
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
    hub.mark(model, outcome.edits)
    after = measure(model, data, runtime)
    model.to(memory_format=torch.contiguous_format)
    scores = tuple(
        Scores(p, images.labels, before.answers[p], after.answers[p])
        for p, images in data.holdout.items()
    )
    notes = outcome.notes
    if not data.holdout.keys() - {"failing"}:
        notes += (
            (
                "only failures were measured: what the repair made the model forget is not known;"
                " pass retain= or holdout="
            ),
        )
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
        blocks=tuple(_plain_block(b) for b in outcome.blocks),
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
    )
    return Repaired(model, report, tuple(outcome.edits), runtime.accelerator.is_main_process)


def _plain_block(block) -> dict[str, Any]:
    return {
        "name": block.name,
        "role": block.role,
        "in_shape": block.in_shape,
        "out_shape": block.out_shape,
        "num_params": block.num_params,
        "flops": block.flops,
        "reason": block.reason,
    }


def versions() -> dict[str, str]:
    """Versions of what the result depends on."""
    packages = ("timm_repair", "torch", "timm", "accelerate", "datasets", "safetensors")
    return {"python": platform.python_version()} | {p: version(p) for p in packages}


@contextmanager
def _context(
    name: str, method: Method, finished: Mapping[str, Report] | None = None
) -> Iterator[None]:
    """Add the setting to an error once, and the reports of the methods that were done before it."""
    try:
        yield
    except (RepairError, RuntimeError) as error:
        error.add_note(f"while repairing {name} with {method.name}")
        if finished:
            error.finished = Comparison(finished)
            error.add_note(
                f"done before: {', '.join(finished)}; their reports are this error's attribute"
                " `finished`"
            )
        raise
