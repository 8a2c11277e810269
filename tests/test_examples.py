"""The examples run to their end, each with a few steps; those that compare print their table.
repair.py: test_docs.py.
"""

import json
import re
import runpy
from pathlib import Path

import numpy as np
import planted
import pytest
from PIL import Image

import timm_repair

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture
def run(monkeypatch, tmp_path, offline):
    """Run an example as a script in an empty directory; anything but exit status 0 fails."""

    def run(name: str, *options: str) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.syspath_prepend(EXAMPLES)  # as for a script
        monkeypatch.setattr("sys.argv", [name, *options])
        try:
            runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        except SystemExit as end:
            assert not end.code, end.code

    return run


def test_compare_methods(run, undiagnosed, tmp_path, capsys):
    run("compare_methods.py", "--steps", "8", "--output", "comparison.json")
    rows = timm_repair.Comparison.from_dict(
        json.loads((tmp_path / "comparison.json").read_text())
    ).rows
    assert list(rows) == [
        "bn_recalibration",
        "finetune network",
        "finetune chosen block",
        "archrepair",
        "archrepair random",
    ]
    assert "finetune chosen block" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "row"), [("own_method.py", "last layer"), ("own_strategy.py", "FairDARTS")]
)
def test_own(run, undiagnosed, capsys, name, row):
    run(name, "--steps", "8")
    # in every table, as a row of its own
    assert re.search(rf"^ *{row}\b", capsys.readouterr().out, re.MULTILINE)


def test_corruptions(run, tmp_path, capsys):
    for i, (image, label) in enumerate(planted.pictures(6)):
        (tmp_path / "images" / str(label)).mkdir(parents=True, exist_ok=True)
        image.save(tmp_path / "images" / str(label) / f"{i}.png")
    run("corruptions.py", "images", "--images", "2", "--output", "sheet.png")
    assert "19 corruptions of 2 images of 32 pixels" in capsys.readouterr().out
    sheet = np.asarray(Image.open(tmp_path / "sheet.png")).astype(int)
    rows = (
        sheet[18:]
        .reshape(19, 38, *sheet.shape[1:])[:, :32, 130:]
        .reshape(19, 32, 6, 70, 3)[:, :, :, :64]
    )
    # the originals, in each row
    assert (rows[:, :, 0] == rows[:1, :, 0]).all() and len(np.unique(rows[0, :, 0])) > 10
    changes = np.abs(rows - rows[:, :, :1]).mean((1, 3, 4))  # (row, column)
    # the last row, saturate, may leave grey images alone
    assert (changes[:, 0] == 0).all() and (changes[:18, 1:] > 0).all()
