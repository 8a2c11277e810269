"""Timing: two computations in turns, so that what else the machine does meets both alike, pair by
pair.
"""

from collections.abc import Callable
from time import perf_counter

import numpy as np

PAIRS = (5, 31)  # at least and at most so many times of both
SECONDS = 2.0  # after which the least will do


def _nothing() -> None: ...


def in_turns(
    first: Callable[[], object],
    second: Callable[[], object],
    *,
    ready: tuple[Callable[[], object], Callable[[], object]] = (_nothing, _nothing),
    seconds: float = SECONDS,
) -> np.ndarray:
    """Seconds that each takes, pair by pair: (pairs, 2). Both have to wait for the accelerator.

    Args:
        ready: what is done before each of them, and is not timed.
    """
    both = (first, ready[0]), (second, ready[1])
    for each in both:  # the first pass allocates
        _timed(*each)
    begun, pairs = perf_counter(), []
    while len(pairs) < PAIRS[0] or (len(pairs) < PAIRS[1] and perf_counter() - begun < seconds):
        turn = both if len(pairs) % 2 else both[::-1]
        times = tuple(_timed(*each) for each in turn)
        pairs.append(times if len(pairs) % 2 else times[::-1])
    return np.array(pairs)


def ratios(pairs: np.ndarray) -> np.ndarray:
    """Of `in_turns`: how many times as long the second took as the first, (pairs,). Of these the
    median is what to trust: on a busy machine the times of either alone come out at random, their
    medians and their fastest as well.
    """
    return pairs[:, 1] / pairs[:, 0]


def _timed(compute: Callable[[], object], ready: Callable[[], object]) -> float:
    ready()
    start = perf_counter()
    compute()
    return perf_counter() - start
