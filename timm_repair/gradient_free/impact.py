"""Impact: what each weight of a model's layers has to do with its answers for some examples.

A layer is linear in its weights, so that the sum over positions of what arrives, times a factor for
each output, is the derivative of its outputs by the weights: nothing is unfolded, and convolutions
and linear layers are the same.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from timm_repair.errors import PartitionError
from timm_repair.images.images import Images
from timm_repair.models.temporary import capture, evaluating, only_trainable
from timm_repair.models.tracing import trace
from timm_repair.training.job import Job

Sets = Sequence[Images]


def weighted_layers(job: Job, within: Sequence[str] | None = None) -> list[str]:
    """Paths of the convolutions and linear layers, in the order in which they are run: those that
    are run once, for every image (one that makes a table of positions is run for none), and are
    linear in a weight of their own (one that standardizes its weights is not).

    Args:
        within: paths of modules; only layers inside them. None takes all.

    Raises:
        PartitionError: there are none.
    """
    model, size = job.model, job.data.preprocessing.input_size
    modules, calls = dict(model.named_modules()), trace(model, size)
    inside = None if within is None else [f"{path}." for path in within]
    found = [
        path
        for path, made in calls.items()
        if isinstance(modules[path], nn.Conv2d | nn.Linear)
        and len(made) == 1
        and made[0].inputs
        and "weight" in modules[path]._parameters
        and (inside is None or any(f"{path}.".startswith(each) for each in inside))
        and _is_linear(modules[path], made[0].inputs[0])
    ]
    for_images = _run_for_images(job, found)
    found = [path for path in found if path in for_images]
    if not found:
        raise PartitionError(
            "the part to repair has no convolution or linear layer that is linear in its weights:"
            " name another block"
        )
    return sorted(found, key=lambda path: calls[path][0].start)


def _is_linear(layer: nn.Module, arriving: Tensor) -> bool:
    """Whether twice the weights give twice the outputs, for made-up inputs of this shape."""
    generator, own = torch.Generator().manual_seed(0), dict(layer.named_parameters(recurse=False))
    weight = own["weight"].detach()
    given = torch.randn(arriving.shape, generator=generator, dtype=torch.float32).to(weight)
    with torch.no_grad(), evaluating(layer):
        once, twice = (
            functional_call(layer, {name: k * each for name, each in own.items()}, (given,))
            for k in (1, 2)
        )
    return torch.allclose(2 * once, twice, rtol=1e-3, atol=1e-5 * float(once.abs().max()))


def _run_for_images(job: Job, paths: Sequence[str]) -> set[str]:
    """Those of these layers that have twice as much to compute for two images as for one."""
    sizes: dict[str, list[int]] = {path: [] for path in paths}

    def listen(path: str) -> Callable:
        return lambda _, __, output: sizes[path].append(output.numel())

    listeners = {path: listen(path) for path in paths}
    with evaluating(job.model), torch.no_grad(), capture(job.model, listeners):
        for count in (1, 2):
            _logits(job, job.data.failing, torch.zeros(count, dtype=torch.long))
    return {path for path, seen in sizes.items() if len(seen) == 2 and seen[1] == 2 * seen[0]}


def loss_gradients(job: Job, paths: Sequence[str], sets: Sets) -> dict[str, Tensor]:
    """|Σ over examples of the derivative of the cross-entropy| by path: like the layer's weight."""
    model = job.model
    weights = {path: f"{path}.weight" for path in paths}
    parameters = dict(model.named_parameters())
    totals = {path: _zeros(parameters[name]) for path, name in weights.items()}

    def compute(images: Images, rows: Tensor) -> Sequence[Tensor | None]:
        labels = images.labels[rows].to(job.runtime.device)
        loss = F.cross_entropy(_logits(job, images, rows), labels, reduction="sum")
        wanted = [parameters[name] for name in weights.values()]
        return torch.autograd.grad(loss, wanted, allow_unused=True)

    with evaluating(model), torch.enable_grad(), only_trainable(model, weights.values()):
        for gradients in _over(job, sets, compute, gradients=True):
            for path, gradient in zip(weights, gradients, strict=True):
                if gradient is not None:
                    totals[path] += gradient
    return {path: total.abs() for path, total in totals.items()}


def forward_means(
    job: Job, paths: Sequence[str], sets: Sets, *, absolute: bool
) -> dict[str, Tensor]:
    """|mean of o_i · w_ij|, or the mean of |o_i · w_ij| if `absolute`, over examples and positions:
    like the layers' weights. o_i is what arrives at the weight w_ij.
    """

    def factor(path: str, outputs: Tensor, count: int) -> Tensor:
        channels = _weight(job.model, path).shape[0]
        return torch.full_like(outputs, channels * count / outputs.numel())

    sums, count = _sums(job, paths, sets, factor, absolute=absolute)
    return {
        path: (total / count * _weight(job.model, path)).abs().to(total)
        for path, total in sums.items()
    }


def forward_impacts(job: Job, paths: Sequence[str], sets: Sets) -> dict[str, Tensor]:
    """FI of Arachne v2, like the layers' weights: the share that a weight has in the input of its
    neuron, a mean over examples, times the share that the neuron has in the layer's influence on
    the sum of the model's outputs, a mean over examples; summed over the neuron's positions.
    """
    behind = _influences(job, paths, sets)

    def factor(path: str, outputs: Tensor, count: int) -> Tensor:
        # outputs are Σ |o_i w_ij|, what a share is a share of
        shares = behind[path].expand(count, -1).reshape(outputs.shape).to(outputs)
        return torch.where(outputs > 0, shares / outputs, 0.0)

    sums, count = _sums(job, paths, sets, factor, absolute=True)
    return {
        path: total / count * _weight(job.model, path).abs().to(total)
        for path, total in sums.items()
    }


