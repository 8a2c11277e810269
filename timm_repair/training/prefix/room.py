"""Room: where maps are kept, on the device and in files."""

import errno
import logging
import os
import shutil
import tempfile
from collections.abc import Hashable, Mapping, Sequence
from math import prod
from typing import Any

import torch
from accelerate.utils.memory import should_reduce_batch_size
from torch import Tensor

logger = logging.getLogger(__name__)

GIB = 2**30


class Room:
    """Where maps are kept: on the device as far as `memory` bytes go, then in memory-mapped files
    as far as `disk` bytes do.

    What goes where, and what nowhere, is settled by `sizes` before anything is computed: a run that
    was killed and goes on asks in another order.

    Args:
        sizes: bytes of all that will be asked for, the most wanted first.
    """

    def __init__(self, memory: int, disk: int, device: torch.device, sizes: Mapping[Any, int]):
        self.device, self.left, self.places = device, {"memory": memory, "disk": disk}, {}
        for key, size in sizes.items():
            place = next((place for place, left in self.left.items() if size <= left), None)
            if place:
                self.left[place] -= size
                self.places[key] = place

    def empty(self, key: Hashable, shape: Sequence[int], dtype: torch.dtype) -> Tensor | None:
        """Uninitialized, of this shape; None if there is no room."""
        if self.places.get(key) == "memory":
            try:
                return torch.empty(*shape, dtype=dtype, device=self.device)
            except RuntimeError as error:
                if not should_reduce_batch_size(error):
                    raise
                logger.warning(
                    "no memory for %.1f GiB of the prefix cache: computed anew each time instead;"
                    " set cache_memory lower",
                    prod(shape) * dtype.itemsize / GIB,
                )
        kept = (
            _mapped(prod(shape) * dtype.itemsize, dtype) if self.places.get(key) == "disk" else None
        )
        return None if kept is None else kept.view(*shape)


def _mapped(size: int, dtype: torch.dtype) -> Tensor | None:
    """A flat tensor in a file that goes when it does, also if the process is killed; None, with a
    warning, if the disk is full.
    """
    handle, path = tempfile.mkstemp(prefix="timm_repair-")
    try:
        if shutil.disk_usage(path).free < 2 * size:  # others need some too
            raise OSError(errno.ENOSPC, "less than half of the free space would be left")
        if hasattr(os, "posix_fallocate"):
            # a page that finds no room later would kill the process
            os.posix_fallocate(handle, 0, size)
        else:
            os.truncate(handle, size)
        return torch.from_file(path, shared=True, size=size // dtype.itemsize, dtype=dtype)
    except OSError as error:
        logger.warning(
            "no room for %.1f GiB of the prefix cache in %r (%s): computed anew each time instead;"
            " set TMPDIR to a larger disk, or cache_disk lower",
            size / GIB,
            tempfile.gettempdir(),
            error,
        )
        return None
    finally:
        os.close(handle)
        os.unlink(path)
