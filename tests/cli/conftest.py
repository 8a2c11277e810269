"""What the tests of the command line share: a folder as a user has it."""

import json
from pathlib import Path

import datasets
import planted
import pytest
import timm


@pytest.fixture(scope="session")
def place(deployed, pictures, tmp_path_factory) -> Path:
    """A directory with a saved model, failures as an image folder and retained examples as a
    parquet file.
    """
    folder = tmp_path_factory.mktemp("cli")
    arguments = dict(deployed._model_args)
    timm.models.save_for_hf(deployed, str(folder / "model"), model_args=arguments)
    config = json.loads((folder / "model" / "config.json").read_text())
    config["label_names"] = config["pretrained_cfg"]["label_names"] = [
        f"digit {i}" for i in range(10)
    ]
    (folder / "model" / "config.json").write_text(json.dumps(config))
    wrong, _ = planted.wrong_by(deployed, pictures["pool"])
    assert [label for _, label in wrong] == [0, 1] * 100
    for number, (image, label) in enumerate(wrong):
        directory = folder / "failures" / f"digit {label}"
        directory.mkdir(parents=True, exist_ok=True)
        image.save(directory / f"{number}.png")
    for name, part in (("retain", pictures["train"][:120]), ("holdout", pictures["unseen"][:40])):
        table = {"image": [image for image, _ in part], "label": [label for _, label in part]}
        features = datasets.Features(
            {
                "image": datasets.Image(),
                "label": datasets.ClassLabel(names=[f"digit {i}" for i in range(10)]),
            }
        )
        datasets.Dataset.from_dict(table, features=features).to_parquet(folder / f"{name}.parquet")
    return folder


@pytest.fixture
def given(place) -> list[str]:
    return [
        f"--model=local-dir:{place / 'model'}",
        f"--failures={place / 'failures'}",
        f"--retain={place / 'retain.parquet'}",
    ]


@pytest.fixture(autouse=True)
def quiet(recwarn):
    """Warnings are a program's to show."""
