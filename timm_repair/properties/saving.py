"""A repaired network with properties as a folder: the network in the formats that can hold it, and
its report.
"""

import json
from pathlib import Path

from torch import nn

from timm_repair.errors import OutputError
from timm_repair.properties import networks, nnet
from timm_repair.report.report import Report

REPORT, NETWORK = "repair.json", "network"


def save(network: nn.Module, report: Report, directory: str | Path) -> Path:
    """Write network.onnx, network.nnet where that format can hold it, and repair.json; what was
    written is compared.

    Raises:
        PropertyError: ONNX cannot hold the network as a chain of layers.
        OutputError: the folder cannot be written.
        MissingPackageError: onnx is not installed.
    """
    folder = Path(directory).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for suffix in (".onnx", ".nnet") if nnet.holds(network) else (".onnx",):
            networks.save(network, folder / f"{NETWORK}{suffix}")
        new = folder / f"{REPORT}.new"
        new.write_text(json.dumps(report.to_dict(), indent=1), encoding="utf-8")
        new.replace(folder / REPORT)
    except OSError as error:
        raise OutputError(
            f"cannot write {str(folder)!r} ({error}): choose another directory"
        ) from error
    return folder
