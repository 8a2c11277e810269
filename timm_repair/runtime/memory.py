"""Memory: how much of a batch fits, and what to do where it does not."""

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TypeVar

from accelerate.utils.memory import find_executable_batch_size, should_reduce_batch_size
from torch import Tensor

from timm_repair.errors import MemoryExceededError

T = TypeVar("T")

SMALLER_TRAINING = (
    "lower batch_size or cache_memory, accumulate gradients"
    " (Accelerator(gradient_accumulation_steps=2)), repair a block nearer to the output, or use"
    " mixed precision. With output_dir, the same call goes on from the last checkpoint where more"
    " memory is free"
)


def as_many_as_fit(compute: Callable[[Tensor], T], indices: Tensor) -> tuple[T, int]:
    """`compute` of the first of `indices`, and of how many: all, or the first half, quarter, … that
    fits in memory.
    """

    def attempt(size: int) -> tuple[T, int]:
        remedy = (
            "use a device with more memory, a model for images of fewer pixels, or a smaller model"
        )
        with (
            out_of_memory_explained("the evaluation of a single image", remedy)
            if size == 1
            else nullcontext()
        ):
            return compute(indices[:size]), size

    # accelerate's loop starts with a garbage collection, which takes as long as many batches: only
    # where memory ran out
    try:
        return attempt(len(indices))
    except RuntimeError as error:
        if not should_reduce_batch_size(error):
            raise
    sizes = (len(indices) >> halvings for halvings in itertools.count(1))
    # passed directly: its decorator form with arguments has lost reduce_batch_size_fn in some
    # versions
    return find_executable_batch_size(
        attempt, starting_batch_size=next(sizes), reduce_batch_size_fn=sizes.__next__
    )()


@contextmanager
def out_of_memory_explained(what: str, remedy: str = SMALLER_TRAINING) -> Iterator[None]:
    """Say what to do where the enclosed work runs out of memory, and must not be cut because its
    result would be another.

    Args:
        what: does not fit, such as "batch_size=128".
        remedy: what to do; the default is for training.

    Raises:
        MemoryExceededError: from the error that was met.
    """
    try:
        yield
    except RuntimeError as error:
        if not should_reduce_batch_size(error):
            raise
        raise MemoryExceededError(f"{what} does not fit in memory: {remedy}") from error
