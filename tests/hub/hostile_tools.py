"""Tools of hub/hostile_cases.py: ways to change a saved folder."""

import json
import os
import pickle
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from timm_repair.errors import ConfigError, RepairError

GONE = object()  # in place of a value: the key is deleted
WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class Case:
    """`change` makes a folder hostile; `timm` says that timm itself, through the entry point, must
    refuse it with ConfigError too.
    """

    name: str
    change: Callable[[Path], None]
    message: str
    error: type[RepairError] = ConfigError
    timm: bool = False
    late: bool = False  # only timm's loader can tell, when the model (of ordinary size) is there
    base: bool = False  # a patch whose base has to be looked at


class Trap:
    """Unpickling it makes the directory `trapped` where the process runs."""

    def __reduce__(self):
        return os.mkdir, ("trapped",)


def updated(found: dict, changes: dict) -> None:
    """Change `found` in place."""
    for key, value in changes.items():
        if value is GONE:
            found.pop(key, None)
        else:
            found[key] = value


def in_config(change: Callable[[dict], Any]) -> Callable[[Path], None]:
    """Change config.json."""

    def apply(folder: Path) -> None:
        path = folder / "config.json"
        config = json.loads(path.read_text())
        change(config)
        path.write_text(json.dumps(config))

    return apply


def top(**changes: Any) -> Callable[[Path], None]:
    return in_config(lambda config: updated(config, changes))


def args(**changes: Any) -> Callable[[Path], None]:
    return in_config(lambda config: updated(config["model_args"], changes))


def pretrained(**changes: Any) -> Callable[[Path], None]:
    return in_config(lambda config: updated(config["pretrained_cfg"], changes))


def edit(**changes: Any) -> Callable[[Path], None]:
    return in_config(lambda config: updated(config["model_args"]["edits"][0], changes))


def genotype(**changes: Any) -> Callable[[Path], None]:
    return in_config(lambda config: updated(config["model_args"]["edits"][0]["genotype"], changes))


def node(**changes: Any) -> Callable[[Path], None]:
    return in_config(
        lambda config: updated(config["model_args"]["edits"][0]["genotype"]["nodes"][0], changes)
    )


def edge(**changes: Any) -> Callable[[Path], None]:
    return in_config(
        lambda config: updated(config["model_args"]["edits"][0]["genotype"]["edges"][0], changes)
    )


def times(key: str, count: int) -> Callable[[Path], None]:
    """Repeat what a genotype has so often."""

    def change(config: dict) -> None:
        found = config["model_args"]["edits"][0]["genotype"]
        found[key] = found[key][:1] * count

    return in_config(change)


def patch(**changes: Any) -> Callable[[Path], None]:
    return in_config(lambda config: updated(config["timm_repair"], changes))


def raw(name: str, data: bytes) -> Callable[[Path], None]:
    """Replace a file."""
    return lambda folder: (folder / name).write_bytes(data) and None


def sparse(name: str, size: int) -> Callable[[Path], None]:
    """Make a file that long; it takes no room on the disk."""

    def apply(folder: Path) -> None:
        (folder / name).touch()
        os.truncate(folder / name, size)

    return apply


def only(name: str) -> Callable[[Path], None]:
    """Weights in another format alone."""

    def apply(folder: Path) -> None:
        (folder / WEIGHTS).unlink()
        (folder / name).write_bytes(pickle.dumps(Trap()))

    return apply


def linked(name: str, target: str) -> Callable[[Path], None]:
    """Replace a file by a link."""

    def apply(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).symlink_to(target)

    return apply


def tensors(
    change: Callable[[dict[str, torch.Tensor]], Any], name: str = WEIGHTS
) -> Callable[[Path], None]:
    """Change the weights; safetensors' own writer writes them."""

    def apply(folder: Path) -> None:
        state = safetensors.torch.load_file(folder / name)
        change(state)
        safetensors.torch.save_file(state, folder / name)

    return apply


def header(change: Callable[[dict], Any], length: int | None = None) -> Callable[[Path], None]:
    """Change what the weights file says of itself; `length` is what it says of its header's
    length.
    """

    def apply(folder: Path) -> None:
        data = (folder / WEIGHTS).read_bytes()
        size = struct.unpack("<Q", data[:8])[0]
        found = json.loads(data[8 : 8 + size])
        change(found)
        text = json.dumps(found).encode()
        (folder / WEIGHTS).write_bytes(
            struct.pack("<Q", length or len(text)) + text + data[8 + size :]
        )

    return apply


def cut(folder: Path) -> None:
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[: len(data) // 2])


def first(**changes: Any) -> Callable[[dict], None]:
    """Change what a header says of its largest tensor."""

    def change(found: dict) -> None:
        records = [v for k, v in found.items() if k != "__metadata__"]
        updated(max(records, key=lambda v: v["data_offsets"][1] - v["data_offsets"][0]), changes)

    return change


def crowd(found: dict) -> None:
    found |= {
        f"t{i}": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]} for i in range(100_000)
    }


def gone(folder: Path) -> None:
    (folder / WEIGHTS).unlink()


def both(*changes: Callable[[Path], None]) -> Callable[[Path], None]:
    return lambda folder: [change(folder) for change in changes] and None


def doubled(folder: Path) -> None:
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text.replace("{", '{"architecture": "resnet18", ', 1))


def overflowing(state: dict[str, torch.Tensor]) -> None:
    state["fc.bias"] = torch.full_like(state["fc.bias"], 1e300, dtype=torch.float64)


def swin(**options: Any) -> Callable[[Path], None]:
    """Another architecture, with options that its weights do not show."""
    return both(
        top(architecture="swin_tiny_patch4_window7_224"),
        in_config(lambda c: c.update(model_args=options)),
    )


def widened(base: str, **options: Any) -> Callable[[Path], None]:
    return in_config(lambda c: c.update(model_args={"base": base, "edits": []} | options))


def many_edits(config: dict) -> None:
    config["model_args"]["edits"] *= 65
