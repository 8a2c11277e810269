"""A meter for runs: which passes a model made, of how many images, in which stage, and what each
cost. Used by size.py.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from time import perf_counter, process_time

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from timm_repair.runtime.runtime import Runtime


def clock() -> float:
    """Seconds of the wall; on a single thread those of the processor, which other work on the
    machine does not lengthen.
    """
    return process_time() if torch.get_num_threads() == 1 else perf_counter()


class Meter(TorchDispatchMode):
    """Notes every pass through a ResNet of timm's while it is `attached`, in `passes`.

    A pass lasts from its call until the next one; its backward pass, the optimizer's step and the
    images of the next batch are in it. Its kind is "step" where gradients are taken, "forward"
    where not, each with ", cached" where it began behind the first layer, and "prefix" where it
    ended before the last.

    Args:
        details: also count FLOPs, and bytes of maps that are kept for the backward pass (which
            slows a tiny model down).
    """

    def __init__(self, details: bool = False):
        super().__init__()
        self.details, self.stage, self.passes, self.running = details, None, [], None

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        output = function(*arguments, **(options or {}))
        formula = flop_registry.get(function._overloadpacket)
        if formula and self.running:
            self.running["flops"] += formula(*arguments, **(options or {}), out_val=output)
        return output

    @contextmanager
    def attached(self, model: nn.Module) -> Iterator[None]:
        with ExitStack() as stack:
            for handle in (
                model.register_forward_pre_hook(self._begin),
                model.conv1.register_forward_hook(self._note("images_in")),
                model.fc.register_forward_hook(self._note("answers")),
            ):
                stack.callback(handle.remove)
            if self.details:
                stack.enter_context(
                    torch.autograd.graph.saved_tensors_hooks(self._save, lambda kept: kept)
                )
                stack.enter_context(self)
            yield
            self.end()

    def _begin(self, model: nn.Module, inputs: tuple) -> None:
        self.end()
        if self.stage is not None and not inputs[0].is_meta:
            self.running = {
                "stage": self.stage,
                "images": len(inputs[0]),
                "images_in": 0,
                "answers": 0,
                "flops": 0,
                "saved": {},
                "gradients": torch.is_grad_enabled(),
                "start": clock(),
                "trained": sum(p.numel() for p in model.parameters() if p.requires_grad),
            }

    def _note(self, what: str):
        def hook(module: nn.Module, inputs: tuple, output: Tensor) -> None:
            if self.running:
                self.running[what] += len(output)

        return hook

    def _save(self, kept: Tensor) -> Tensor:
        if self.running and kept.ndim and len(kept) == self.running["images"]:
            storage = kept.untyped_storage()
            self.running["saved"][storage.data_ptr()] = storage.nbytes()
        return kept

    def end(self) -> None:
        """The pass that is running, if any, ends."""
        if self.running is None:
            return
        done, self.running = self.running, None
        kind = (
            "prefix"
            if not done["answers"]
            else ("step" if done["gradients"] else "forward") + ", cached" * (not done["images_in"])
        )
        self.passes.append(
            {
                "stage": done["stage"],
                "kind": kind,
                "images": done["images"],
                "flops": done["flops"],
                "seconds": clock() - done["start"],
                "saved": sum(done["saved"].values()),
                "trained": done["trained"],
            }
        )


@dataclass
class Metered(Runtime):
    """A Runtime whose meter knows which stage is running."""

    meter: Meter = field(default_factory=Meter)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        self.meter.end()
        self.meter.stage = name
        with super().stage(name):
            yield
        self.meter.end()
        self.meter.stage = None
