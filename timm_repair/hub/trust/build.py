"""The model that a stranger's config describes, built without memory for weights."""

import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn
from torch.nn.modules.module import register_module_module_registration_hook

from timm_repair.errors import ConfigError
from timm_repair.hub.trust.config import shown

MAX_MODULES = 40_000  # the largest of timm's own models has some thousand
MAX_SECONDS = 60  # of computing, for an outline; that of an ordinary model takes less than one
# numbers that are not among the weights, such as attention masks, beyond as many as there are
# weights
MAX_BUFFERS = 2**26


@contextmanager
def bounded(limit: int = MAX_MODULES, seconds: float = math.inf) -> Iterator[None]:
    """Let at most `limit` modules be made in this thread, in so much computing time: a config of a
    hundred bytes can ask for billions.

    Raises:
        ConfigError: there are more.
    """
    thread, made, start = threading.get_ident(), 0, time.thread_time()

    def count(*_: Any) -> None:
        nonlocal made
        if threading.get_ident() != thread:
            return
        made += 1
        if made > limit:
            raise ConfigError(
                f"the saved model has more than {limit:,} modules, far more than its weights are"
                " for: refused"
            )
        if time.thread_time() - start > seconds:
            raise ConfigError(f"the saved model is not built after {seconds} seconds: refused")

    handle = register_module_module_registration_hook(count)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def sketching(limit: int = MAX_MODULES) -> Iterator[None]:
    """Models built inside have shapes and no memory (the meta device), and at most `limit` modules.

    Raises:
        ConfigError: there are more, or something else fails.
    """
    try:
        with bounded(min(limit, MAX_MODULES), MAX_SECONDS), torch.device("meta"):
            yield
    except ConfigError:
        raise
    except Exception as error:  # noqa: BLE001  whatever a stranger's numbers make a constructor of timm's raise
        raise ConfigError(
            f"timm cannot build the saved model ({type(error).__name__}: {shown(error)})"
        ) from error


def outline(config_folder: Path, limit: int = MAX_MODULES, **kwargs: Any) -> nn.Module:
    """The model that `config_folder`/config.json describes, on the meta device: shapes and no
    memory.

    Raises:
        ConfigError: timm cannot build it, it has more than `limit` modules, or needs absurd memory
            beside its weights.
    """
    with sketching(limit):
        model = timm.create_model(f"local-dir:{config_folder}", pretrained=False, **kwargs)
    check_buffers(model)
    return model


def check_buffers(model: nn.Module) -> None:
    """Compare what `model` holds beside its weights with these: an attention mask can take
    gigabytes that no weights file shows.

    Raises:
        ConfigError: it is far more.
    """
    held = {
        id(each): each.numel()
        for module in model.modules()
        for each in (*module.buffers(recurse=False), *vars(module).values())
        if isinstance(each, torch.Tensor)
    }
    usual, asked = sum(each.numel() for each in model.state_dict().values()), sum(held.values())
    if asked > usual + MAX_BUFFERS:
        raise ConfigError(
            f"the saved model needs {asked:,} numbers beside its {usual:,} weights: refused"
        )
