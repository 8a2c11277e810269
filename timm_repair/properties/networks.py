"""Networks from files: .nnet and .onnx to a plain nn.Sequential in eval mode, and back."""

from pathlib import Path

from torch import nn

from timm_repair.errors import ModelError, did_you_mean
from timm_repair.properties import nnet, onnx_files, onnx_writing

SUFFIXES = (".nnet", ".onnx")


def is_network_file(model: object) -> bool:
    """Whether `model` is the name of a file that `load` reads."""
    return isinstance(model, str | Path) and Path(model).suffix.lower() in SUFFIXES


def load(path: str | Path) -> nn.Sequential:
    """The network in the file, with its `scaling` where the format has one.

    Raises:
        PropertyError: malformed, with the line.
        ModelError: there is no such file, or its suffix is not known.
        MissingPackageError: the file is ONNX, and onnx is not installed.
    """
    path, suffix = _suffix(path)
    if not path.is_file():
        raise ModelError(f"there is no file {str(path)!r}")
    if suffix == ".onnx":
        return onnx_files.read(path).eval()
    network, scaling = nnet.read(path)
    network.scaling = scaling  # type: ignore[assignment]  # goes back into the header
    return network.eval()


def save(network: nn.Module, path: str | Path) -> Path:
    """Write `network` in the format of the path's suffix; what was written is compared with it.

    Raises:
        PropertyError: the format cannot hold it, or what was written answers otherwise.
        ModelError: the suffix is not known.
        OutputError: the file cannot be written.
        MissingPackageError: the file is ONNX, and onnx is not installed.
    """
    path, suffix = _suffix(path)
    if suffix == ".onnx":
        return onnx_writing.write(network, path)
    return nnet.write(network, path, getattr(network, "scaling", None))


def _suffix(path: str | Path) -> tuple[Path, str]:
    path = Path(path).expanduser()
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ModelError(f"{path.name!r} is no network file{did_you_mean(path.suffix, SUFFIXES)}")
    return path, suffix


def check_savable(network: nn.Module) -> None:
    """Raise PropertyError or MissingPackageError unless `network` can be written as ONNX."""
    onnx_writing.chain_of(network)
    onnx_files.require_onnx()
