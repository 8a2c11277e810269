"""Exporting: a model as one file that runs without timm_repair and timm: ONNX, or an exported program of torch."""

import tempfile
import warnings
from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import nn

from timm_repair.errors import ConfigError, OptionError, OutputError, did_you_mean
from timm_repair.preprocessing import Preprocessing

FORMATS = {"onnx": ".onnx", "torch": ".pt2"}


def export(model: nn.Module, path: str | Path, *, format: str = "onnx") -> Path:
    """Write `model`, in eval mode, for any batch size, and compare what was written with it.

    Args:
        model: takes (N, C, H, W) normalized images, C, H and W as in its pretrained_cfg; gives (N, K) logits.
        path: the file; the usual suffix (.onnx, .pt2) is added to a name without one.
        format: "onnx" needs the packages onnx and onnxscript, and onnxruntime to compare; "torch" is read by `torch.export.load`, which
            opens a pickle of sample inputs: load only your own.

    Returns:
        The file's path.

    Raises:
        OptionError: unknown format.
        OutputError: the file cannot be written.
        ConfigError: a package is missing, or the written model answers otherwise.
    """
    if format not in FORMATS:
        raise OptionError(f"no export format {format!r}; there are {', '.join(FORMATS)}{did_you_mean(format, FORMATS)}")
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if format == "onnx" and find_spec(name) is None]
    if missing:
        raise ConfigError(f"exporting to ONNX needs {', '.join(missing)}: pip install 'timm_repair[export]'")
    path = Path(path).expanduser()
    path = path if path.suffix else path.with_suffix(FORMATS[format])
    model = deepcopy(model).to("cpu", memory_format=torch.contiguous_format).eval()
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(3, *Preprocessing.of(model).input_size, generator=generator)
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".exporting-") as scratch, torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporters' own deprecations
            new = Path(scratch) / path.name
            answer = _onnx(model, images, new) if format == "onnx" else _program(model, images, new)
            expected = model(images)
            if not torch.allclose(answer, expected, rtol=1e-3, atol=1e-4 * max(1.0, expected.abs().max().item())):
                raise ConfigError(f"the exported model differs by {(answer - expected).abs().max():.2g} in its logits: not written")
            new.replace(path)
    except OSError as error:
        raise OutputError(f"cannot write {str(path)!r} ({error}): choose another file") from error
    return path


def _program(model: nn.Module, images: torch.Tensor, path: Path) -> torch.Tensor:
    program = torch.export.export(model, (images[:2],), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.export.save(program, path)
    return torch.export.load(path).module()(images)


def _onnx(model: nn.Module, images: torch.Tensor, path: Path) -> torch.Tensor:
    import onnxruntime

    torch.onnx.export(model, (images[:2],), str(path), dynamo=True, input_names=["images"], output_names=["logits"], verbose=False,
                      dynamic_shapes=({0: torch.export.Dim("batch")},), external_data=False)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"images": images.numpy()})[0])
