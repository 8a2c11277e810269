"""Randomness: seeds for a while, and the states of random generators for checkpoints."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch


@contextmanager
def own_randomness(seed: int) -> Iterator[None]:
    """Dropout and the like draw from the global state: seed it for a while, and give the caller's
    back. Gradients are on inside.
    """
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())), torch.enable_grad():
        torch.manual_seed(seed)
        yield


@dataclass
class Drawn:
    """The state of a random generator."""

    generator: torch.Generator

    def state_dict(self) -> dict:
        """Where it stands."""
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: Mapping) -> None:
        """Go on from there."""
        self.generator.set_state(state["generator"])


def random_states() -> dict[str, torch.Tensor]:
    """The global random states of this process, on the CPU and on all GPUs."""
    state = {"cpu": torch.get_rng_state()}
    return state | {
        f"cuda:{i}": torch.cuda.get_rng_state(i) for i in range(torch.cuda.device_count())
    }


def set_random_states(state: Mapping[str, torch.Tensor]) -> None:
    """Go on from `random_states`."""
    torch.set_rng_state(state["cpu"])
    for i in range(torch.cuda.device_count()):
        torch.cuda.set_rng_state(state[f"cuda:{i}"], i)
