"""What is published: wheel and source distribution hold what they must, and the wheel works where
there is no clone. The demo, run from it, keeps its promise.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BUILD = "from setuptools import build_meta as b; b.build_sdist('dist'); b.build_wheel('dist')"


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """The folder with both, made from a copy of what the repository publishes."""
    copy = tmp_path_factory.mktemp("build")
    shutil.copytree(
        ROOT / "timm_repair", copy / "timm_repair", ignore=shutil.ignore_patterns("__pycache__")
    )
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    done = subprocess.run([sys.executable, "-c", BUILD], cwd=copy, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return copy / "dist"


def test_both_hold_the_whole_package(built):
    (wheel,), (source,) = built.glob("*.whl"), built.glob("*.tar.gz")
    files = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "timm_repair").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    page = {f"timm_repair/report/page/page.{kind}" for kind in ("html", "css", "js")}
    page |= {"timm_repair/app/fragments.html", "timm_repair/app/app.css"}
    typed = {"timm_repair/py.typed", "timm_repair/__init__.pyi"}
    assert {"timm_repair/hub/card.md"} | typed | page <= files
    with zipfile.ZipFile(wheel) as archive:
        assert {name for name in archive.namelist() if ".dist-info/" not in name} == files
    with tarfile.open(source) as archive:
        assert files < {name.partition("/")[2] for name in archive.getnames()}


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory) -> Path:
    """The programs of a new environment with the wheel. Of the environment of the tests it sees the
    other packages, and not the clone: a path in a .pth file is searched, its own .pth files are not
    read.
    """
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    programs, python = folder / "bin", folder / "bin" / "python"
    (wheel,) = built.glob("*.whl")
    command = [sys.executable, "-m", "pip", "--python", python, "install", "--no-deps"]
    subprocess.run([*command, "--no-index", "--quiet", wheel], check=True)
    site = next(folder.glob("lib/python*/site-packages"))
    (site / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return programs


def run(command: list, folder: Path) -> subprocess.CompletedProcess:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_the_commands_of_the_wheel(installed, tmp_path):
    """Both ways to call it; what is imported is the wheel's."""
    where = run(
        [installed / "python", "-c", "import timm_repair as t; print(t.__file__)"], tmp_path
    )
    assert Path(where.stdout.strip()).is_relative_to(installed.parent), where.stderr
    by_name, as_module = (
        run([*program, "--help"], tmp_path)
        for program in ([installed / "timm-repair"], [installed / "python", "-m", "timm_repair"])
    )
    assert by_name.returncode == as_module.returncode == 0, by_name.stderr + as_module.stderr
    assert "demo" in by_name.stdout and "Repair a model and save it" in as_module.stdout


def test_the_demo_keeps_its_promise(installed, tmp_path):
    # with 60 steps the classifier is so raw that it does not always keep it
    done = run([installed / "timm-repair", "demo", "--steps", "150", "--output", "out"], tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "equal those before saving: True" in done.stdout
    names = {"config.json", "model.safetensors", "repair.json", "README.md", "figures"}
    names |= {"report.html", "examples", "run.yaml"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    assert (tmp_path / "out" / "report.html").read_text().count("data:image/jpeg") > 10
    assert (tmp_path / "out" / "figures" / "overview.png").stat().st_size > 10_000
