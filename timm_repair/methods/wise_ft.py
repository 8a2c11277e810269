"""WiSE-FT (Wortsman et al., CVPR 2022): the weights between the original ones and those of another
repair, with batch-norm statistics that belong to them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, cast

from torch import nn

from timm_repair.architecture.cell import Cell, added_operations, build
from timm_repair.data.repair_data import RepairData
from timm_repair.errors import OptionError
from timm_repair.methods.method import Method, Outcome
from timm_repair.models.block import Block
from timm_repair.models.copying import copied
from timm_repair.models.surgery import extract, restore, swap
from timm_repair.models.weights import State, own_copy, same_value
from timm_repair.options import by_name, check_types
from timm_repair.runtime.runtime import Runtime
from timm_repair.training.interpolation import interpolate
from timm_repair.training.job import Job
from timm_repair.training.options import Training


@dataclass(frozen=True, kw_only=True)
class WiseFT:
    """Repair by another method, then go back the share of the way that the selection split prefers.

    Args:
        of: the other method, a name from `METHODS` or an object.
        options: of the method named, but for those of `Training`, which are given here.
        grid: tried are the shares 0, 1 / grid, …, 1.
        recalibration: batches that renew the statistics of batch norms at each share between 0 and
            1; what is between two means and variances belongs to neither weights.
        training: of an object its own.
    """

    of: str | Method = "finetune"
    options: Mapping[str, Any] = field(default_factory=dict)
    grid: int = 10
    recalibration: int = 10
    training: Training = field(default_factory=Training)
    name: ClassVar[str] = "wise_ft"
    paper: ClassVar[str] = (
        "Mitchell Wortsman et al., Robust fine-tuning of zero-shot models, CVPR 2022,"
        " arXiv:2109.01903"
    )
    # filled by the package: methods do not know each other
    table: ClassVar[Mapping[str, Any]] = {}

    def __post_init__(self):
        check_types(self)
        if self.grid < 1 or self.recalibration < 0:
            raise OptionError("grid must be at least 1, recalibration must not be negative")
        if not isinstance(self.options, Mapping):
            raise OptionError(
                f"options={self.options!r:.80} must be a dict of options of {self.of}"
            )
        inner = self.inner
        if getattr(inner, "mode", None) == "replace":
            raise OptionError(
                "nothing lies between a layer and what replaces it: leave out mode='replace'"
            )
        if not isinstance(self.of, str):
            if self.training not in (Training(), inner.training):
                raise OptionError(f"the training is that of {inner.name}: set it on your object")
            object.__setattr__(self, "training", inner.training)

    @property
    def inner(self) -> Method:
        """The method that repairs."""
        given = {"training": self.training} if isinstance(self.of, str) else {}
        return by_name("method", self.of, self.table, contract=Method, **given, **self.options)

    def repair(self, model: nn.Module, data: RepairData, runtime: Runtime) -> Outcome:
        before, inner = copied(model), self.inner
        outcome = inner.repair(model, data, runtime)
        part, original = _part(outcome.model, outcome), _original(before, outcome)
        if all(same_value(original[name], value) for name, value in part.state_dict().items()):
            # nor are statistics renewed, which would be another repair
            return replace(outcome, notes=(*outcome.notes, f"{inner.name} left nothing to go back"))
        job = Job(outcome.model, data, self.training, runtime)
        path: dict[float, float] = {}
        with runtime.stage("interpolate"):
            share = interpolate(
                job,
                part,
                original,
                shares=[step / self.grid for step in range(1, self.grid)],
                batches=self.recalibration,
                path=path,
            )
        told = ", ".join(f"{each:g}: {path[each]:.4f}" for each in sorted(path))
        notes = (
            *outcome.notes,
            f"{share:.0%} of the way from the original weights to those of {inner.name} was best on"
            f" the selection split; its objective by share: {told}",
        )
        if not share:
            outcome = _plain(outcome)
        return replace(outcome, notes=notes)


def _edited(outcome: Outcome) -> list[Block]:
    """The blocks to which paths were added."""
    genotypes = outcome.genotypes
    return [b for b in outcome.repaired if b.name in genotypes and genotypes[b.name].edges]


def _part(model: nn.Module, outcome: Outcome) -> nn.Module:
    """What was repaired, as one module; of a block that was exchanged what stands in its place."""
    if not outcome.repaired:
        return model
    edited = {block.name for block in _edited(outcome)}
    paths = [p for b in outcome.repaired for p in (b.paths[:1] if b.name in edited else b.paths)]
    return nn.ModuleList(model.get_submodule(path) for path in paths)


def _original(before: nn.Module, outcome: Outcome) -> State:
    """State of the repaired part that computes what it did before: added paths with gains of
    zero, and with the operations that were found.

    Args:
        before: a copy of the model as it came; it is changed.
    """
    for block in _edited(outcome):
        swap(before, block, build(outcome.genotypes[block.name], extract(before, block)))
    state = _part(before, outcome).state_dict()
    part = _part(outcome.model, outcome)
    present = part.state_dict()
    found = tuple(
        f"{path}.{own}"
        for path, module in part.named_modules()
        if isinstance(module, Cell) and path.count(".") == 1  # not one of an earlier repair
        for own in added_operations(module)
    )
    return {
        name: own_copy(value if name.startswith(found) else state[name]).to(value.device)
        for name, value in present.items()
    }


def _plain(outcome: Outcome) -> Outcome:
    """The same with blocks as they came, since nothing of the added paths is used."""
    genotypes = dict(outcome.genotypes)
    for block in _edited(outcome):
        cell = cast(Cell, extract(outcome.model, block))
        restore(outcome.model, block, cell.unwrapped())
        genotypes[block.name] = replace(genotypes[block.name], edges=())
    return replace(outcome, genotypes=genotypes)
