"""Pushing to and loading from a Hub that fails: either it works in the end, or there is a HubError that says what to do, and nothing is lost."""

import logging
import re
import shutil
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from conftest import HUB_PORT
from hub_fixtures import sleeps  # noqa: F401  no waiting between the client's own tries
from hub_server import HubServer
from huggingface_hub import HfApi, constants
from push_fixtures import *  # noqa: F403
from push_fixtures import image

import timm_repair
from timm_repair import connection, pushing, saving
from timm_repair.errors import HubError, ModelError, OptionError
from timm_repair.fetching import fetch

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # huggingface_hub's own

FILES = {"config.json", "model.safetensors", "repair.json", "README.md", ".gitattributes"}
CUT, CUT_ANSWER, RESET = {"cut_after": 0}, {"cut_after": 0, "when": "after"}, {"cut_after": 100, "reset": True}
PASSING = [{"status": 429}, {"status": 500}, {"status": 503}, CUT, RESET]
LASTING = [*({"status": status} for status in (400, 401, 403, 404, 409, 412, 413, 429, 500, 503)), CUT, CUT_ANSWER, RESET]
SAYS = {400: "refused", 401: "token is wrong or missing", 403: "write access", 404: "check the name", 409: "try again", 412: "try again",
        413: "too large", 429: "wait a little", 500: "server failed", 503: "server failed", None: "connection failed"}  # fmt: skip
PUSHING = {  # step: its request, and whether huggingface_hub tries it again
    "create": ("POST", "/repos/create", False), "info": ("GET", "/api/models/me/net[?]", False), "readme": (None, "/resolve/", True),
    "list": ("GET", "/tree/", True), "validate": ("POST", "/validate-yaml", False), "preupload": ("POST", "/preupload/", True),
    "batch": ("POST", "/objects/batch", True), "put": ("PUT", "/lfs/", True), "verify": ("POST", "/lfs-verify", True),
    "commit": ("POST", "/commit/", False)}  # fmt: skip
PULLING = {
    "info": ("GET", "/api/models/me/net[?]", False), "list": ("GET", "/tree/", True), "ask": ("HEAD", "/resolve/.*safetensors", True),
    "config": ("GET", "/resolve/.*/config.json", False), "weights": ("GET", "/resolve/.*safetensors", False)}  # fmt: skip


@pytest.fixture(scope="module")
def saved(repaired_once, tmp_path_factory) -> Path:
    """The repaired model as a folder, without figures."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(saving, "find_spec", lambda name: None)
        return saving.save(repaired_once.model, repaired_once.report, tmp_path_factory.mktemp("saved"))


@pytest.fixture
def push(saved, repaired_once, monkeypatch):
    """Push it, quickly: what is saved is copied."""
    monkeypatch.setattr(saving, "save", lambda model, report, folder, **about: Path(shutil.copytree(saved, folder, dirs_exist_ok=True)))
    return lambda **options: repaired_once.push_to_hub("me/net", **{"token": "hf_me"} | options)


@pytest.fixture
def theirs(api) -> None:
    """A repository with a card that people wrote."""
    api.create_repo("me/net")
    api.upload_file(path_or_fileobj=b"# Ours\n\nkept text\n", path_in_repo="README.md", repo_id="me/net")


@pytest.fixture
def pushed(push, loopback):
    """A repository with the model."""
    return push()


def load(**options):
    return timm_repair.from_pretrained("me/net", **{"token": "hf_me"} | options)


def whole(loopback) -> bool:
    return set(loopback.store.repo("me/net").files()) | {".gitattributes"} == FILES


def outcome(action) -> HubError | None:
    """What became of it; any other error is one of the test."""
    try:
        action()
    except HubError as error:
        assert "hf_me" not in f"{error!r} {error}" and error.__suppress_context__
        return error
    return None


@pytest.mark.parametrize("step", PUSHING)
def test_pushing(step, push, theirs, loopback, cache, caplog):
    *place, retried = PUSHING[step]
    repos, before = loopback.store.repos, deepcopy(loopback.store.repo("me/net"))
    for fault, times in [*((fault, 1) for fault in PASSING), *((fault, None) for fault in LASTING)]:
        repos["models", "me/net"] = deepcopy(before)
        shutil.rmtree(cache, ignore_errors=True)
        loopback.fault(*place, times=times, **fault)
        error, case, status = outcome(push), (fault, times), fault.get("status")
        loopback.clear_faults()
        head = loopback.store.repo("me/net").commit()
        done = head.oid != before.commit().oid
        if step == "create" and status in (401, 403, 409):  # the repository is there: huggingface_hub goes on
            assert not error or status == 409, case
        elif step == "commit" and fault is CUT_ANSWER:
            assert done and "may have happened" in str(error), case
        else:
            survived = times and retried and not (step == "readme" and fault is RESET)
            assert (error is None) == done == bool(survived), (case, error)
            assert not error or SAYS[status] in str(error), (case, error)
            assert not error or ("may have happened" in str(error)) == (step == "commit" and status in (None, 500, 503)), (case, error)
        push()
        last = loopback.store.repo("me/net").commit()
        assert whole(loopback) and b"kept text" in last.files["README.md"].data and last.parent == before.commit().oid, case
    assert "hf_me" not in caplog.text


@pytest.mark.parametrize("step", PULLING)
def test_loading(step, pushed, cache, loopback, caplog):
    *place, retried = PULLING[step]
    for fault, times in [*((fault, 1) for fault in PASSING), *((fault, None) for fault in LASTING)]:
        shutil.rmtree(cache, ignore_errors=True)
        loopback.fault(*place, times=times, **fault)
        error, case = outcome(load), (fault, times)
        loopback.clear_faults()
        open("/tmp/o3.txt", "a").write(f"{step} {case} {error!r}\n")
        assert fetch("me/net", token="hf_me").revision == pushed.oid
    assert "hf_me" not in caplog.text
