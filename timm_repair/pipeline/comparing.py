"""compare(): several methods, under one seed or several, on the same data with the same budget."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from torch import nn

from timm_repair.data.options import DataOptions
from timm_repair.data.repair_data import RepairData
from timm_repair.errors import MemoryExceededError, OutputError, RepairError
from timm_repair.hub import saving
from timm_repair.hub.folder import require_apart
from timm_repair.hub.lineage import Base, Lineage
from timm_repair.methods.method import Method
from timm_repair.models.copying import copied
from timm_repair.options import plain
from timm_repair.pipeline import entrants, shelf
from timm_repair.pipeline.case import (
    check_savable,
    context,
    identity,
    load_model,
    run_method,
    working_copy,
)
from timm_repair.pipeline.finished import refuse_another
from timm_repair.pipeline.keeping import kept
from timm_repair.pipeline.protocols import data_of, require_protocol
from timm_repair.pipeline.repaired import Repaired
from timm_repair.pipeline.shared import Shared
from timm_repair.properties import preparing
from timm_repair.properties.sampling import Sampling
from timm_repair.report.comparison import SPLIT, Comparison
from timm_repair.report.rows import Row, Run
from timm_repair.runtime.accelerators import make_accelerator
from timm_repair.runtime.boundary import public
from timm_repair.runtime.journal import Journal
from timm_repair.runtime.processes import require_shares
from timm_repair.runtime.randomness import own_randomness
from timm_repair.runtime.runtime import Runtime

logger = logging.getLogger(__name__)


@public
def compare(
    model: str | PathLike | nn.Module,
    failures: Any,
    *,
    methods: Mapping[str, str | Method] | Sequence[str | Method],
    retain: Any = None,
    passing: Any = None,
    holdout: Any = None,
    protocol: str = SPLIT,
    diagnose: bool = True,
    seed: int = 0,
    seeds: Sequence[int] | None = None,
    accelerator: Accelerator | None = None,
    progress: bool = True,
    data: DataOptions | Sampling | None = None,
    output_dir: str | Path | None = None,
    overwrite: bool = False,
    **options: Any,
) -> Comparison:
    """Run several methods on the same data, from the same model, with the same seeds and `options`
    (the training budget).

    A method that fails is a row with its error; the others go on. Wrong input is refused before any
    long work. On several processes an error that is none of ours, or a full memory, ends the run:
    the other processes would wait.

    Args:
        methods: names or objects, or a dict label -> method to name them yourself.
        protocol: "split", as `repair`; or "paper", for which `failures` is the whole test set, see
            docs/comparing.md.
        seeds: repeat everything under each of these, splits included; None is `seed` alone.
        output_dir: a folder for the comparison, its figure and every repaired model. A run that was
            killed goes on there when called again: rows that were finished are read back, those
            that failed are tried again.
        overwrite: repair anew all the same; what these rows have left there is removed once all
            input is checked.
        options: as for `repair`, like all others; they go to every method given by name.

    Returns:
        One row per method; under one seed the examples measured on are the same for all. Its
        `rows[label].repaired` is the repaired model, or `rows[label].folder` where it is saved.

    Raises:
        RepairError: as `repair`; or two methods under one label. What is done by then is the
            error's attribute `finished`.

    Example:
        >>> print(compare(model, failures, retain=train, methods=["archrepair", "finetune"]))
    """
    require_protocol(protocol, failures, passing)
    rows = entrants.labelled(methods, options)
    chosen = entrants.different(seeds, seed)
    if output_dir is not None:
        roles = {"failures": failures, "retain": retain, "passing": passing, "holdout": holdout}
        require_apart(output_dir, roles)
    target = None if output_dir is None else shelf.check_shelf(output_dir, rows)
    accelerator = accelerator or make_accelerator()
    runtimes = [Runtime(accelerator, each, progress) for each in chosen]
    for method in rows.values():
        require_shares(method.training.batch_size, runtimes[0].accelerator)
    named = isinstance(model, str)
    name, model = load_model(model)
    if target is not None:
        check_savable(model, failures)
    base = Base.of(name, model, loaded=named)
    comparing = _Comparing(rows, protocol, base, model, target)
    if not overwrite:
        comparing.refuse_others(runtimes, preparing.is_property(failures))
    given = failures, retain, holdout, data
    with comparing.kept():
        for index, runtime in enumerate(runtimes):
            with own_randomness(runtime.seed):
                copy = working_copy(model, runtime)
                prepared = data_of(protocol, copy, *given, runtime, passing)
                prepared.provenance["diagnose"] = diagnose
                if index == 0:
                    entrants.require_all_fit(copy, rows, prepared, runtime)
                if index == 0 and overwrite:
                    comparing.clear(runtimes)
                comparing.under(copy, prepared, runtime, diagnose)
    found = comparing.found()
    if target is not None and runtimes[0].accelerator.is_main_process:
        shelf.draw(found, target)
    return found


@dataclass
class _Comparing:
    """A comparison at work.

    Args:
        model: the original, as it was given.
        runs: what is done by now, by label.
    """

    rows: Mapping[str, Method]
    protocol: str
    base: Base
    model: nn.Module
    target: Path | None
    runs: dict[str, list[Run]] = field(default_factory=dict)

    def found(self) -> Comparison:
        """What is done by now."""
        rows = {label: Row(label, tuple(runs)) for label, runs in self.runs.items()}
        return Comparison({k: rows[k] for k in self.rows if k in rows}, self.protocol)

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Whatever ends the run, what is done by then is on the error."""
        try:
            yield
        except BaseException as error:
            if self.runs:
                vars(error)["finished"] = self.found()
                done, where = ", ".join(self.runs), "this error's attribute `finished`"
                error.add_note(f"done before: {done}; their reports are {where}")
            raise

    def refuse_others(self, runtimes: Sequence[Runtime], properties: bool) -> None:
        """Raise OutputError where a folder holds another repair than is asked for, as far as that
        is known before the data are read.
        """
        if self.target is None:
            return
        for runtime in runtimes:
            for label, method in self.rows.items():
                folder = shelf.place(self.target, label, runtime.seed)
                if (report := shelf.done_in(folder, properties=properties)) is not None:
                    refuse_another(report, folder, identity(self.base, method, runtime))

    def clear(self, runtimes: Sequence[Runtime]) -> None:
        """Forget what these rows have left."""
        accelerator = runtimes[0].accelerator
        if self.target is not None and accelerator.is_main_process:
            shelf.clear(self.target, self.rows, [runtime.seed for runtime in runtimes])
        accelerator.wait_for_everyone()

    def under(self, model: nn.Module, data: RepairData, runtime: Runtime, diagnose: bool) -> None:
        """All rows under one seed."""
        about = {"data": plain(data.provenance)}
        done = self._done(data, runtime, about)
        if len(done) == len(self.rows):
            started = None
        else:
            journal = self._journal(runtime, about)
            started = Shared.of(model, data, runtime, about, journal, diagnose=diagnose)
        for label, method in self.rows.items():
            run = done.get(label)
            if run is None:
                assert started is not None, "not all are done"
                run = self._run(label, method, started)
            self.runs.setdefault(label, []).append(run)
            if self.target is not None and runtime.accelerator.is_main_process:
                shelf.write(self.found(), self.target)
        if started is not None and started.journal is not None:
            started.journal.close()

    def _done(self, data: RepairData, runtime: Runtime, about: dict[str, Any]) -> dict[str, Run]:
        """The rows that are finished in the folder, read back."""
        found: dict[str, Run] = {}
        properties = isinstance(data, preparing.PropertyData)
        if self.target is None:
            return found
        for label, method in self.rows.items():
            folder = shelf.place(self.target, label, runtime.seed)
            if (report := shelf.done_in(folder, properties=properties)) is not None:
                refuse_another(report, folder, identity(self.base, method, runtime) | about)
                found[label] = Run(runtime.seed, report, folder=folder)
        if found:
            logger.warning(
                "%s: %d of %d rows of seed %d are finished there, and read back",
                self.target,
                len(found),
                len(self.rows),
                runtime.seed,
            )
        return found

    def _journal(self, runtime: Runtime, about: dict[str, Any]) -> Journal | None:
        """Of what the rows of a seed share."""
        if self.target is None:
            return None
        some = identity(self.base, next(iter(self.rows.values())), runtime)
        same = {name: some[name] for name in some.keys() - {"method", "options"}}
        folder = self.target / f"{shelf.SEED}{runtime.seed}"
        return Journal(folder, same | about, runtime.accelerator)

    def _run(self, label: str, method: Method, started: Shared) -> Run:
        """One repair, or the error that it ended with."""
        runtime, folder = replace(started.runtime, stages=[], shortened={}), None
        if self.target is not None:
            folder = shelf.place(self.target, label, runtime.seed)
            if not isinstance(started.data, preparing.PropertyData):
                saving.check_output(folder)
            run = identity(self.base, method, runtime) | started.about
            runtime.keep(Journal(folder, run, runtime.accelerator))
        try:
            with context(self.base.name, method), own_randomness(runtime.seed):
                repaired = run_method(
                    self.base,
                    self.model,
                    copied(started.model),
                    started.data,
                    started.before,
                    method,
                    runtime,
                    started.evidence,
                )
        except (OutputError, Warning):  # of the disk, and of who asked for errors: not the method's
            raise
        except Exception as error:  # of any kind: others are still to be compared
            several = runtime.accelerator.num_processes > 1
            foreseen = isinstance(error, RepairError) and not isinstance(error, MemoryExceededError)
            if several and not foreseen:
                raise
            logger.warning("%s failed, the others go on (%s)", label, _said(error))
            return Run(runtime.seed, error=_said(error))
        repaired = self._given_back(repaired)
        if folder is None:
            return Run(runtime.seed, repaired.report, repaired=repaired)
        if runtime.accelerator.is_main_process:
            with kept(lambda: repaired, f"saving to {str(folder)!r}", folder):
                repaired.save_pretrained(folder)
        if runtime.journal is not None:
            runtime.journal.close()
        return Run(runtime.seed, repaired.report, folder=folder)

    def _given_back(self, repaired: Repaired) -> Repaired:
        """On the device of the original, and with the way back to it."""
        repaired.model.to(next(self.model.parameters()).device)
        Lineage.between(
            self.base, self.model, repaired.model, repaired.edits, repaired.report
        ).attach(repaired.model)
        return repaired


def _said(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:2000]
