"""A repair as a Space, on the loopback Hub: what is in it, and what is not. That it runs:
tests/app/test_browser.py.
"""

import configparser
import getpass
from importlib.metadata import version
from pathlib import Path

import pytest
import timm
import torch
import yaml
from loopback.pushing import *  # noqa: F403
from loopback.pushing import base_pictures, image
from loopback.store import card_data

import timm_repair
from timm_repair.errors import ConfigError, HubError, OptionError
from timm_repair.hub import saving, spaces
from timm_repair.hub.lineage import lineage

ROOT = Path(__file__).parents[2]
# huggingface_hub's own
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture(autouse=True)
def undrawn(monkeypatch) -> None:
    """No figures, which take most of the time."""
    monkeypatch.setattr(saving, "find_spec", lambda name: None)


def files_of(loopback) -> dict[str, bytes]:
    return loopback.store.repo("me/demo", "spaces").files()


@torch.no_grad()
def test_it_holds_all_that_it_runs(repaired, api, loopback, tmp_path):
    commit = repaired.push_space("me/demo", token="hf_me", commit_message="first")
    assert commit == f"{loopback.url}/spaces/me/demo/commit/{commit.oid}"
    assert api.space_info("me/demo").sdk == "gradio"
    files = files_of(loopback)
    about = card_data(files["README.md"].decode())
    assert (about["sdk"], about["app_file"]) == ("gradio", "app.py") and "models" not in about
    assert about["license"] == "cc-by-nc-4.0", "that of the original"
    assert spaces.START.encode() in files["README.md"]
    pins = dict(line.split("==") for line in files["requirements.txt"].decode().splitlines())
    assert tuple(pins) == spaces.REQUIRED
    assert pins["timm"] == version("timm") and "+" not in pins["torch"]
    compile(files["app.py"], "app.py", "exec")
    assert b"model=None" in files["app.py"]
    for path in sorted((ROOT / "timm_repair").rglob("*")):
        name = path.relative_to(ROOT).as_posix()
        if path.is_file() and "__pycache__" not in name:
            assert files[name] == path.read_bytes(), name
    folder = Path(api.snapshot_download("me/demo", repo_type="space", local_dir=tmp_path / "s"))
    there = timm_repair.from_pretrained(folder / "model")
    assert torch.equal(there(image()), repaired.model(image()))
    original = timm.create_model(f"local-dir:{folder / 'original'}", pretrained=True).eval()
    assert torch.equal(original(image()), timm_repair.revert(repaired.model)(image()))


def test_images_and_what_is_nobodys_business_stay_here(repaired, loopback, tmp_path):
    assert repaired.gallery.examples

    def images() -> set[str]:
        found = files_of(loopback)
        inside = {name for name, content in found.items() if b"data:image/jpeg" in content}
        return inside | {name for name in found if name.startswith("model/examples/")}

    repaired.push_space("me/demo", token="hf_me")
    own = {name for name in images() if name.startswith("timm_repair/")}  # its code
    assert images() == own
    written = b"".join(v for k, v in files_of(loopback).items() if not k.startswith("timm_repair/"))
    for secret in ("hf_me", str(tmp_path), str(Path.home()), f"/{getpass.getuser()}/"):
        assert secret.encode() not in written
    repaired.push_space("me/demo", token="hf_me", images=True)
    assert {"model/report.html", "model/examples/0-0.jpg"} <= images()
    repaired.push_space("me/demo", token="hf_me")
    assert images() == own, "they are taken away again"


def test_a_model_on_the_hub_is_named_at_its_commit(repaired, api, loopback):
    with pytest.raises(HubError, match="me/net"):
        repaired.push_space("me/demo", model_id="me/net", token="hf_me")
    commit = repaired.push_to_hub("me/net", token="hf_me")
    repaired.push_space("me/demo", model_id="me/net", token="hf_me", private=True)
    files = files_of(loopback)
    assert f"model='me/net@{commit.oid}'" in files["app.py"].decode()
    assert not [name for name in files if name.startswith("model/")]
    assert "original/config.json" in files, "which is not on the Hub"
    assert card_data(files["README.md"].decode())["models"] == ["me/net"]
    assert loopback.store.repo("me/demo", "spaces").private
    next(repaired.model.parameters()).data.add_(1)
    with pytest.raises(ConfigError, match="does not have the weights of this model"):
        repaired.push_space("me/demo", model_id="me/net", token="hf_me")


@pytest.mark.filterwarnings("ignore::timm_repair.NoEffectWarning")
def test_an_original_on_the_hub_is_not_held(published_base, api, loopback):
    failures = [pair for pair in base_pictures() if pair[1] < 2]
    options = {"block": "layer2", "steps": 2, "diagnose": False, "progress": False}
    repaired = timm_repair.repair(
        f"hf-hub:{published_base}", failures, method="finetune", **options
    )
    repaired.push_space("me/demo", token="hf_me")
    files = files_of(loopback)
    assert not [name for name in files if name.startswith("original/")]
    assert card_data(files["README.md"].decode())["models"] == ["me/base"]


def test_what_people_wrote_stays(repaired, api, loopback):
    repaired.push_space("me/demo", token="hf_me")
    written = files_of(loopback)["README.md"].decode()
    assert "Check out the configuration reference" in written, "of the Hub"
    head, _, body = written.removeprefix("---\n").partition("---\n")
    mine = yaml.safe_load(head) | {"emoji": "🔧", "sdk_version": "1.0"}
    text = f"---\n{yaml.safe_dump(mine)}---\n# My words\n{body}"
    api.upload_file(
        repo_id="me/demo",
        repo_type="space",
        path_in_repo="README.md",
        path_or_fileobj=text.encode(),
    )
    repaired.push_space("me/demo", token="hf_me")
    again = files_of(loopback)["README.md"].decode()
    about = card_data(again)
    assert "# My words" in again and about["emoji"] == "🔧" and about["sdk_version"] != "1.0"
    assert again.count(spaces.START) == 1


def test_without_its_original_it_says_so(repaired, api, loopback, cache, caplog):
    repaired.push_to_hub("me/net", token="hf_me")
    whole = timm_repair.from_pretrained("me/net")
    assert not lineage(whole).knows_original
    spaces.push_space(whole, "me/demo", token="hf_me")
    assert "does not hold its original" in caplog.text
    assert "model/config.json" in files_of(loopback)


def test_options_that_do_not_go_together_are_refused(repaired, loopback):
    with pytest.raises(OptionError, match="leave model_id out"):
        repaired.push_space("me/demo", model_id="me/net", images=True)
    with pytest.raises(OptionError, match="no Hub id"):
        repaired.push_space("me/demo/x")
    assert loopback.requests == []


def test_the_requirements_are_those_of_the_package():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    lines = config["options"]["install_requires"].split()
    assert {line.partition(">=")[0] for line in lines} == set(spaces.REQUIRED)
