"""The loopback Hub fails in the ways that a test asks for, and the client of huggingface_hub does
with that what it does.
"""

import time
from pathlib import Path

import httpx2
import pytest
from huggingface_hub import constants, errors
from loopback.fixtures import *  # noqa: F403
from loopback.fixtures import FILES, WEIGHTS
from loopback.server import HubServer


@pytest.mark.parametrize("cut", [0, 100_000])
def test_a_cut_download_is_resumed(monkeypatch, hub, api, pushed, pull, cut):
    # what is less than a chunk is asked for again
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 50_000)
    hub.fault("GET", "/resolve/.*safetensors", cut_after=cut)
    assert pull() == FILES
    ranges = [
        (r.status, r.headers.get("Range"))
        for r in hub.requests
        if r.method == "GET" and r.path.endswith("model.safetensors")
    ]
    assert ranges == [(200, None), (206, f"bytes={cut}-") if cut else (200, None)]


@pytest.mark.parametrize("status", [429, 500, 503])
def test_passing_faults_are_survived(hub, api, pushed, sleeps, status):
    hub.fault("GET", "/tree/main", status=status, times=2)
    assert len(api.list_repo_files("me/x")) == 4
    assert sleeps == ([2.0, 2.0] if status == 429 else [1, 2])
    assert [r.status for r in hub.requests if "/tree/" in r.path] == [status, status, 200]


@pytest.mark.parametrize("status", [401, 403, 404, 409, 429, 500, 503])
def test_lasting_faults_are_errors(hub, api, pushed, status):
    hub.fault(None, "/tree/", status=status, times=None)
    with pytest.raises(errors.HfHubHTTPError, match=str(status)):
        api.list_repo_files("me/x")
    hub.clear_faults()
    assert api.list_repo_files("me/x")


def test_a_cut_upload_is_sent_again(hub, api, folder):
    api.create_repo("me/x")
    hub.fault("PUT", "/lfs/", cut_after=50_000)
    api.upload_folder(repo_id="me/x", folder_path=folder)
    puts = [(r.status, r.length, r.received) for r in hub.requests if r.method == "PUT"]
    assert puts == [(0, 50_000, False), (200, len(WEIGHTS), True)]
    assert hub.store.repo("me/x").files() == FILES


def test_a_corrupt_upload_is_refused(hub, api, folder):
    api.create_repo("me/x")
    hub.fault("PUT", "/lfs/", corrupt=True)
    # so the client calls it
    with pytest.raises(RuntimeError, match="Error while uploading 'model.safetensors'") as caught:
        api.upload_folder(repo_id="me/x", folder_path=folder)
    assert isinstance(caught.value.__cause__, errors.BadRequestError)
    assert hub.store.repo("me/x").files() == {}
    api.upload_folder(repo_id="me/x", folder_path=folder)
    assert hub.store.repo("me/x").files() == FILES


def test_a_lost_reply_leaves_the_commit(hub, api, folder):
    api.create_repo("me/x")
    hub.fault("POST", "/commit/", cut_after=0, when="after")
    with pytest.raises(httpx2.RemoteProtocolError):
        api.upload_folder(repo_id="me/x", folder_path=folder)
    assert hub.store.repo("me/x").files() == FILES
    hub.fault("POST", "/branch/", status=500, when="after")
    with pytest.raises(errors.HfHubHTTPError, match="500"):
        api.create_branch("me/x", branch="dev")
    assert "refs/heads/dev" in hub.store.repo("me/x").refs


def test_other_disturbed_downloads(hub, api, pushed, tmp_path):
    def download(name: str) -> bytes:
        return Path(
            api.hf_hub_download("me/x", "model.safetensors", cache_dir=tmp_path / name)
        ).read_bytes()

    hub.fault("GET", "/resolve/", corrupt=True)
    received = download("corrupt")
    assert (
        len(received) == len(WEIGHTS)
        and sum(a != b for a, b in zip(received, WEIGHTS, strict=True)) == 8
    )
    hub.fault("GET", "/resolve/", slow=(64_000, 0.05))
    started = time.monotonic()
    assert download("slow") == WEIGHTS
    assert time.monotonic() - started > 0.15
    hub.fault("HEAD", "/resolve/", delay=0.2)
    started = time.monotonic()
    assert download("delay") == WEIGHTS
    assert time.monotonic() - started > 0.2
    hub.fault("GET", "/resolve/", cut_after=1000, reset=True)
    with pytest.raises(httpx2.ReadError):
        download("reset")


def test_a_stopped_server_is_down(hub, api, pushed, pull):
    url, before = hub.url, len(hub.requests)
    assert pull() == FILES
    hub.stop()
    assert pull() == FILES
    with pytest.raises(httpx2.ConnectError):
        api.whoami()
    hub.start()
    assert (hub.url, api.whoami()["name"]) == (url, "me")
    assert len(hub.requests) > before + 1


def test_a_bug_in_the_server_is_reported(monkeypatch):
    with HubServer() as hub:
        monkeypatch.setattr(hub, "store", None)
        answer = httpx2.get(f"{hub.url}/api/whoami-v2")
        assert (
            answer.status_code,
            "AttributeError" in answer.json()["error"],
            len(hub.errors),
        ) == (500, True, 1)
