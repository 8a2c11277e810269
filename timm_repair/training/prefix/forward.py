"""Forward: a model's answers while a part of it is repaired. What arrives at the part (its prefix)
is computed once per example and view, and then read; where nothing is kept, it is the plain model.

Nothing before the part changes, from the first step of the search to the last measurement of the
selection split, so one cache serves all stages. It is filled view by view, always in the same
batches: a run that was killed and goes on reads the same bits. What exceeds the budget is computed
again each time.
"""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from math import ceil, prod

import torch
from accelerate.utils import gather_object
from torch import Tensor, nn

from timm_repair.data.predicting import BAR_FROM, Prediction, predict
from timm_repair.data.repair_data import RepairData
from timm_repair.errors import PartitionError
from timm_repair.models.entering import AT_ONCE, Entered, Place, arriving, resumes_exactly
from timm_repair.models.tracing import trace
from timm_repair.runtime.processes import gathered
from timm_repair.runtime.runtime import Runtime
from timm_repair.training.options import Training
from timm_repair.training.populations import SELECTION, Populations, Sample
from timm_repair.training.prefix.costs import Costs, demands, worthwhile
from timm_repair.training.prefix.room import GIB, Room


@dataclass(frozen=True)
class _Layout:
    """How what arrives for one image is kept: maps with their channels last, the order in which
    convolutions read them.
    """

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


class Forward:
    """Runs a model for examples of `examples`, from where its repaired part begins as far as that
    is kept; made by `forward_from`.

    Args:
        kept: population -> number of its first rows that are kept; all else is run from the images.
            Empty keeps nothing.
        place: where the part begins; needed only if something is kept, as are the next two.
    """

    def __init__(
        self,
        model: nn.Module,
        examples: Populations,
        runtime: Runtime,
        kept: Mapping[str, int] | None = None,
        place: Place | None = None,
        layout: _Layout | None = None,
        room: Room | None = None,
    ):
        self.model, self.examples, self.runtime = model, examples, runtime
        self.kept, self.place, self.layout, self.room = dict(kept or {}), place, layout, room
        self.entered = None if place is None else Entered(model, place)
        self.views: dict[tuple[str, int], Tensor | None] = {}

    def logits(self, samples: Sequence[Sample], views: Mapping[str, Sequence[int]]) -> Tensor:
        """Logits (n, classes) of this process's examples, with gradients of the part and of what is
        behind it.

        Args:
            views: population -> the fixed views that any process reads; all processes fill them
                together.
        """
        if not self.kept.keys() & views:
            return self.model(self.examples.images(*samples))
        for name, needed in views.items():
            for view in needed:
                self._fill(name, view)
        assert self.entered is not None, "what is kept has a place"
        return self.entered(
            torch.cat([self.arrived(sample) for sample in samples if len(sample.rows)])
        )

    def predict(self, population: str) -> Prediction:
        """As `predicting.predict`, of a population of the selection split."""
        name = SELECTION + population
        images, preprocessing = self.examples.populations[name], self.examples.preprocessing
        if name not in self.kept:
            return predict(self.model, images, preprocessing, self.runtime)
        self._fill(name, 0)
        assert self.entered is not None, "what is kept has a place"
        return predict(
            self.entered,
            images,
            preprocessing,
            self.runtime,
            inputs=lambda rows: self.arrived(
                self.examples.view(name, rows, torch.zeros_like(rows))
            ),
        )

    def keeps(self, sample: Sample) -> Tensor:
        """(n,) bool: for which of its examples what arrives is read, and not their image."""
        return sample.rows < (0 if sample.views is None else self.kept.get(sample.name, 0))

    @torch.no_grad()
    def arrived(self, sample: Sample) -> Tensor:
        """What arrives for the examples of `sample`, (n, …) on the device: read where it was kept,
        else computed.
        """
        places, found, read, views = [], [], self.keeps(sample), sample.views
        for view in views[read].unique().tolist() if views is not None and read.any() else ():
            these = (read & (views == view)).nonzero().flatten()
            kept = self.views[sample.name, view]
            if kept is None:
                read[these] = False
                continue
            assert self.layout is not None, "what is kept has a layout"
            places.append(these)
            rows = kept.index_select(0, sample.rows[these].to(kept.device))
            found.append(self.layout.unpack(rows.to(self.runtime.device, non_blocking=True)))
        if not read.all():
            places.append((~read).nonzero().flatten())
            found.append(self._computed(sample[places[-1]]))
        return (
            found[0]
            if len(found) == 1
            else torch.cat(found)[torch.cat(places).argsort().to(self.runtime.device)]
        )

    def _computed(self, sample: Sample) -> Tensor:
        assert self.place is not None and self.layout is not None, "only where some are kept"
        with self.runtime.accelerator.autocast():
            return arriving(self.model, [self.place], [self.examples.images(sample)])[
                self.place.path
            ].to(self.layout.arrives)

    @torch.no_grad()
    def _fill(self, name: str, view: int) -> None:
        """Compute what arrives for the kept rows in this view, unless it was; each process a
        share.
        """
        if (name, view) in self.views or name not in self.kept:
            return
        rows, runtime, accelerator = self.kept[name], self.runtime, self.runtime.accelerator
        layout, room = self.layout, self.room
        assert layout is not None and room is not None, "only where some are kept"
        kept = room.empty((name, view), (rows, *layout.packed), layout.kept)
        # a disk may be full for one process and not for another
        fits = all(gather_object([kept is not None]))
        self.views[name, view] = kept if fits else None

        def computed(these: Tensor) -> Tensor:
            return layout.pack(
                self._computed(self.examples.view(name, these, torch.full_like(these, view)))
            ).contiguous()

        share = min(AT_ONCE, ceil(rows / accelerator.num_processes))
        with (
            runtime.bar(rows, f"prefix of {name}, view {view + 1}")
            if rows > BAR_FROM
            else nullcontext()
        ) as bar:
            for start in range(0, rows if fits else 0, share * accelerator.num_processes):
                # equal shares to gather: the last are filled up with the last example
                mine = (start + accelerator.process_index * share + torch.arange(share)).clamp(
                    max=rows - 1
                )
                found = gathered(torch.cat(list(runtime.in_batches(computed, mine))), accelerator)[
                    : rows - start
                ]
                assert kept is not None, "as it fits"
                kept[start : start + len(found)] = found
                if bar is not None:
                    bar.update(len(found))


