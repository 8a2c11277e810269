"""What is wrong, and what to do about it: suggestions, and packages that are not there."""

import pytest
from planted import classifier
from report.report_examples import report

from timm_repair import errors, repair
from timm_repair.errors import (
    MissingPackageError,
    OptionError,
    RepairError,
    did_you_mean,
    require_packages,
)
from timm_repair.hub.exporting import export
from timm_repair.pipeline.demo import digits
from timm_repair.report.figures.accuracy import before_after


def test_a_near_miss_is_suggested_and_all_are_named():
    assert did_you_mean("fintune", ["probe", "finetune"]) == (
        "; did you mean 'finetune'? Known: finetune, probe"
    )
    assert did_you_mean("zzz", ["probe", "finetune"]) == "; Known: finetune, probe"


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("lr", "did you mean 'learning_rate'"),
        ("epochs", "did you mean 'steps'"),
        ("max_clean_los", "did you mean 'max_clean_loss'"),
        ("retian", "did you mean the argument retain="),
        ("out", "did you mean the argument output_dir="),
        ("val", "did you mean the argument holdout="),
        ("device", r"accelerator=accelerate.Accelerator\(cpu=True\)"),
        ("bf16", "mixed_precision='bf16'"),
    ],
)
def test_what_is_called_otherwise_elsewhere(option, message):
    with pytest.raises(OptionError, match=message):
        repair("test_resnet", [], **{option: 1})


@pytest.mark.parametrize("name", ["model.tflite", "model.pt", "model.SAFETENSORS"])
def test_a_file_of_another_format_is_not_exported_under_its_name(name, tmp_path):
    with pytest.raises(OptionError, match="format that is not written here.*ending in .onnx or"):
        export(classifier(), tmp_path / name)
    assert not list(tmp_path.iterdir())


NEEDS = {
    "matplotlib": (lambda path: before_after(report()), "figures"),
    "onnx": (lambda path: export(classifier(), path / "model.onnx"), "export"),
    "onnxscript": (lambda path: export(classifier(), path / "model.onnx"), "export"),
    "onnxruntime": (lambda path: export(classifier(), path / "model.onnx"), "export"),
    "sklearn": (lambda path: digits(0), "demo"),
}


@pytest.mark.parametrize("package", NEEDS)
def test_a_missing_package_is_named_with_the_command_that_installs_it(
    package, tmp_path, monkeypatch
):
    use, extra = NEEDS[package]
    monkeypatch.setattr(errors, "find_spec", lambda name: None if name == package else object())
    told = rf"needs {package}, not installed here: pip install 'timm_repair\[{extra}\]'"
    with pytest.raises(MissingPackageError, match=told) as raised:
        use(tmp_path)
    assert isinstance(raised.value, RepairError) and isinstance(raised.value, ImportError)
    assert raised.value.name == package and not list(tmp_path.iterdir())


def test_installed_packages_are_not_missing():
    require_packages("demo", "this", "numpy", "torch")


def test_a_package_that_is_there_but_broken_says_so(tmp_path, monkeypatch):
    (tmp_path / "broken_package.py").write_text("raise AttributeError('built for numpy 1')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        MissingPackageError, match=r"cannot be imported \(AttributeError: built for"
    ):
        require_packages("demo", "this", "numpy", "broken_package")