def _influences(job: Job, paths: Sequence[str], sets: Sets) -> dict[str, Tensor]:
    """By path (outputs of the layer for one example,): the mean over examples of |∂ Σ logits / ∂ y|
    as a share of the layer's.
    """
    model = job.model
    totals: dict[str, Tensor] = {}

    def compute(images: Images, rows: Tensor) -> dict[str, Tensor]:
        seen: dict[str, Tensor] = {}

        def listen(path: str) -> Callable:
            def shares(gradient: Tensor) -> None:
                size = gradient.detach().abs().reshape(len(rows), -1).double()
                seen[path] = (size / size.sum(1, keepdim=True).clamp(min=1e-300)).sum(0)

            # on the tensor as it is now: the gradient before an activation that overwrites it
            return lambda _, __, output: output.register_hook(shares)

        with capture(model, {path: listen(path) for path in paths}):
            outputs = _logits(job, images, rows)
        torch.autograd.grad(outputs.sum(), weights, allow_unused=True)  # the hooks take what passes
        return seen

    names = [f"{path}.weight" for path in paths]
    weights = [model.get_parameter(name) for name in names]
    with evaluating(model), torch.enable_grad(), only_trainable(model, names):
        for seen in _over(job, sets, compute, gradients=True):
            for path, shares in seen.items():
                totals[path] = totals[path] + shares if path in totals else shares
    count = max(sum(map(len, sets)), 1)
    missing = torch.zeros(1, device=job.runtime.device)  # nothing depends on its outputs
    return {path: totals.get(path, missing) / count for path in paths}


def _sums(
    job: Job,
    paths: Sequence[str],
    sets: Sets,
    factor: Callable[[str, Tensor, int], Tensor],
    *,
    absolute: bool,
) -> tuple[dict[str, Tensor], int]:
    """Σ over examples and positions of what arrives at each weight, times the `factor` of the
    output that it goes to, by path and like the weights; and the number of examples, at least 1.

    Args:
        factor: (path, outputs, number of examples) to one like the outputs.
        absolute: of what arrives; the outputs are then those of absolute inputs and weights.
    """
    totals = {path: _zeros(_weight(job.model, path)) for path in paths}

    def compute(images: Images, rows: Tensor) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}

        def hook(path: str) -> Callable:
            def into(layer: nn.Module, given: Tensor) -> None:
                found[path] = _arrived(
                    layer,
                    given.detach().abs() if absolute else given.detach(),
                    absolute,
                    lambda outputs: factor(path, outputs, len(rows)),
                )

            return into

        with _reading(job.model, {path: hook(path) for path in paths}), torch.no_grad():
            _logits(job, images, rows)
        return found

    with evaluating(job.model):
        for found in _over(job, sets, compute):
            for path, each in found.items():
                totals[path] += each
    return totals, max(sum(map(len, sets)), 1)


def _arrived(
    layer: nn.Module, given: Tensor, absolute: bool, factor: Callable[[Tensor], Tensor]
) -> Tensor:
    """Σ over examples and positions of `given`, as it arrives at each weight, times the factor of
    the outputs.
    """
    own = dict(layer.named_parameters(recurse=False))
    changed = {name: torch.zeros_like(each) for name, each in own.items() if name != "weight"}
    weight = own["weight"].detach()
    weight = (weight.abs() if absolute else weight.clone()).requires_grad_()
    with torch.enable_grad():
        outputs = functional_call(layer, changed | {"weight": weight}, (given,))
        return torch.autograd.grad(outputs, weight, factor(outputs.detach()))[0]


@contextmanager
def _reading(model: nn.Module, functions: Mapping[str, Callable]) -> Iterator[None]:
    """Call `functions[path](layer, given)` with what arrives at each layer, which it may run."""
    inside: list[str] = []

    def guarded(path: str) -> Callable:
        def hook(layer: nn.Module, inputs: tuple) -> None:
            if not inside:  # else it is the function that runs it
                inside.append(path)
                try:
                    functions[path](layer, inputs[0])
                finally:
                    inside.clear()

        return hook

    with ExitStack() as hooks:
        for path in functions:
            handle = model.get_submodule(path).register_forward_pre_hook(guarded(path))
            hooks.callback(handle.remove)
        yield


def _over(
    job: Job, sets: Sets, compute: Callable[[Images, Tensor], object], *, gradients: bool = False
) -> Iterator:
    """`compute(images, rows)` for all sets, in pieces that fit."""
    for images in sets:
        rows = torch.arange(len(images))
        yield from job.runtime.in_batches(
            lambda these, images=images: compute(images, these), rows, gradients=gradients
        )


def _logits(job: Job, images: Images, rows: Tensor) -> Tensor:
    pixels = job.data.preprocessing.normalize(images.pixels(rows), job.runtime.device)
    return job.model(pixels).float()


def _weight(model: nn.Module, path: str) -> Tensor:
    return model.get_parameter(f"{path}.weight").detach()


def _zeros(weight: Tensor) -> Tensor:
    # float64 wherever the device has it
    dtype = torch.float32 if weight.device.type == "mps" else torch.float64
    return torch.zeros(weight.shape, dtype=dtype, device=weight.device)
