"""Provable repair of the last layer: the smallest change of its weights after which the given
failures are right.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from timm_repair.data.predicting import predict
from timm_repair.data.repair_data import RepairData
from timm_repair.errors import OptionError, PartitionError
from timm_repair.gradient_free.least_change import Constraints, solve
from timm_repair.images.images import Images
from timm_repair.methods.method import Outcome
from timm_repair.models.temporary import capture_inputs, evaluating
from timm_repair.options import check_types
from timm_repair.runtime.processes import agreed
from timm_repair.runtime.runtime import Runtime
from timm_repair.training.job import Job
from timm_repair.training.objective import lost as lost_of
from timm_repair.training.options import Training

SECONDS = 3600.0  # of the solver, where no budget is given
# where others wait for it: below what collectives of accelerators wait for each other
WAITING = 540.0


@dataclass(frozen=True, kw_only=True)
class LinearProgram:
    """min ||Δ||_1 / size + ||Δ||_inf subject to: every given failure gets its label, by a margin.

    It is not weighed against what it breaks: what of that the selection split shows beyond the
    limits on harm is a note.

    Args:
        margin: by how much the label's output is to be above every other, in standard deviations of
            the outputs.
        limit: no weight changes by more.
        failures: how many of the failures, drawn at random, are constraints; None takes all.
        keep: how many retained examples must stay right, too.
        training: of it only `seconds`, without which the solver has an hour, nine minutes on
            several processes, and the limits on harm are read, for the note.
    """

    margin: float = 0.05
    limit: float = 3.0
    failures: int | None = None
    keep: int = 0
    training: Training = field(default_factory=Training)
    name: ClassVar[str] = "linear_program"
    paper: ClassVar[str] = (
        "Matthew Sotoudeh and Aditya Thakur, Provable Repair of Deep Neural Networks, PLDI 2021,"
        " arXiv:2104.04413"
    )

    def __post_init__(self):
        check_types(self)
        few = self.failures is not None and self.failures < 1
        if min(self.margin, self.limit) <= 0 or self.keep < 0 or few:
            raise OptionError(
                "margin, limit and failures must be positive, keep must not be negative"
            )

    def repair(self, model: nn.Module, data: RepairData, runtime: Runtime) -> Outcome:
        layer, sign = last_layer(model, data, runtime)
        with runtime.stage("linear program"):
            given = [_some(data.failing, self.failures, runtime)]
            parts = [self._failing(model, layer, sign, given[0], data, runtime)]
            if self.keep and data.retained is not None:
                kept, part = self._kept(model, layer, sign, data.retained, data, runtime)
                given.append(kept)
                parts.append(part)
            change, lost = runtime.once(
                "linear program", lambda: self._solved(parts, runtime.accelerator)
            )
            with torch.no_grad():
                delta = change.to(layer.weight)
                layer.weight.add_(delta[:, :-1])
                layer.bias.add_(delta[:, -1])
        notes = (
            f"{len(given[0])} failures were constraints; no weight of the last layer changed by"
            f" more than {float(change.abs().max()):.3g}",
            *_missed(model, given, lost, runtime),
        )
        harm = lost_of(Job(model, data, self.training, runtime).forward(), data)
        told = None if harm is None else harm.told(self.training.choosing)
        return Outcome(model, notes=((told, *notes) if told else notes))

    def _solved(
        self, parts: list[Constraints], accelerator: Accelerator
    ) -> tuple[Tensor, list[int]]:
        """Found by the main process, whose clock is that of all: one that gave up alone would leave
        the others waiting.
        """
        found: tuple[Tensor, list[int]] | str = ""
        if accelerator.is_main_process:
            try:
                alone = accelerator.num_processes == 1
                seconds = self.training.seconds or (SECONDS if alone else WAITING)
                change, lost = solve(Constraints.joined(parts), self.limit, seconds)
                found = torch.from_numpy(change), lost
            except OptionError as error:
                found = str(error)
        found = agreed(found, accelerator)
        if isinstance(found, str):
            raise OptionError(found)
        return found

    def _failing(
        self,
        model: nn.Module,
        layer: nn.Linear,
        sign: int,
        images: Images,
        data: RepairData,
        runtime: Runtime,
    ) -> Constraints:
        features, outputs = _features(model, layer, images, data, runtime)
        margins = np.full(len(features), self.margin * float(outputs.std()))
        return Constraints(sign * features, sign * outputs, images.labels.numpy(), margins)

    def _kept(
        self,
        model: nn.Module,
        layer: nn.Linear,
        sign: int,
        images: Images,
        data: RepairData,
        runtime: Runtime,
    ) -> tuple[Images, Constraints]:
        """Of some of the images those that are right, which stay so by the margin, or by what they
        have of it.
        """
        images = _some(images, self.keep, runtime)
        features, outputs = (sign * e for e in _features(model, layer, images, data, runtime))
        labels, margin = images.labels.numpy(), self.margin * float(outputs.std())
        everyone = Constraints(features, outputs, labels, np.zeros(len(labels)))
        _, broken = everyone.worst(np.zeros((outputs.shape[1], features.shape[1])))
        right = np.flatnonzero(broken < 0)
        part = replace(everyone[right], margins=np.minimum(-broken[right], margin))
        return images.subset(torch.from_numpy(right)), part


def _missed(
    model: nn.Module, given: list[Images], lost: list[int], runtime: Runtime
) -> Iterator[str]:
    """Which of the constraints' examples are not right: all are looked at, since the solver's
    numbers are rounded for the layer.
    """
    wrong, first = [], 0
    for images in given:
        right = predict(model, images, images.preprocessing, runtime).right
        wrong += [(images, i, first + i in lost) for i in (~right).nonzero().flatten().tolist()]
        first += len(images)

    def named(some: list) -> str:
        names = [repr(images.ids[i]) for images, i, _ in some[:5]]
        return ", ".join(names) + (", …" if len(some) > 5 else "")

    if impossible := [each for each in wrong if each[2]]:
        yield (
            f"{len(impossible)} of the constraints' examples cannot be right together with the"
            f" others: {named(impossible)}"
        )
    if rounded := [each for each in wrong if not each[2]]:
        yield (
            f"{len(rounded)} of the constraints' examples are right by less than the layer's"
            f" numbers can tell, and come out wrong: {named(rounded)}; a larger margin= helps"
        )


def _some(images: Images, count: int | None, runtime: Runtime) -> Images:
    if count is None or count >= len(images):
        return images
    generator = runtime.generator(f"linear program, {images.name}")
    return images.subset(torch.randperm(len(images), generator=generator)[:count].sort().values)


def last_layer(model: nn.Module, data: RepairData, runtime: Runtime) -> tuple[nn.Linear, int]:
    """The linear layer whose outputs are the model's, and 1; or -1 where they are the model's with
    the other sign.

    Raises:
        PartitionError: there is none.
    """
    linear = [each for each in model.named_modules() if isinstance(each[1], nn.Linear)]
    path, layer = linear[-1] if linear else ("", None)
    if not isinstance(layer, nn.Linear) or layer.bias is None:
        raise PartitionError(
            "linear_program changes a last linear layer with a bias, and this model has none: use"
            " another method"
        )
    rows = torch.arange(min(4, len(data.failing)))
    pixels = data.preprocessing.normalize(data.failing.pixels(rows), runtime.device)
    arrived: list[Tensor] = []
    hooks = {path: lambda _, given: arrived.append(given[0])}
    with evaluating(model), torch.no_grad(), capture_inputs(model, hooks):
        outputs = model(pixels)
        own = layer(arrived[0]) if arrived and arrived[0].ndim == 2 else None
    for sign in (1, -1):
        if (
            own is not None
            and own.shape == outputs.shape
            and torch.allclose(sign * own, outputs, rtol=1e-4, atol=1e-5)
        ):
            return layer, sign
    raise PartitionError(
        "the model's outputs are not those of its last linear layer: use another method"
    )


def _features(
    model: nn.Module, layer: nn.Linear, images: Images, data: RepairData, runtime: Runtime
) -> tuple[np.ndarray, np.ndarray]:
    """What arrives at the last layer with a 1 for the bias, (n, size + 1), and its outputs (n,
    classes): float64.
    """
    path = next(path for path, module in model.named_modules() if module is layer)

    def compute(rows: Tensor) -> Tensor:
        arrived: list[Tensor] = []
        with capture_inputs(model, {path: lambda _, given: arrived.append(given[0])}):
            model(data.preprocessing.normalize(images.pixels(rows), runtime.device))
        return arrived[0].double().cpu()

    with evaluating(model), torch.no_grad():
        features = torch.cat(list(runtime.in_batches(compute, torch.arange(len(images)))))
        outputs = features @ layer.weight.double().cpu().T + layer.bias.double().cpu()
    return torch.cat([features, torch.ones(len(features), 1).double()], 1).numpy(), outputs.numpy()
