"""The sweep: what localization measures in one pass over the failures and a sample of the retained
examples.

Where a neuron is tapped is decided beforehand (taps.py); the pass itself keeps sums per neuron
only. All sums are float64 and are added over batches and processes, so neither the batch size nor
the number of processes changes a score.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from timm_repair.data.repair_data import RepairData
from timm_repair.localization.passes import accumulator, inputs_of, require_usable
from timm_repair.models.taps import Tap
from timm_repair.models.temporary import capture, capture_inputs, evaluating_on, only_trainable
from timm_repair.runtime.processes import all_processes, share_of
from timm_repair.runtime.runtime import Runtime


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


def sweep(
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
        assert data.retained is not None, "no batch is drawn from none"
        recorder.forward(model, *inputs_of(data.retained, batch, data, runtime))
        return recorder.sums

    with only_trainable(model, ()), evaluating_on(model, runtime.device), recorder.attached(model):
        for sums in runtime.in_batches(
            failures,
            share_of(torch.arange(len(data.failing)), runtime.accelerator),
            gradients=gradients,
        ):
            total += sums
        for sums in runtime.in_batches(others, share_of(retained, runtime.accelerator)):
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
        self.images = 0  # in the batch of the running forward pass
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
            tensor = inputs[0] if tap.before or output is None else output
            if self.seen is not None:  # None while gradient checkpointing runs a part a second time
                self.seen.setdefault(tap.layer, []).append(tap.mean(tensor.detach(), self.images))
            if tensor.requires_grad:
                # on the tensor as it is now: the gradient before an activation that overwrites it
                tensor.register_hook(
                    lambda gradient: self._add("gradient", tap, tap.reduce(gradient, self.images))
                )

        return hook

    def _add(self, row: str, tap: Tap, values: Tensor) -> None:
        begin = _ROWS.index(row) * self.neurons + self.start[tap.layer]
        self.sums[begin : begin + tap.channels] += values.sum(0, dtype=self.sums.dtype)

    def forward(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """Logits of a batch, its activations counted by their correctness. What was counted before
        is forgotten: it may be half a batch, for which memory ran out.
        """
        self.sums, self.seen, self.images = self.empty(), {}, len(images)
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
        sums = all_processes(sums, self.runtime.accelerator).cpu()
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
