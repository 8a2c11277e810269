"""Exported models run without timm and timm_repair, for any batch size; what cannot be exported
leaves nothing behind.
"""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from hub import edited_models
from processes.fresh import fresh
from report.report_examples import report as example_report
from torch import nn

from timm_repair.errors import ConfigError, OptionError, OutputError
from timm_repair.hub import exporting
from timm_repair.pipeline.repaired import Repaired

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
SMALL = {  # small ones of two families, whose full size takes a minute
    "densenet121": (
        {"block_config": (2, 4), "growth_rate": 8},
        "pair",
        "features.denseblock2.denselayer3-denselayer4",
    ),
    "test_efficientnet": ({}, "stage", "blocks.2"),
}
# an export takes seconds
FAMILIES = {"onnx": ("test_resnet", "test_efficientnet"), "torch": ("vgg11_bn", "densenet121")}
RUN = """
import sys
sys.modules["timm"] = sys.modules["timm_repair"] = None  # cannot be imported
from pathlib import Path
for path in sorted(Path("..").glob("*.pt2")):
    model = torch.export.load(path).module()
    for count in (1, 2, 5):
        found[f"{path.name} {count}"] = model(given["images"][:count])
for path in sorted(Path("..").glob("*.onnx")):
    import onnxruntime
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert [each.name for each in session.get_inputs() + session.get_outputs()] == ["images", "logits"]
    for count in (1, 2, 5):
        found[f"{path.name} {count}"] = session.run(None, {"images": given["images"][:count].numpy()})[0]
"""


def families(format: str, monkeypatch) -> dict[str, nn.Module]:
    """Repaired models, all four families between the formats, for images of 64 pixels."""
    models = {}
    for name, options in SMALL.items():
        monkeypatch.setitem(edited_models.MODELS, name, options)
    for name in FAMILIES[format]:
        models[name] = edited_models.edited(name)
        models[name].pretrained_cfg = {**models[name].pretrained_cfg, "input_size": (3, 64, 64)}
    return models


@torch.no_grad()
def test_families(monkeypatch, tmp_path, capfd):
    """One fresh process runs what all formats made: to start it takes longer than to run it."""
    missing = [package for package in PACKAGES if not find_spec(package)]
    models, images, files = {}, torch.randn(5, 3, 64, 64), set()
    for format in exporting.FORMATS:
        if format == "onnx" and missing:
            continue
        for name, model in families(format, monkeypatch).items():
            model.train()  # exported in eval mode all the same, and left as it was
            path = Repaired(model, example_report()).export(tmp_path / name, format=format)
            assert path == tmp_path / f"{name}{exporting.FORMATS[format]}" and model.training
            models[path.name] = model
            files.add(path.name)
            found = {each.name for each in tmp_path.iterdir()}
            assert found == files, "no scratch, and no weights beside the model"
    assert capfd.readouterr() == ("", "")
    found = fresh(RUN, tmp_path / "run", images=images)
    assert found.keys() == {f"{file} {count}" for file in models for count in (1, 2, 5)}
    for key, logits in found.items():
        file, count = key.split()
        expected = models[file].eval()(images[: int(count)])
        torch.testing.assert_close(
            logits, expected, rtol=1e-4, atol=1e-5, msg=lambda text, key=key: f"{key}: {text}"
        )
    if missing:
        pytest.skip(
            f"for want of {', '.join(missing)} (only the formats other than ONNX were tested)"
        )


class Small(nn.Module):
    """A classifier that torch can export; what follows it can not."""

    pretrained_cfg = {"input_size": (3, 32, 32), "mean": (0.5,) * 3, "std": (0.5,) * 3}

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return self.conv(x).mean((2, 3))


class Branching(Small):
    def forward(self, x):
        return super().forward(x) if x.sum() > 0 else -super().forward(x)


class TwoAtATime(Small):
    def forward(self, x):
        return super().forward(x).reshape(2, 4)


class Many(Small):
    def forward(self, x):
        return super().forward(x), x + 1


class Forgetful(Small):
    def forward(self, x):
        return super().forward(x) + (0 if torch.compiler.is_exporting() else 1)


@pytest.mark.parametrize("format", exporting.FORMATS)
@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Branching, "data-dependent"),
        (TwoAtATime, "batch"),
        (Many, "tuple"),
        (Forgetful, r"differs by 1 in its logits"),
    ],
)
def test_what_cannot_be_exported_leaves_the_earlier_file(kind, message, format, tmp_path):
    for package in PACKAGES if format == "onnx" else ():
        pytest.importorskip(package, reason=f"for want of {package}")
    path = tmp_path / f"model{exporting.FORMATS[format]}"
    path.write_text("earlier")
    with pytest.raises(ConfigError, match=message) as caught:
        exporting.export(kind(), path, format=format)
    assert "\x1b" not in str(caught.value) and len(str(caught.value)) < 500
    assert [p.name for p in tmp_path.iterdir()] == [path.name] and path.read_text() == "earlier"


def test_refused_before_any_work(tmp_path):
    (tmp_path / "folder.pt2").mkdir()
    (tmp_path / "file").write_text("")
    for path, format, error, message in (
        ("x", "onxn", OptionError, "did you mean 'onnx'"),
        ("x", None, OptionError, "Known: onnx, torch"),
        ("x.pt2", "onnx", OptionError, "pass format='torch'"),
        ("x.onnx", "torch", OptionError, "ending in .pt2"),
        ("folder", "torch", OutputError, "is a directory"),
        ("missing/x", "torch", OutputError, "choose another"),
        ("file/x", "torch", OutputError, "choose another"),
        ("/proc/x", "torch", OutputError, "choose another"),
    ):
        with pytest.raises(error, match=message):
            exporting.export(Small(), tmp_path / path, format=format)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder.pt2"]


def test_half_precision_and_the_users_home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    model = Small().to(torch.bfloat16)
    path = exporting.export(model, Path("~/model"), format="torch")
    assert path == tmp_path / "model.pt2" and next(model.parameters()).dtype == torch.bfloat16
    images = torch.randn(1, 3, 32, 32)
    assert torch.equal(torch.export.load(path).module()(images), model.float()(images))
