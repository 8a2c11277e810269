"""Exporting: a model as one file that runs without timm_repair and timm: ONNX, or an exported
program of torch.
"""

import tempfile
import warnings
from pathlib import Path

import torch
from torch import nn

from timm_repair.errors import (
    ConfigError,
    OptionError,
    OutputError,
    RepairError,
    did_you_mean,
    require_packages,
)
from timm_repair.images.preprocessing import Preprocessing
from timm_repair.models.copying import copied, in_working_form
from timm_repair.models.wrapping import unwrapped
from timm_repair.runtime.boundary import public

FORMATS = {"onnx": ".onnx", "torch": ".pt2"}
# what files of other programs end in
OTHERS = (
    {".tflite", ".pb", ".mlmodel", ".mlpackage", ".engine", ".trt", ".plan", ".xml", ".h5"}
    | {".keras", ".pt", ".pth", ".ckpt", ".bin", ".safetensors", ".torchscript"}
)  # fmt: skip


@public
def export(model: nn.Module, path: str | Path, *, format: str = "onnx") -> Path:
    """Write `model`, in eval mode and float32, for any batch size, and compare what was written
    with it.

    Args:
        model: takes (N, C, H, W) normalized images, C, H and W as in its pretrained_cfg; gives (N,
            K) logits.
        path: the file; the usual suffix (.onnx, .pt2) is added to a name without it.
        format: "onnx" needs the packages onnx and onnxscript, and onnxruntime to compare; "torch"
            is read by `torch.export.load`, which opens a pickle of sample inputs: load only your
            own.

    Returns:
        The file's path.

    Raises:
        OptionError: unknown format, or a suffix of the other one.
        OutputError: the file cannot be written.
        MissingPackageError: one of these packages is not installed.
        ConfigError: the model cannot be exported, or the written model
            answers otherwise. A file that was there before stays.
    """
    path = _checked(Path(path).expanduser(), format)
    model = in_working_form(
        copied(unwrapped(model)), torch.device("cpu"), torch.contiguous_format
    ).eval()
    images = torch.randn(
        3, *Preprocessing.of(model).input_size, generator=torch.Generator().manual_seed(0)
    )
    try:
        with (
            tempfile.TemporaryDirectory(dir=path.parent, prefix=".exporting-") as scratch,
            torch.no_grad(),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")  # the exporters' own deprecations
            new = Path(scratch) / path.name
            answer = _onnx(model, images, new) if format == "onnx" else _program(model, images, new)
            expected = model(images)
            if not torch.allclose(
                answer, expected, rtol=1e-3, atol=1e-4 * max(1.0, expected.abs().max().item())
            ):
                raise ConfigError(
                    f"the exported model differs by {(answer - expected).abs().max():.2g} in its"
                    " logits: not written"
                )
            new.replace(path)
    except OSError as error:
        raise OutputError(f"cannot write {str(path)!r} ({error}): choose another file") from error
    except RepairError:
        raise
    except Exception as error:  # what the exporters and onnxruntime raise has no common family
        reason = (str(error.__cause__ or error).strip() or type(error).__name__).splitlines()[0]
        raise ConfigError(
            f"this model cannot be exported as {format!r} for any batch size: {reason:.300}"
        ) from error
    return path


def _checked(path: Path, format: str) -> Path:
    """The path with its suffix; what is wrong shows before any work."""
    if format not in FORMATS:
        raise OptionError(f"no export format {format!r}{did_you_mean(str(format), FORMATS)}")
    if format == "onnx":
        require_packages("export", "exporting to ONNX", "onnx", "onnxscript", "onnxruntime")
    meant = next(
        (name for name, suffix in FORMATS.items() if name != format and suffix == path.suffix), None
    )
    if meant:
        raise OptionError(
            f"{path.name!r} is the name of another format: pass format={meant!r}, or a name ending"
            f" in {FORMATS[format]}"
        )
    if path.suffix.lower() in OTHERS:
        raise OptionError(
            f"{path.name!r} is the name of a format that is not written here: give a name ending in"
            f" {' or '.join(FORMATS.values())}, and convert that file with the tools of the other"
            " format; weights alone are saved by save_pretrained"
        )
    if not path.name:
        raise OutputError(f"{str(path)!r} is no name of a file: choose one")
    # "resnet18.a1_in1k" has no suffix
    path = path if path.suffix == FORMATS[format] else path.with_name(path.name + FORMATS[format])
    if not path.parent.is_dir():
        raise OutputError(
            f"the directory of {str(path)!r} does not exist: make it, or choose another"
        )
    if path.is_dir():
        raise OutputError(f"{str(path)!r} is a directory: choose another file")
    return path


def _program(model: nn.Module, images: torch.Tensor, path: Path) -> torch.Tensor:
    program = torch.export.export(
        model, (images[:2],), dynamic_shapes=({0: torch.export.Dim("batch")},)
    )
    torch.export.save(program, path)
    return torch.export.load(path).module()(images)


def _onnx(model: nn.Module, images: torch.Tensor, path: Path) -> torch.Tensor:
    import onnxruntime

    torch.onnx.export(
        model,
        (images[:2],),
        str(path),
        dynamo=True,
        input_names=["images"],
        output_names=["logits"],
        verbose=False,
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        external_data=False,
    )
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"images": images.numpy()})[0])
