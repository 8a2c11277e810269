"""README and docs: every python and json block runs, every `timm-repair` line runs, every relative
link leads somewhere.

The text is run as printed but for the Hub model, which becomes a tiny local one, and the number of
steps where the text leaves it open.
"""

import json
import re
import runpy
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import networks
import planted
import pytest
import timm
from accelerate.commands.launch import launch_command_parser
from loopback.pushing import *  # noqa: F403
from timm.models import save_for_hf

import timm_repair
from timm_repair import cli
from timm_repair.cli import configuration
from timm_repair.hub.lineage import lineage
from timm_repair.methods import METHODS
from timm_repair.options import RUN
from timm_repair.properties import networks as made
from timm_repair.training.options import Training

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
HUB_MODEL = "hf-hub:timm/resnet18.a1_in1k"
NO_EFFECT = "ignore::timm_repair.NoEffectWarning"  # six steps may change nothing
LINK = re.compile(r"(?<!`)!?\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def blocks(language: str) -> list:
    found = []
    for page in PAGES:
        texts = [text for tongue, text in FENCE.findall(page.read_text()) if tongue == language]
        found += [
            pytest.param(text, id=f"{page.relative_to(ROOT)}-{i}") for i, text in enumerate(texts)
        ]
    return found


def commands() -> list[list[str]]:
    """Words of the lines that call the command, or its script through accelerate (which only starts
    it), each once.
    """
    lines = (
        shlex.split(line, comments=True)
        for block in blocks("sh")
        for line in block.values[0].splitlines()
    )
    found = [
        started(line[2:]) if line[0] == "accelerate" else line
        for line in lines
        if line[0] in ("timm-repair", "accelerate")
    ]
    return [line for i, line in enumerate(found) if line not in found[:i]]


def started(words: list[str]) -> list[str]:
    """What `accelerate launch` with these words starts; it refuses flags that it does not know."""
    arguments = launch_command_parser().parse_args(words)
    return [arguments.training_script, *arguments.training_script_args]


def unseen_failing() -> list[planted.Pair]:
    """Other pictures of the two classes that the planted classifier takes for each other."""
    return [pair for pair in planted.pictures(300, 4) if pair[1] < 2]


@pytest.fixture(scope="session")
def place(tmp_path_factory, deployed, pictures) -> Path:
    """A directory with what the text speaks of: image folders, the model as a timm folder, and a
    network with a property.
    """
    place = tmp_path_factory.mktemp("docs")
    save_for_hf(deployed, place / "model", safe_serialization=True)
    wrong, _ = planted.wrong_by(deployed, pictures["pool"])
    assert [label for _, label in wrong] == [0, 1] * 100
    pairs = {
        "train": pictures["train"],
        "unseen": pictures["unseen"],
        "unseen_failing": unseen_failing(),
        "production": pictures["pool"],
        "failures": wrong,
        "passing": [pair for pair in pictures["pool"] if pair[1] > 1],
    }
    for folder, examples in pairs.items():
        for i, (image, label) in enumerate(examples[:250]):
            path = place / folder / str(label) / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            image.save(path)
    made.save(networks.ramp(outputs=3), place / "net.onnx")
    made.save(networks.ramp(outputs=3), place / "net.nnet")
    (text,) = (block.values[0] for block in blocks("smt2"))
    (place / "unsafe.vnnlib").write_text(text)
    return place


@pytest.fixture
def few_steps(monkeypatch, place, tmp_path):
    """A copy of that directory to work in, and a default budget of seconds."""
    for path in place.iterdir():
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(Training.__init__.__wrapped__.__kwdefaults__, "steps", 6)


@pytest.fixture
def logged_in(loopback, published_base, monkeypatch):
    """A loopback Hub with the base model on it, and the user's token."""
    monkeypatch.setenv("HF_TOKEN", "hf_me")


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # huggingface_hub's own
@pytest.mark.parametrize("text", blocks("python"))
@pytest.mark.filterwarnings(NO_EFFECT)
def test_python_block_runs(text, few_steps, classifier, failures, pictures, request):
    request.getfixturevalue("logged_in" if ".push_" in text else "offline")
    if "diagnos" not in text:
        request.getfixturevalue("undiagnosed")
    predefined = {
        "timm_repair": timm_repair,
        "model": classifier,
        "failures": failures,
        "train": pictures["train"],
        "holdout": {"failing": unseen_failing(), "clean": pictures["unseen"]},
    }
    # the text goes on from where a model of the Hub was repaired
    if "repaired" in text and "repaired =" not in text:
        predefined["repaired"] = request.getfixturevalue("repaired")
        known = lineage(predefined["repaired"].model)
        known.base = replace(known.base, id="me/base")
    exec(compile(text.replace(HUB_MODEL, "local-dir:model"), "block", "exec"), predefined)


def clear(path: Path) -> None:
    """Remove the file or folder, if it is there."""
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
@pytest.mark.filterwarnings(NO_EFFECT)
def test_commands_run(few_steps, logged_in, undiagnosed, monkeypatch, capsys):
    assert {line[1] for line in commands()} >= {
        "blocks",
        "localize",
        "repair",
        "compare",
        "report",
        "push",
        "export",
    }
    for program, *words in commands():
        words = ["local-dir:model" if word == HUB_MODEL else word for word in words]
        if "--output" in words:  # pages use the same name, each for its own repair
            clear(Path(words[words.index("--output") + 1]))
        if program == "timm-repair":
            status = cli.main(words)
        else:
            monkeypatch.setattr("sys.argv", [program, *words])
            with pytest.raises(SystemExit) as end:
                runpy.run_path(str(ROOT / program), run_name="__main__")
            status = end.value.code
        assert status == 0, f"{program} {words}\n{capsys.readouterr().err}"


@pytest.mark.parametrize("text", blocks("yaml"))
def test_yaml_block_is_a_run(text, tmp_path):
    (tmp_path / RUN).write_text(text)
    name = re.search(r"command: (\w+)", text)[1]
    command = cli.parser(name)
    command.parse(configuration.expanded(command, ["--config", str(tmp_path / RUN)]))


@pytest.mark.parametrize("text", blocks("json"))
def test_json_block_is_a_config_that_loads(text):
    config = json.loads(text)
    model = timm.create_model(config["architecture"], **config["model_args"])
    assert model._model_args["edits"] == config["model_args"]["edits"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_resolve(page):
    links = [link.partition("#")[0] for link in LINK.findall(page.read_text()) if "://" not in link]
    assert [link for link in links if link and not (page.parent / link).exists()] == []


def test_every_page_is_linked_from_another():
    linked = {
        (page.parent / link).resolve()
        for page in PAGES
        for link in LINK.findall(page.read_text())
        if "://" not in link
    }
    assert [page.name for page in PAGES[1:] if page.resolve() not in linked] == []


def test_every_method_has_its_card_and_its_paper():
    cards = {page.stem for page in (ROOT / "docs" / "methods").glob("*.md")} - {"README"}
    assert cards == set(METHODS)
    cited = re.compile(r"arXiv:\d{4}\.\d{4,5}|\b(?:19|20)\d\d\b")
    lacking = [
        f"{method.__module__}.{method.__name__}"
        for method in METHODS.values()
        if not cited.search(getattr(method, "paper", ""))
    ]
    assert not lacking, (
        'these need `paper: ClassVar[str] = "authors, title, venue or year, arXiv:…"`, as their card'
        f" has it (then run python -m benchmarks.table): {', '.join(lacking)}"
    )


def test_make_targets_of_the_readme_exist():
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert (
        set(re.findall(r"^make (\w+)", (ROOT / "README.md").read_text(), re.MULTILINE)) <= targets
    )


def test_tables_are_up_to_date(monkeypatch):
    monkeypatch.setattr("sys.argv", ["table.py", "--check"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(ROOT / "benchmarks" / "table.py"), run_name="__main__")
    assert not end.value.code
