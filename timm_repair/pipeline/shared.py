"""Shared: what all rows of a comparison have in common under one seed."""

from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from timm_repair.data.repair_data import RepairData
from timm_repair.pipeline.evidence import Evidence, looked_at
from timm_repair.pipeline.measuring import Measured, measure
from timm_repair.runtime.journal import Journal
from timm_repair.runtime.runtime import Runtime


@dataclass(frozen=True)
class Shared:
    """What every row starts from.

    Args:
        model: a working copy of the original, of which each row takes its own.
        before: the answers of the original.
        about: the data's part of what makes a run the same run.
        journal: where `before` and the diagnosis are noted; None notes nothing.
    """

    model: nn.Module
    data: RepairData
    before: Measured
    evidence: Evidence
    runtime: Runtime
    about: dict[str, Any]
    journal: Journal | None = None

    @classmethod
    def of(
        cls,
        model: nn.Module,
        data: RepairData,
        runtime: Runtime,
        about: dict[str, Any],
        journal: Journal | None,
        *,
        diagnose: bool,
    ) -> "Shared":
        """Ask the original, and what the failures have in common; or read it from the journal."""
        own = replace(runtime, journal=journal)
        with own.stage("evaluate"):
            before = Measured(**own.once("before", lambda: vars(measure(model, data, own))))
        data, evidence = looked_at(model, data, own, asked=diagnose)
        if evidence.told is not None:
            once = "the failures were diagnosed once, for all rows: that is in none of their times"
            evidence = replace(evidence, notes=(*evidence.notes, once))
        return cls(model, data, before, evidence, runtime, about, journal)
