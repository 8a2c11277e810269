"""The prefix cache: while a part of a model is repaired, what arrives there is computed once per example and view, and then read.

Nothing before the part changes, from the first step of the search to the last measurement of the selection split, so one cache serves
all stages. It is filled view by view, always in the same batches: a run that was killed and goes on reads the same bits. What exceeds
the budget is computed again each time. Whether keeping pays at all is decided by FLOPs and bytes (`worthwhile`), never by a clock, for
the same reason.
"""

import logging
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from math import ceil, prod

import torch
from torch import Tensor, nn

from timm_repair.batches import counts
from timm_repair.data import RepairData
from timm_repair.distributed import agreed
from timm_repair.errors import PartitionError
from timm_repair.evaluation import BAR_FROM, Prediction, predict
from timm_repair.examples import SELECTION, Examples, Part
from timm_repair.prefix import Place, arriving, resumes_exactly, starting_at
from timm_repair.runtime import Runtime
from timm_repair.surgery import evaluating
from timm_repair.tracing import trace
from timm_repair.training import INTERPOLATIONS, Training

logger = logging.getLogger(__name__)

BYTE_FLOPS = 16  # moving a byte of a kept map takes about as long as so many FLOPs
LEAST_GAIN = 0.03  # of the cost of the run; below, keeping is not worth its memory
_CHUNK = 256  # examples run at once to fill a view
_GIB = 2**30


@dataclass(frozen=True)
class Demand:
    """How often a run reads the examples of one population.

    Args:
        rows: number of examples.
        views: fixed views of each that are read.
        reads: of an example in one of its views, over the run and all processes.
        flops: per read, of all that is computed with or without a cache.
    """

    name: str
    rows: int
    views: int
    reads: int
    flops: float


@dataclass(frozen=True)
class Costs:
    """FLOPs of one image's forward pass, before the part that is trained, in it, and behind it; bytes of what arrives there.

    A step costs `prefix` + 3 `part` + 2 `suffix`: the prefix takes no gradient, the suffix none for its weights.
    """

    prefix: int
    part: int
    suffix: int
    bytes: int

    @property
    def step(self) -> int:
        """FLOPs of a training step for one example, but for the prefix."""
        return 3 * self.part + 2 * self.suffix

    @property
    def measurement(self) -> int:
        """FLOPs of one forward pass, but for the prefix."""
        return self.part + self.suffix

    def saved(self, demand: Demand, rows: int) -> float:
        """FLOPs that keeping `rows` of its examples saves; the copies count as `BYTE_FLOPS` per byte."""
        reads, entries = demand.reads * rows / demand.rows, demand.views * rows
        return (reads - entries) * self.prefix - (reads + entries) * self.bytes * BYTE_FLOPS


def demands(examples: Examples, data: RepairData, options: Training, costs: Costs) -> list[Demand]:
    """What a repair of `options.steps` steps reads. Fresh augmentations never come again: of those there is no demand."""
    found = []
    for name, count in counts(options, data).items():
        rows, reads = len(examples.populations[name]), count * options.steps
        if count and examples.views is not None:
            found.append(Demand(name, rows, min(examples.views, ceil(reads / rows)), reads, costs.step))
    for name, images in examples.populations.items():
        if name.startswith(SELECTION) and len(images):
            # at the start and on the way, then the mixtures with the original
            found.append(Demand(name, len(images), 1, len(images) * (options.evaluations + 2 + len(INTERPOLATIONS)), costs.measurement))
    return found