def forward_from(
    model: nn.Module, part: nn.Module, data: RepairData, training: Training, runtime: Runtime
) -> Forward:
    """A cache of what arrives at `part`, modules of `model` that alone will change; one that keeps
    nothing where none pays.

    The model may be changed inside `part` afterwards, also replaced there, but nowhere else.
    """
    examples = Populations(data, training, runtime)
    nothing = Forward(model, examples, runtime)
    if training.caching.cache == "never":
        return nothing
    name, images = next(iter(examples.populations.items()))
    sample = examples.images(Sample(name, torch.arange(min(2, len(images))), None, None))
    found = _entrance(model, part, sample, runtime)
    if found is None:
        return nothing
    place, layout, flops = found
    if training.caching.cache_precision != "same":
        layout = replace(
            layout,
            kept={"bf16": torch.bfloat16, "fp16": torch.float16}[training.caching.cache_precision],
        )
    costs = Costs(*flops, prod(layout.shape) * layout.kept.itemsize)
    memory, disk = (
        round(gib * GIB) for gib in (training.caching.cache_memory, training.caching.cache_disk)
    )
    wanted = {demand.name: demand for demand in demands(examples, data, training, costs)}
    kept = worthwhile(
        wanted.values(), costs, memory + disk, always=training.caching.cache == "always"
    )
    sizes = {
        (name, view): rows * costs.bytes
        for name, rows in kept.items()
        for view in range(wanted[name].views)
    }
    return (
        Forward(
            model, examples, runtime, kept, place, layout, Room(memory, disk, runtime.device, sizes)
        )
        if kept
        else nothing
    )


def _entrance(
    model: nn.Module, part: nn.Module, sample: Tensor, runtime: Runtime
) -> tuple[Place, _Layout, tuple[int, int, int]] | None:
    """Where to enter the model for `part`, how that arrives, and the FLOPs before, in and behind
    the part; None if it cannot be.
    """
    names = {id(module): name for name, module in model.named_modules()}
    inside = {names[id(module)] for module in part.modules() if id(module) in names}
    if "" in inside:  # the whole network has nothing before it
        return None
    try:
        calls = trace(model, tuple(sample.shape[1:]))
    except PartitionError:
        return None
    called = [name for name in inside if name in calls]
    if not called:
        return None
    first = min(called, key=lambda name: calls[name][0].start)
    outermost = [
        name for name in called if not any(name.startswith(f"{other}.") for other in called)
    ]
    of_part = sum(call.flops for name in outermost for call in calls[name])
    parts = first.split(".")
    # a layer beside a shortcut cannot be entered, the unit around it can
    for path in (".".join(parts[:length]) for length in range(len(parts), 0, -1)):
        if path not in calls:
            continue
        place = Place.at(path, calls)
        if _changes(model, place, part) or not place.before:
            return None
        with runtime.accelerator.autocast():
            arrived = resumes_exactly(model, place, sample, part)
        if arrived is not None:
            flops = place.flops, of_part, calls[""][0].flops - place.flops - of_part
            return place, _Layout(tuple(arrived.shape[1:]), arrived.dtype, arrived.dtype), flops
    return None


def _changes(model: nn.Module, place: Place, part: nn.Module) -> bool:
    """Whether training `part` changes what arrives at `place`: they may share weights."""
    trained = {id(parameter) for parameter in part.parameters()}
    return any(
        id(parameter) in trained
        for path in place.before
        for parameter in model.get_submodule(path).parameters()
    )
