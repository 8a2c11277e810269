"""Violations and well-behaved inputs of properties, as the data of a repair.

A violating input is a failure. Its label is the answer of its nearest well-behaved neighbour: of
those drawn from the same box and from a δ-neighbourhood of the violations, the one with the nearest
outputs (BIRDNN). Well-behaved inputs are the retained examples, with the network's own answers for
labels. All splits are disjoint. Other even draws from the boxes tell, when a repair is chosen,
whether it makes violations where there were none.
"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from timm_repair.data.repair_data import RepairData
from timm_repair.errors import DataError, NoFailuresError, OptionError, PropertyError
from timm_repair.properties import answers, vnnlib
from timm_repair.properties.property import Property
from timm_repair.properties.sampling import Drawn, Sampling, explore, near, outputs_of
from timm_repair.properties.vectors import Judge, Vectors
from timm_repair.runtime.runtime import Runtime

FEWEST = 10  # inputs of a kind, to be trained on, chosen by and measured
DRAWS = 10_000  # well-behaved ones, from all boxes, that a repair is chosen by


@dataclass(frozen=True, kw_only=True)
class PropertyData(RepairData):
    """The data of a repair that came from properties.

    Args:
        properties: all, also those that nothing violates yet: the repair must not break them.
        answer: the end of the outputs that is the answer.
        sampling: how the inputs were drawn.
        original: a copy of the network as it was given.
        notes: what the user should know of the samples.
    """

    properties: tuple[Property, ...]
    answer: str
    sampling: Sampling
    original: nn.Module
    notes: tuple[str, ...]


def is_property(failures: Any) -> bool:
    """Whether `failures` are properties: a `Property`, a VNN-LIB file, or several of these."""
    if isinstance(failures, list | tuple):
        return bool(failures) and all(map(is_property, failures))
    return isinstance(failures, Property) or (
        isinstance(failures, str | Path) and str(failures).removesuffix(".gz").endswith(".vnnlib")
    )


def read(failures: Any) -> tuple[Property, ...]:
    """The properties that `failures` are; files are read."""
    several = failures if isinstance(failures, list | tuple) else [failures]
    properties = tuple(
        each if isinstance(each, Property) else vnnlib.read(each) for each in several
    )
    names = [each.name for each in properties]
    if len(set(names)) < len(names):
        raise PropertyError(f"several properties have one name ({', '.join(names)}): rename them")
    return properties


def prepare(
    model: nn.Module, failures: Any, *, retain: Any, holdout: Any, options: Any, runtime: Runtime
) -> PropertyData:
    """Draw, search, label and split all that a repair of `model` by properties needs.

    From here on `model` returns its outputs so that the highest is its answer; `answers.restore`
    undoes it.

    Args:
        retain: further inputs on which it behaves well, (n, inputs); None for none.
        options: a `Sampling`, or None.

    Raises:
        PropertyError: the properties do not fit together or to the network, or do not tell which
            output is the answer.
        NoFailuresError: no violation was found in any box.
        DataError: there is too little to train, choose and measure by.
    """
    sampling = Sampling() if options is None else options
    if not isinstance(sampling, Sampling):
        raise OptionError(
            "with a property, data= is a properties.sampling.Sampling: it tells how inputs are"
            " drawn"
        )
    if holdout is not None:
        raise OptionError(
            "with a property holdout= is not used: what is measured is drawn from its boxes"
        )
    properties = read(failures)
    end = answers.of(properties)
    original = deepcopy(model).eval()
    for prop in properties:
        _require_fit(original, prop)
    given = _given(retain, properties[0].inputs)
    samples = _Samples(original, properties, end, sampling, runtime)
    retained, failing = samples.retained(given), samples.failing()
    if end == "lowest":
        answers.negate(model)
    parts = {each.name: _split(each, sampling, runtime) for each in (failing, retained)}
    told = {"properties": [samples.told(prop) for prop in properties], "answer": end}
    elsewhere, rate = samples.elsewhere()
    return PropertyData(
        failing=parts["failing"]["train"],
        retained=parts["retained"]["train"],
        selection={name: part["selection"] for name, part in parts.items()}
        | ({} if rate is None else {"passing": elsewhere}),
        holdout={name: part["holdout"] for name, part in parts.items()},
        preprocessing=failing.preprocessing,
        num_classes=properties[0].outputs,
        label_names=None,
        error_rate=None,  # a violation is not trained on by how rare it is
        provenance=told | {name: part["train"].describe() for name, part in parts.items()},
        properties=properties,
        answer=end,
        sampling=sampling,
        original=original,
        notes=tuple(samples.notes),
        violation_rate=rate,
    )


def _require_fit(model: nn.Module, prop: Property) -> None:
    inputs = torch.stack([(region.lower + region.upper) / 2 for region in prop.regions]).float()
    outputs = outputs_of(model, inputs)
    if outputs.ndim != 2 or outputs.shape[1] != prop.outputs:
        raise PropertyError(
            f"{prop.name} is about {prop.outputs} outputs, but the network has"
            f" {tuple(outputs.shape[1:])}"
        )


def _given(retain: Any, size: int) -> Tensor | None:
    if retain is None:
        return None
    try:
        inputs = torch.as_tensor(retain).float()
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(
            f"with a property retain= is numbers, inputs of shape (n, {size}), not"
            f" {type(retain).__name__} ({error})"
        ) from error
    if inputs.ndim != 2 or inputs.shape[1] != size or not inputs.isfinite().all():
        raise DataError(
            f"with a property retain= is finite inputs of shape (n, {size}), not"
            f" {tuple(inputs.shape)}"
        )
    return inputs


class _Samples:
    """What was drawn from every box of every property."""

    def __init__(
        self,
        model: nn.Module,
        properties: Sequence[Property],
        end: str,
        sampling: Sampling,
        runtime: Runtime,
    ):
        self.model, self.properties, self.end, self.sampling = model, properties, end, sampling
        self.judge = Judge(tuple(properties), -1 if end == "lowest" else 1)
        self.notes: list[str] = []
        self.boxes = [(prop, number) for prop in properties for number in range(len(prop.regions))]
        wanted = -(-sampling.violations // len(self.boxes))
        self.drawn: list[Drawn] = []
        for prop, number in self.boxes:
            generator = runtime.generator(f"box {number} of {prop.name}")
            self.drawn.append(explore(model, prop.regions[number], wanted, sampling, generator))
        if not any(len(each.violating) for each in self.drawn):
            names = ", ".join(prop.name for prop in properties)
            tried = sum(each.draws for each in self.drawn)
            raise NoFailuresError(
                f"no violation of {names} was found in {tried:,} even draws and an ascent from the"
                " nearest: there is nothing to repair, or draws= and ascent= must be larger"
            )
        self.generator = runtime.generator("neighbours")
        self.behaved, self.others = [], []
        for place in range(len(self.boxes)):
            behaved, others = self._behaved(place)
            self.behaved.append(behaved)
            self.others.append(others)

    def _behaved(self, place: int) -> tuple[Tensor, Tensor]:
        """Well-behaved inputs of one box: half of them even draws, half in the δ-neighbourhood of
        violations; and other even draws.
        """
        (prop, number), found = self.boxes[place], self.drawn[place]
        wanted = -(-self.sampling.retained // len(self.boxes))
        evenly = found.behaved[torch.randperm(len(found.behaved), generator=self.generator)]
        others = self._good(evenly[2 * wanted :][: -(-DRAWS // len(self.boxes))])
        evenly = self._good(evenly[: 2 * wanted])
        if len(found.violating) == 0:
            return evenly[:wanted], others
        which = torch.randint(len(found.violating), (4 * wanted,), generator=self.generator)
        centres, delta = found.violating[which], self.sampling.delta
        around = self._good(near(centres, prop.regions[number], delta, self.generator))
        around = around[: wanted // 2]
        return torch.cat([around, evenly[: wanted - len(around)]]), others

    def _good(self, inputs: Tensor) -> Tensor:
        """Those of `inputs` that violate no property in any box they are in."""
        judge = Judge(tuple(self.properties))
        return inputs[judge.excess(judge.inside(inputs), outputs_of(self.model, inputs)) < 0]

    def retained(self, given: Tensor | None) -> Vectors:
        """All well-behaved inputs, with the network's own answers."""
        pieces = [*self.behaved] if given is None else [*self.behaved, self._good(given)]
        if given is not None and len(pieces[-1]) < len(given):
            left_out = len(given) - len(pieces[-1])
            self.notes.append(f"{left_out} of retain= violate a property themselves; left out")
        inputs = torch.unique(torch.cat(pieces), dim=0)
        if len(inputs) < FEWEST:
            raise DataError(
                f"only {len(inputs)} well-behaved inputs were found in the boxes, {FEWEST} are"
                " needed: there is nothing to imitate. Give some, retain=, or raise draws="
            )
        labels = answers.answers_of(outputs_of(self.model, inputs), self.end)
        return Vectors(inputs, labels, self.judge, name="retained", strict=True)

    def elsewhere(self) -> tuple[Vectors, float | None]:
        """Even draws that violate nothing, none of them among the retained, to choose by; and the
        share that violates, no smaller than they can tell. None where there are no such draws.
        """
        inputs = torch.cat(self.others)
        labels = answers.answers_of(outputs_of(self.model, inputs), self.end)
        hits, draws = (sum(getattr(each, of) for each in self.drawn) for of in ("hits", "draws"))
        rate = min(max(hits / draws, 10 / len(inputs)), 0.5) if len(inputs) else None
        return Vectors(inputs, labels, self.judge, name="passing (selection)", strict=False), rate

    def failing(self) -> Vectors:
        """All violating inputs, each with the answer of its nearest well-behaved neighbour, in the
        same box if that has any.
        """
        everywhere, labelled = torch.cat(self.behaved), []
        for found, behaved in zip(self.drawn, self.behaved, strict=True):
            theirs = outputs_of(self.model, behaved if len(behaved) else everywhere)
            own = outputs_of(self.model, found.violating)
            for piece, inputs in zip(own.split(1000), found.violating.split(1000), strict=True):
                nearest = torch.cdist(piece, theirs).argmin(1)
                labels = answers.answers_of(theirs, self.end)[nearest]
                labelled.append((inputs, labels, answers.answers_of(piece, self.end)))
        inputs, labels, own = (torch.cat(each) for each in zip(*labelled, strict=True))
        first = _first_of_each(inputs)
        inputs, labels, own = inputs[first], labels[first], own[first]
        if len(inputs) < FEWEST:
            raise DataError(
                f"only {len(inputs)} different violating inputs were found, {FEWEST} are needed to"
                " train, to choose and to measure: raise draws=, ascent= or delta="
            )
        same = own == labels
        if same.any():
            self.notes.append(
                f"{int(same.sum())} of {len(same)} violating inputs have the same answer as their"
                " well-behaved neighbours: labels teach nothing about them, outputs do (birdnn)"
            )
        own = torch.where(same, -1, own)
        return Vectors(inputs, labels, self.judge, name="failing", strict=False, answers=own)

    def told(self, prop: Property) -> dict:
        """Plain JSON: what was drawn for one property."""
        boxes = [
            {
                "draws": found.draws,
                "violations": found.hits,
                "used": len(found.violating),
                "lower": prop.regions[number].lower.tolist(),
                "upper": prop.regions[number].upper.tolist(),
            }
            for (each, number), found in zip(self.boxes, self.drawn, strict=True)
            if each is prop
        ]
        return {"name": prop.name, "boxes": boxes}


def _first_of_each(inputs: Tensor) -> Tensor:
    """(k,) the first row of each of the different `inputs` (n, D), in order."""
    _, group = torch.unique(inputs, dim=0, return_inverse=True)
    first = torch.full((int(group.max()) + 1,), len(inputs))
    return first.scatter_reduce(0, group, torch.arange(len(inputs)), "amin").sort().values


def _split(images: Vectors, sampling: Sampling, runtime: Runtime) -> dict[str, Vectors]:
    """Disjoint parts, none of them empty."""
    generator = runtime.generator(f"split of {images.name}")
    order = torch.randperm(len(images), generator=generator)
    shares = (sampling.selection_share, sampling.holdout_share)
    sizes = [max(round(share * len(images)), 1) for share in shares]
    selection, holdout, train = order.split([*sizes, len(images) - sum(sizes)])
    return {
        part: images.subset(rows.sort().values, name=f"{images.name} ({part})")
        for part, rows in (("train", train), ("selection", selection), ("holdout", holdout))
    }