def worthwhile(wanted: Iterable[Demand], costs: Costs, budget: int, *, always: bool = False) -> dict[str, int]:
    """How many examples of each population to keep: those first that save most per byte, as long as `budget` bytes last.

    Empty if all together would save less than `LEAST_GAIN` of the run, unless `always`, which keeps whatever fits.
    """
    wanted, kept, saved = list(wanted), {}, 0.0
    for demand in sorted(wanted, key=lambda demand: demand.reads / (demand.rows * demand.views), reverse=True):
        rows = min(demand.rows, budget // (demand.views * costs.bytes))
        gain = costs.saved(demand, rows)
        if rows and (always or gain > 0):
            kept[demand.name] = rows
            budget -= rows * demand.views * costs.bytes
            saved += gain
    whole = sum(demand.reads * (demand.flops + costs.prefix) for demand in wanted)
    return kept if always or saved >= LEAST_GAIN * whole else {}


class Room:
    """Where maps are kept: on the device as long as `memory` bytes last, then in memory-mapped files as long as `disk` bytes do."""

    def __init__(self, memory: int, disk: int, device: torch.device):
        self.memory, self.disk, self.device = memory, disk, device

    def empty(self, rows: int, shape: Sequence[int], dtype: torch.dtype) -> Tensor | None:
        """Uninitialized (rows, *shape); None if there is no room."""
        size = rows * prod(shape) * dtype.itemsize
        if size <= self.memory:
            self.memory -= size
            return torch.empty(rows, *shape, dtype=dtype, device=self.device)
        if size <= self.disk:
            self.disk -= size
            kept = _mapped(size, dtype)
            return None if kept is None else kept.view(rows, *shape)
        return None


def _mapped(size: int, dtype: torch.dtype) -> Tensor | None:
    """A flat tensor in a file that goes when it does, also if the process is killed; None, with a warning, if the disk is full."""
    handle, path = tempfile.mkstemp(prefix="timm_repair-")
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(handle, 0, size)  # a page that finds no room later would kill the process
        else:
            os.truncate(handle, size)
        return torch.from_file(path, shared=True, size=size // dtype.itemsize, dtype=dtype)
    except OSError as error:
        logger.warning("no room for %.1f GiB of the prefix cache in %r (%s): computed anew each time instead; set TMPDIR to a larger "
                       "disk, or cache_disk lower", size / _GIB, tempfile.gettempdir(), error)
        return None
    finally:
        os.close(handle)
        os.unlink(path)


class _Entered(nn.Module):
    """`model` as a function of what arrives at `place`."""

    def __init__(self, model: nn.Module, place: Place):
        super().__init__()
        self.model, self.place = model, place

    def forward(self, arrived: Tensor) -> Tensor:
        with starting_at(self.model, self.place):
            return self.model(arrived)


@dataclass(frozen=True)
class _Layout:
    """How what arrives for one image is kept: maps with their channels last, the order in which convolutions read them."""

    shape: tuple[int, ...]
    arrives: torch.dtype
    kept: torch.dtype

    def pack(self, arrived: Tensor) -> Tensor:
        return (arrived.permute(0, 2, 3, 1) if arrived.ndim == 4 else arrived).to(self.kept)

    def unpack(self, kept: Tensor) -> Tensor:
        return (kept.permute(0, 3, 1, 2) if kept.ndim == 4 else kept).to(self.arrives)

    @property
    def packed(self) -> tuple[int, ...]:
        return (*self.shape[1:], self.shape[0]) if len(self.shape) == 3 else self.shape


class PrefixCache:
    """Runs a model for examples of `examples`, from where its repaired part begins as far as that is kept; made by `prefix_cache`.

    Args:
        kept: population -> number of its first rows that are kept; all else is run from the images. Empty keeps nothing.
        place: where the part begins; needed only if something is kept, as are the next two.
    """

    def __init__(self, model: nn.Module, examples: Examples, runtime: Runtime, kept: Mapping[str, int] | None = None,
                 place: Place | None = None, layout: _Layout | None = None, room: Room | None = None):
        self.model, self.examples, self.runtime = model, examples, runtime
        self.kept, self.place, self.layout, self.room = dict(kept or {}), place, layout, room
        self.entered = None if place is None else _Entered(model, place)
        self.views: dict[tuple[str, int], Tensor | None] = {}

    def logits(self, parts: Sequence[Part], views: Mapping[str, Sequence[int]]) -> Tensor:
        """Logits (n, classes) of this process's examples, with gradients of the part and of what is behind it.

        Args:
            views: population -> the fixed views that any process reads; all processes fill them together.
        """
        if not self.kept.keys() & views:
            return self.model(self.examples.images(*parts))
        for name, needed in views.items():
            self._fill(name, needed)
        return self.entered(torch.cat([self._arrived(part) for part in parts if len(part.rows)]))

    def predict(self, population: str) -> Prediction:
        """As `evaluation.predict`, of a population of the selection split."""
        name = SELECTION + population
        images, preprocessing = self.examples.populations[name], self.examples.preprocessing
        if name not in self.kept:
            return predict(self.model, images, preprocessing, self.runtime)
        self._fill(name, (0,))
        return predict(self.entered, images, preprocessing, self.runtime,
                       inputs=lambda rows: self._arrived(self.examples.view(name, rows, torch.zeros_like(rows))))

    @torch.no_grad()
    def _arrived(self, part: Part) -> Tensor:
        """What arrives for the examples of `part`, (n, …) on the device: read where it was kept, else computed."""
        places, found = [], []
        left = torch.ones(len(part.rows), dtype=torch.bool)
        for view in () if part.views is None else part.views.unique().tolist():
            kept = self.views.get((part.name, view))
            if kept is not None:
                these = ((part.views == view) & (part.rows < len(kept))).nonzero().flatten()
                left[these] = False
                places.append(these)
                read = kept.index_select(0, part.rows[these].to(kept.device))
                found.append(self.layout.unpack(read.to(self.runtime.device, non_blocking=True)))
        if left.any():
            places.append(left.nonzero().flatten())
            found.append(self._computed(part[places[-1]]))
        return found[0] if len(found) == 1 else torch.cat(found)[torch.cat(places).argsort().to(self.runtime.device)]

    def _computed(self, part: Part) -> Tensor:
        with self.runtime.accelerator.autocast():
            return arriving(self.model, [self.place], [self.examples.images(part)])[self.place.path].to(self.layout.arrives)

    @torch.no_grad()
    def _fill(self, name: str, views: Iterable[int]) -> None:
        """Compute what arrives for the kept rows in these views, unless it was; each process a share."""
        for view in views:
            if (name, view) in self.views or name not in self.kept:
                continue
            rows, accelerator = self.kept[name], self.runtime.accelerator
            self.views[name, view] = kept = self.room.empty(rows, self.layout.packed, self.layout.kept)
            if agreed(kept is None, accelerator):
                self.views[name, view] = None
                continue
            share = min(_CHUNK, ceil(rows / accelerator.num_processes))
            with self.runtime.bar(rows, f"prefix of {name}, view {view + 1}") if rows > BAR_FROM else nullcontext() as bar:
                for start in range(0, rows, share * accelerator.num_processes):
                    # equal shares to gather: the last are filled up with the last example
                    mine = (start + accelerator.process_index * share + torch.arange(share)).clamp(max=rows - 1)
                    computed = self.layout.pack(self._computed(self.examples.view(name, mine, torch.full_like(mine, view))))
                    all_shares = accelerator.gather(computed.contiguous())[: rows - start]
                    kept[start : start + len(all_shares)] = all_shares
                    if bar is not None:
                        bar.update(len(all_shares))


def prefix_cache(model: nn.Module, part: nn.Module, data: RepairData, options: Training, runtime: Runtime) -> PrefixCache:
    """A cache of what arrives at `part`, modules of `model` that alone will change; one that keeps nothing where none pays.

    The model may be changed inside `part` afterwards, also replaced there, but nowhere else.
    """
    examples = Examples(data, options, runtime)
    nothing = PrefixCache(model, examples, runtime)
    name, images = next(iter(examples.populations.items()))
    sample = examples.images(Part(name, torch.arange(min(2, len(images))), None, None))
    found = None if options.cache == "never" else _entrance(model, part, sample, runtime)
    if found is None:
        return nothing
    place, layout, flops = found
    if options.cache_precision == "bf16":
        layout = replace(layout, kept=torch.bfloat16)
    costs = Costs(*flops, prod(layout.shape) * layout.kept.itemsize)
    memory, disk = (round(gib * _GIB) for gib in (options.cache_memory, options.cache_disk))
    kept = worthwhile(demands(examples, data, options, costs), costs, memory + disk, always=options.cache == "always")
    return PrefixCache(model, examples, runtime, kept, place, layout, Room(memory, disk, runtime.device)) if kept else nothing


def _entrance(model: nn.Module, part: nn.Module, sample: Tensor, runtime: Runtime) -> tuple[Place, _Layout, tuple[int, int, int]] | None:
    """Where to enter the model for `part`, how that arrives, and the FLOPs before, in and behind the part; None if it cannot be."""
    names = {id(module): name for name, module in model.named_modules()}
    inside = {names[id(module)] for module in part.modules() if id(module) in names}
    try:
        calls = trace(model, tuple(sample.shape[1:]))
    except PartitionError:
        return None
    called = [name for name in inside if name in calls]
    if "" in inside or not called:
        return None
    first = min(called, key=lambda name: calls[name][0].start)
    outermost = [name for name in called if not any(name.startswith(f"{other}.") for other in called)]
    of_part = sum(call.flops for name in outermost for call in calls[name])
    parts = first.split(".")
    with torch.no_grad(), evaluating(model), runtime.accelerator.autocast():
        # a layer beside a shortcut cannot be entered, the unit around it can
        for length in range(len(parts), 0, -1):
            path = ".".join(parts[:length])
            if path not in calls:
                continue
            place = Place.at(path, calls)
            if _changes(model, place, part) or not place.before:
                return None
            if resumes_exactly(model, place, sample):
                arrived = arriving(model, [place], [sample])[path]
                flops = place.flops, of_part, calls[""][0].flops - place.flops - of_part
                return place, _Layout(tuple(arrived.shape[1:]), arrived.dtype, arrived.dtype), flops
    return None


def _changes(model: nn.Module, place: Place, part: nn.Module) -> bool:
    """Whether training `part` changes what arrives at `place`: they may share weights."""
    trained = {id(parameter) for parameter in part.parameters()}
    return any(id(parameter) in trained for path in place.before for parameter in model.get_submodule(path).parameters())
