"""Fixtures, and a mark, for tests that push to and pull from the loopback Hub: `from hub_fixtures
import *`.
"""

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub import HfApi, constants
from loopback.server import HubServer

__all__ = [
    "FILES",
    "WEIGHTS",
    "api",
    "asked",
    "folder",
    "hub",
    "mode",
    "pull",
    "pushed",
    "pytestmark",
    "sleeps",
]

# what huggingface_hub 2.4 itself causes with every LFS upload
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
MODES = {
    "regular": {"regular_only": True},
    "lfs": {},
    "multipart": {"part_size": 2**16},
    "xet": {"xet": True},
}
WEIGHTS = bytes(range(256)) * 1000
FILES = {
    "README.md": b"---\nlicense: mit\ntags: [timm]\n---\n# x\n",
    "model.safetensors": WEIGHTS,
    "sub/names.txt": b"tench\n",
}


@pytest.fixture(autouse=True)
def sleeps(monkeypatch) -> list[float]:
    """No waiting before the client tries again: the modules of huggingface_hub that wait get a
    clock whose sleep only takes notes.
    """
    taken: list[float] = []
    clock = SimpleNamespace(**{**vars(time), "sleep": taken.append})
    monkeypatch.setattr("huggingface_hub.utils._http.time", clock)
    monkeypatch.setattr("huggingface_hub.file_download.time", clock)
    return taken


@pytest.fixture(params=MODES)
def mode(request) -> str:
    """Every way to push in turn, for a test that takes it."""
    return request.param


@pytest.fixture
def hub(request, monkeypatch) -> Iterator[HubServer]:
    """A server in the test's mode, else with LFS; nothing may go wrong inside it."""
    mode = request.getfixturevalue("mode") if "mode" in request.fixturenames else "lfs"
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", mode != "xet")
    monkeypatch.setitem(
        sys.modules["huggingface_hub.utils.tqdm"].progress_bar_states, "_global", False
    )
    with HubServer(**MODES[mode]) as server:
        yield server
        assert server.errors == []


@pytest.fixture
def api(hub) -> HfApi:
    """The client of the user "me"."""
    return HfApi(endpoint=hub.url, token="hf_me")


@pytest.fixture
def folder(tmp_path) -> Path:
    """What the tests push."""
    for name, data in FILES.items():
        target = tmp_path / "folder" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    return tmp_path / "folder"


@pytest.fixture
def pushed(api, folder) -> str:
    """The commit of a repository that has the files."""
    api.create_repo("me/x")
    return api.upload_folder(repo_id="me/x", folder_path=folder).oid


@pytest.fixture
def pull(hub, tmp_path):
    """The contents of a snapshot, in an empty cache."""

    def contents(token="hf_me", cache="cache", **options) -> dict[str, bytes]:
        options = {"repo_id": "me/x", "token": token, "cache_dir": tmp_path / cache} | options
        found = Path(huggingface_hub.snapshot_download(endpoint=hub.url, **options))
        files = {str(p.relative_to(found)): p.read_bytes() for p in found.rglob("*") if p.is_file()}
        files.pop(".gitattributes", None)
        return files

    return contents


def asked(hub: HubServer, part: str) -> list[str]:
    """The methods of the requests to paths that have this part."""
    return [record.method for record in hub.requests if part in record.path]
