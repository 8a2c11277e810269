"""run.yaml: what was typed, as a file, and back."""

import pytest
import yaml

from timm_repair import cli
from timm_repair.cli import configuration, main
from timm_repair.errors import OptionError

TYPED = [
    "--model=local-dir:a b",
    "--failures=it's here",
    "--holdout=failing=x/",
    "--holdout=clean=a=b c",
    "--output=out",
    "--no-diagnosis",
    "--no-images",
    "--seed=3",
    "--data=label_column=digit",
    "--set=steps=5",
    "--set=block=['a', 'b']",
    "--set=score=None",
    "--set=strategy='3'",
    "--set=learning_rate=5e-4",
    "--method=finetune",
]


def parsed(name: str, words: list[str]) -> dict:
    command = cli.parser(name, words)
    found = vars(command.parse(configuration.expanded(command, words)))
    return {key: value for key, value in found.items() if key not in configuration.MOMENTARY}


def kept(name: str, words: list[str], folder) -> str:
    command = cli.parser(name, words)
    text = configuration.written(command, command.parse(words))
    (folder / "run.yaml").write_text(text)
    return str(folder / "run.yaml")


def test_what_was_typed_comes_back(tmp_path):
    file = kept("repair", [*TYPED, "--overwrite", "--quiet"], tmp_path)
    first, again = parsed("repair", TYPED), parsed("repair", ["--config", file])
    for pairs in ("set", "data"):
        first[pairs], again[pairs] = (configuration.parse(each[pairs]) for each in (first, again))
    assert again == first
    text = yaml.safe_load((tmp_path / "run.yaml").read_text())
    assert text["set"] == {
        "steps": 5,
        "block": ["a", "b"],
        "score": None,
        "strategy": "3",
        "learning_rate": 5e-4,
    }
    assert text["command"] == "repair" and text["no-images"] is True
    assert not {"overwrite", "quiet", "json", "answer", "retain"} & text.keys(), "as by default"


def test_several_methods_and_seeds_come_back(tmp_path):
    words = ["--model=m", "--failures=f", "--methods", "finetune", "finetune block=layer1"]
    words += ["--seeds", "0", "1"]
    file = kept("compare", words, tmp_path)
    assert parsed("compare", [f"--config={file}"]) == parsed("compare", words)


def test_what_is_typed_beside_it_goes_first(tmp_path):
    file = kept("repair", TYPED, tmp_path)
    again = parsed("repair", [f"--config={file}", "--seed=4", "--holdout=y/", "--set=steps=9"])
    assert again["seed"] == 4 and again["holdout"] == ["y/"] and again["model"] == "local-dir:a b"
    assert configuration.parse(again["set"])["steps"] == 9
    assert configuration.parse(again["set"])["block"] == ["a", "b"], "names are added to names"


def test_null_is_what_was_not_said(tmp_path):
    (tmp_path / "run.yaml").write_text("model: m\nfailures: null\nset: null\noutput: out\n")
    again = parsed("repair", ["--config", str(tmp_path / "run.yaml")])
    assert again["failures"] is None and again["set"] == [] and again["model"] == "m"


def test_arguments_without_a_name(tmp_path):
    file = kept("blocks", ["resnet18", "--granularity=unit"], tmp_path)
    assert parsed("blocks", ["--config", file]) == parsed(
        "blocks", ["resnet18", "--granularity=unit"]
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("command: compare\nmodel: x", "is of `compare`, not of `repair`"),
        ("retian: x", "says 'retian', which `repair` does not take; did you mean 'retain'?"),
        ("- a\n- b", "must hold names with values"),
        ("a: [", "cannot be read"),
        ("no-images: 3", "no-images in .* must be true or false"),
        ("overwrite: true", "does not take"),
        (None, "cannot be read"),
    ],
)
def test_files_that_are_none(text, said, tmp_path, capsys):
    file = tmp_path / "run.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(OptionError, match=said):
        configuration.expanded(cli.parser("repair"), ["--config", str(file)])
    assert main(["repair", "--config", str(file)]) == 2
    assert capsys.readouterr().err.startswith("timm-repair: ")
