"""The sweep: what localization measures in one pass over the failures and a sample of the retained
examples.

Where a neuron is tapped is decided beforehand on a trace (`find_taps`); the pass itself keeps sums
per neuron only. All sums are float64 and are added over batches and processes, so neither the batch
size nor the number of processes changes a score.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from timm_repair.data import Images, RepairData
from timm_repair.errors import NoFailuresError, NonFiniteError, PartitionError
from timm_repair.evaluation import evaluating_on
from timm_repair.partition import Block
from timm_repair.runtime import Runtime
from timm_repair.surgery import capture, capture_inputs, only_trainable
from timm_repair.tracing import Call, Trace, trace

# pixels at which a map of 1x1 inside a block of larger maps is a gate, and not a very deep layer
_CLEAR_SIZE = 224


@dataclass(frozen=True)
class Tap:
    """Where the neurons of one convolution or linear layer are read.

    Args:
        layer: path of the layer; its output channels are the neurons.
        block: name of the block it is in.
        path: the module that is hooked, at its input if `before`, else at its output.
        channels: number of neurons.
        axis: dimension of the channels: 1 after a convolution, -1 after a linear layer.
    """

    layer: str
    block: str
    path: str
    before: bool
    channels: int
    axis: int

    def mean(self, tensor: Tensor) -> Tensor:
        """Mean of (N, ..., C, ...) over positions, (N, C) in float32 or wider."""
        return self.reduce(tensor) * (tensor.shape[0] * self.channels / max(tensor.numel(), 1))

    def reduce(self, tensor: Tensor) -> Tensor:
        """Sum of (N, ..., C, ...) over positions, (N, C) in float32 or wider."""
        tensor = tensor if tensor.dtype == torch.float64 else tensor.float()
        positions = [d for d in range(1, tensor.ndim) if d != self.axis % tensor.ndim]
        return tensor.sum(positions) if positions else tensor


def layers_of(model: nn.Module, blocks: Sequence[Block]) -> dict[str, str]:
    """Convolutions and linear layers inside the blocks: path -> name of the block, in registration
    order.
    """
    owner = {path: block.name for block in blocks for path in block.paths}
    found = {}
    for path, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            parts = path.split(".")
            above = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
            block = next((owner[prefix] for prefix in above if prefix in owner), None)
            if block is not None:
                found[path] = block
    return found


def find_taps(
    model: nn.Module, blocks: Sequence[Block], input_size: tuple[int, int, int]
) -> tuple[Tap, ...]:
    """Where to read each neuron of `blocks`: its pre-activation, after the norm where one follows.

    A plain norm is read at its output, a fused norm and activation (timm's BatchNormAct2d) at the
    input of its `act`, and a layer that no norm follows directly (the last of a dense layer) at its
    own output. Gates are left out: layers with one position in a block whose maps are larger
    (squeeze-excite). They are looked for on a trace with images of 224 pixels or more, so that the
    true 1x1 maps at the end of a network for 32 pixels do not look like gates.
    """
    larger = (input_size[0], *(max(side, _CLEAR_SIZE) for side in input_size[1:]))
    try:
        calls = trace(model, larger)
    except PartitionError:  # a model for one size only
        calls = trace(model, input_size)
    modules = dict(model.named_modules())
    arrivals: dict[tuple[int, int], list[str]] = {}
    for path, made in calls.items():
        for call in made:
            if call.arrived is not None:
                arrivals.setdefault(call.arrived, []).append(path)
    wide = {block.name: _is_wide(block, calls) for block in blocks}
    taps = []
    for layer, block in layers_of(model, blocks).items():
        if layer not in calls or (
            wide[block] and _positions(calls[layer][0].output, modules[layer]) == 1
        ):
            continue
        followers = arrivals.get(calls[layer][0].left, [])
        norm = next((path for path in followers if _is_norm(modules[path])), None)
        act = f"{norm}.act"
        fused = norm is not None and act in calls and not isinstance(modules[act], nn.Identity)
        convolution = isinstance(modules[layer], nn.Conv2d)
        channels = modules[layer].out_channels if convolution else modules[layer].out_features
        taps.append(
            Tap(
                layer,
                block,
                act if fused else norm or layer,
                fused,
                channels,
                1 if convolution else -1,
            )
        )
    return tuple(taps)


def _is_norm(module: nn.Module) -> bool:
    # by name: torch, timm and torchvision have no common base class for BatchNorm2d,
    # FrozenBatchNorm2d, EvoNorm, ...
    holds_layers = any(isinstance(part, nn.Conv2d | nn.Linear) for part in module.modules())
    return "Norm" in type(module).__name__ and not holds_layers


def _positions(output: Tensor, layer: nn.Module) -> int:
    return prod(output.shape[2:] if isinstance(layer, nn.Conv2d) else output.shape[1:-1])


def _is_wide(block: Block, calls: Trace) -> bool:
    """Whether more than one position enters and leaves the block."""
    first: list[Call] = calls.get(block.paths[0], [])
    last: list[Call] = calls.get(block.paths[-1], [])
    if not first or not last or not first[0].inputs:
        return False
    arrived, left = first[0].inputs[0], last[0].output
    arrived = arrived[0] if isinstance(arrived, tuple) else arrived  # the features of a DenseBlock
    return all(
        isinstance(x, Tensor) and x.ndim > 2 and prod(x.shape[2:]) > 1 for x in (arrived, left)
    )


@dataclass(frozen=True)
class Evidence:
    """What the sweep found; neurons in the order of `taps`, all tensors (neurons,) float64 on the
    CPU.

    Args:
        taps: the layers tapped.
        active_wrong: N_am, number of misclassified examples that activate the neuron.
        active_right: N_ac, the same for the correctly classified ones.
        gradient: g, mean over the misclassified failures of the loss gradient, summed over
            positions.
        mean_wrong: mean over the misclassified examples of the neuron's pre-activation, itself a
            mean over positions.
        mean_right, variance_right: the same for the correctly classified ones, and its variance
            over them.
        wrong, right: number of misclassified and of correctly classified examples.
        failing: number of misclassified examples among the failures.
    """

    taps: tuple[Tap, ...]
    active_wrong: Tensor
    active_right: Tensor
    gradient: Tensor
    mean_wrong: Tensor
    mean_right: Tensor
    variance_right: Tensor
    wrong: int
    right: int
    failing: int


def gather(
    model: nn.Module,
    taps: tuple[Tap, ...],
    data: RepairData,
    runtime: Runtime,
    *,
    gradients: bool,
    retained: Tensor,
) -> Evidence:
    """Activation counts by correctness over the failures and `data.retained[retained]`; loss
    gradients over the failures.

    Costs a forward pass of every example, and a backward pass to the activations, not to weights,
    of the failures.

    Raises:
        NoFailuresError: the model classifies every failure correctly.
        NonFiniteError: the logits are NaN or infinite.
        MemoryExceededError: not even one image fits in memory.
    """
    recorder = _Recorder(taps, runtime)
    total = recorder.empty()

    def failures(batch: Tensor) -> Tensor:
        images, labels = inputs_of(data.failing, batch, data, runtime)
        logits = recorder.forward(model, images.requires_grad_(gradients), labels)
        wrong = logits.argmax(1) != labels
        recorder.sums[-2] += wrong.sum()
        if gradients and wrong.any():
            loss = F.cross_entropy(logits[wrong].float(), labels[wrong], reduction="sum")
            torch.autograd.grad(loss, images)  # the hooks take what passes by
        return recorder.sums

    def others(batch: Tensor) -> Tensor:
        recorder.forward(model, *inputs_of(data.retained, batch, data, runtime))
        return recorder.sums

    with only_trainable(model, ()), evaluating_on(model, runtime.device), recorder.attached(model):
        for sums in runtime.in_batches(
            failures, share_of(torch.arange(len(data.failing)), runtime), gradients=gradients
        ):
            total += sums
        for sums in runtime.in_batches(others, share_of(retained, runtime)):
            total += sums
    return recorder.evidence(total)


_ROWS = ("active_wrong", "active_right", "gradient", "sum_wrong", "sum_right", "squares_right")


class _Recorder:
    """Sums per neuron over one batch, in one tensor: those of `_ROWS` x neurons, then wrong, right,
    failing, non-finite examples.
    """

    def __init__(self, taps: tuple[Tap, ...], runtime: Runtime):
        self.taps, self.runtime = taps, runtime
        self.neurons = sum(tap.channels for tap in taps)
        self.sums = self.empty()
        # layer -> its (N, C), one a call, of the batch in its forward pass
        self.seen: dict[str, list[Tensor]] | None = None
        starts = torch.tensor([0] + [tap.channels for tap in taps]).cumsum(0).tolist()
        self.start = {tap.layer: start for tap, start in zip(taps, starts, strict=False)}

    def empty(self) -> Tensor:
        """The sums over no example."""
        return accumulator(len(_ROWS) * self.neurons + 4, self.runtime)

    @contextmanager
    def attached(self, model: nn.Module) -> Iterator[None]:
        with ExitStack() as hooks:
            for tap in self.taps:  # one by one: two layers may be read at one norm
                hooks.enter_context(
                    (capture_inputs if tap.before else capture)(model, {tap.path: self._hook(tap)})
                )
            yield

    def _hook(self, tap: Tap) -> Callable:
        def hook(module: nn.Module, inputs: tuple, output: Tensor | None = None) -> None:
            tensor = inputs[0] if tap.before else output
            if self.seen is not None:  # None while gradient checkpointing runs a part a second time
                self.seen.setdefault(tap.layer, []).append(tap.mean(tensor.detach()))
            if tensor.requires_grad:
                # on the tensor as it is now: the gradient before an activation that overwrites it
                tensor.register_hook(
                    lambda gradient: self._add("gradient", tap, tap.reduce(gradient))
                )

        return hook

    def _add(self, row: str, tap: Tap, values: Tensor) -> None:
        begin = _ROWS.index(row) * self.neurons + self.start[tap.layer]
        self.sums[begin : begin + tap.channels] += values.sum(0, dtype=self.sums.dtype)

    def forward(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """Logits of a batch, its activations counted by their correctness. What was counted before
        is forgotten: it may be half a batch, for which memory ran out.
        """
        self.sums, self.seen = self.empty(), {}
        with torch.set_grad_enabled(images.requires_grad), self.runtime.accelerator.autocast():
            logits = model(images)
        seen, self.seen = self.seen, None
        wrong = logits.argmax(1) != labels
        for tap in self.taps:
            if tap.layer in seen:
                active = torch.stack(seen[tap.layer]).amax(0) > 0
                value = torch.stack(seen[tap.layer]).mean(0).to(self.sums.dtype)
                for name, these in (("wrong", wrong), ("right", ~wrong)):
                    self._add(f"active_{name}", tap, active[these])
                    self._add(f"sum_{name}", tap, value[these])
                self._add("squares_right", tap, value[~wrong].square())
        self.sums[-4] += wrong.sum()
        self.sums[-3] += (~wrong).sum()
        self.sums[-1] += (~logits.isfinite().all(1)).sum()
        return logits

    def evidence(self, sums: Tensor) -> Evidence:
        sums = all_processes(sums, self.runtime).cpu()
        active_wrong, active_right, gradient, sum_wrong, sum_right, squares_right = sums[:-4].view(
            len(_ROWS), -1
        )
        wrong, right, failing, broken = (int(value) for value in sums[-4:])
        require_usable(failing, broken)
        mean_right = sum_right / max(right, 1)
        variance_right = (squares_right / max(right, 1) - mean_right.square()).clamp(min=0)
        return Evidence(
            self.taps,
            active_wrong,
            active_right,
            gradient / failing,
            sum_wrong / max(wrong, 1),
            mean_right,
            variance_right,
            wrong,
            right,
            failing,
        )


def share_of(indices: Tensor, runtime: Runtime) -> Tensor:
    """Those of `indices` (n,) that this process reads."""
    return indices[runtime.accelerator.process_index :: runtime.accelerator.num_processes]


def inputs_of(
    images: Images, batch: Tensor, data: RepairData, runtime: Runtime
) -> tuple[Tensor, Tensor]:
    """What the model takes for `images[batch]`, (n, C, H, W), and their labels (n,), on the
    device.
    """
    return data.preprocessing.normalize(images.pixels(batch), runtime.device), images.labels[
        batch
    ].to(runtime.device)


def accumulator(size: int, runtime: Runtime) -> Tensor:
    """Zeros to sum into, float64 wherever the device has it."""
    dtype = torch.float32 if runtime.device.type == "mps" else torch.float64
    return torch.zeros(size, dtype=dtype, device=runtime.device)


def all_processes(sums: Tensor, runtime: Runtime) -> Tensor:
    """The sum over processes."""
    accelerator = runtime.accelerator
    return accelerator.reduce(sums, reduction="sum") if accelerator.num_processes > 1 else sums


def require_usable(failing: int, broken: int) -> None:
    """Raise for a sweep that tells nothing; after the sums are reduced, so that all processes raise
    together.
    """
    if broken:
        raise NonFiniteError(
            f"the model's logits are NaN or infinite for {broken} images; check its weights"
        )
    if not failing:
        raise NoFailuresError(
            "the model classifies every given failure correctly; pass examples that it gets wrong"
        )
