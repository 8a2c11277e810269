"""Fence: the modes of torch that a caller may have set, which a repair must not depend on."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch


@contextmanager
def fenced() -> Iterator[None]:
    """Inside, torch is as it comes: gradients, no inference mode, no autocast, float32 and the CPU
    as defaults. Afterwards it is as the caller had it, also after an error.
    """
    dtype = torch.get_default_dtype()
    with ExitStack() as modes:
        modes.enter_context(torch.inference_mode(False))
        modes.enter_context(torch.enable_grad())
        for kind in {"cpu", "cuda", *_accelerators()}:
            if torch.is_autocast_enabled(kind):
                modes.enter_context(torch.autocast(kind, enabled=False))
        if default_device() != "cpu":  # the mode slows every call of torch
            modes.enter_context(torch.device("cpu"))
        try:
            torch.set_default_dtype(torch.float32)
            yield
        finally:
            torch.set_default_dtype(dtype)


def default_device() -> str:
    """The type of device on which tensors are made."""
    # torch.get_default_device() of torch 2.9 raises once the default was set and taken back
    return torch.empty(0).device.type


def _accelerators() -> list[str]:
    found = torch.accelerator.current_accelerator()
    return [] if found is None else [found.type]
