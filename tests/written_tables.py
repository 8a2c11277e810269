"""The script that writes the tables, run on results in a folder of the test's own."""

import json
import runpy
from pathlib import Path

import pytest

__all__ = ["run"]

TABLE = Path(__file__).parent.parent / "benchmarks" / "table.py"
NAMES = ("repair_cifar", "targets", "regret", "plain", "speed")


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run table.py on results in a directory of the test's own; returns the tables."""
    readme, results = tmp_path / "README.md", tmp_path / "results.md"
    pages = {
        "processes.md": ("imagenet_stages", "imagenet_machines"),
        "speed.md": ("prefix", "drift", "scaling", "compiled"),
        "blocks.md": ("methods_of_models",),
        "diagnosis.md": ("diagnosis", "diagnosis_clean"),
        "properties.md": ("properties",),
        "training.md": ("default_targets", "default"),
        "comparing.md": ("every_method", "claims"),
        "methods/README.md": ("methods",),
    }
    (tmp_path / "methods").mkdir()
    for page, names in (
        (readme, ("summary",)),
        (results, NAMES),
        *((tmp_path / page, names) for page, names in pages.items()),
    ):
        page.write_text(
            "".join(
                f"<!-- table:{name}:start -->\n<!-- table:{name}:end -->\ntext\n" for name in names
            )
        )

    def write(file: dict) -> None:
        (tmp_path / f"repair_cifar-{file['population']}-{file['seed']}.json").write_text(
            json.dumps(file)
        )

    def run(*options: str) -> str:
        monkeypatch.syspath_prepend(TABLE.parent.parent)
        monkeypatch.setattr(
            "sys.argv",
            [
                "table.py",
                "--results",
                str(tmp_path),
                "--readme",
                str(readme),
                "--docs",
                str(tmp_path),
                *options,
            ],
        )
        runpy.run_path(str(TABLE), run_name="__main__")
        return results.read_text()

    run.write = write
    return run


def row(text: str, label: str) -> list[str]:
    line = next(line for line in text.splitlines() if line.startswith(f"| {label} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]
