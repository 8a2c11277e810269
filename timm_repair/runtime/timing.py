"""Timing: two computations in turns, so that what else the machine does meets both alike."""

from collections.abc import Callable
from time import perf_counter

import numpy as np

PAIRS = (5, 31)  # at least and at most so many times of both
SECONDS = 2.0  # after which the least will do


def in_turns(
    first: Callable[[], object], second: Callable[[], object], *, seconds: float = SECONDS
) -> np.ndarray:
    """Seconds that each takes, pair by pair: (pairs, 2). Both have to wait for the accelerator."""
    for compute in (first, second):  # the first pass allocates
        compute()
    begun, pairs = perf_counter(), []
    while len(pairs) < PAIRS[0] or (len(pairs) < PAIRS[1] and perf_counter() - begun < seconds):
        if len(pairs) % 2:
            pairs.append((_timed(first), _timed(second)))
        else:
            pairs.append((_timed(second), _timed(first))[::-1])
    return np.array(pairs)


def _timed(compute: Callable[[], object]) -> float:
    start = perf_counter()
    compute()
    return perf_counter() - start
