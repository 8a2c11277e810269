"""Pushing to and loading from a Hub that fails: it works in the end, or a HubError says what to do,
and nothing is lost.
"""

import logging
import shutil
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from loopback.fixtures import sleeps  # noqa: F401  no waiting between the client's own tries
from loopback.pushing import *  # noqa: F403
from loopback.pushing import HUB_PORT, image
from loopback.server import HubServer

import timm_repair
from timm_repair.errors import HubError, ModelError, OptionError
from timm_repair.hub import pushing, saving
from timm_repair.hub.fetching import fetch

# huggingface_hub's own
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

FILES = {"config.json", "model.safetensors", "repair.json", "README.md", "report.html"}
FILES |= {".gitattributes"}
CUT, CUT_ANSWER, RESET = (
    {"cut_after": 0},
    {"cut_after": 0, "when": "after"},
    {"cut_after": 100, "reset": True},
)
PASSING = [{"status": 429}, {"status": 503}, CUT, RESET]
LASTING = [*({"status": status} for status in (401, 403, 500)), CUT_ANSWER, RESET]
SAYS = {
    400: "refused",
    401: "token is wrong or missing",
    403: "write access",
    404: "check the name",
    409: "try again",
    412: "try again",
    413: "too large",
    429: "wait a little",
    500: "server failed",
    503: "server failed",
    None: "connection failed",
}
PUSHING = {  # step: its request, and whether huggingface_hub tries it again
    "create": ("POST", "/repos/create", False),
    "info": ("GET", "/api/models/me/net[?]", False),
    "readme": (None, "/resolve/", True),
    "list": ("GET", "/tree/", True),
    "validate": ("POST", "/validate-yaml", False),
    "preupload": ("POST", "/preupload/", True),
    "batch": ("POST", "/objects/batch", True),
    "put": ("PUT", "/lfs/", True),
    "verify": ("POST", "/lfs-verify", True),
    "commit": ("POST", "/commit/", False),
}
PULLING = {  # step: its request, and what is survived if it happens once
    "info": ("GET", "/api/models/me/net[?]", []),
    "list": ("GET", "/tree/", PASSING),
    "ask": ("HEAD", "/resolve/.*safetensors", [*PASSING[:2], CUT]),
    "config": ("GET", "/resolve/.*/config.json", [PASSING[0], CUT]),
    "weights": ("GET", "/resolve/.*safetensors", [PASSING[0], CUT]),
}


@pytest.fixture(scope="module")
def saved(repaired_once, tmp_path_factory) -> Path:
    """The repaired model as a folder, without figures."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(saving, "find_spec", lambda name: None)
        return saving.save(
            repaired_once.model, repaired_once.report, tmp_path_factory.mktemp("saved")
        )


@pytest.fixture
def push(saved, repaired_once, monkeypatch):
    """Push it, quickly: what is saved is copied."""
    monkeypatch.setattr(
        saving,
        "save",
        lambda model, report, folder, **about: Path(
            shutil.copytree(saved, folder, dirs_exist_ok=True)
        ),
    )

    def action(**options):
        return repaired_once.push_to_hub("me/net", **{"token": "hf_me"} | options)

    action.model = repaired_once.model
    return action


@pytest.fixture
def theirs(api) -> None:
    """A repository with a card that people wrote."""
    api.create_repo("me/net")
    api.upload_file(
        path_or_fileobj=b"# Ours\n\nkept text\n", path_in_repo="README.md", repo_id="me/net"
    )


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
        assert "hf_me" not in f"{error!r} {error}" and error.__cause__ is None
        return error
    return None


@pytest.mark.parametrize("step", PUSHING)
def test_pushing(step, push, theirs, loopback, cache, caplog):
    *place, retried = PUSHING[step]
    repos, before = loopback.store.repos, deepcopy(loopback.store.repo("me/net"))
    own = (
        [{"status": status} for status in (400, 404, 409, 412, 413, 429, 503)]
        if step == "commit"
        else []
    )
    passing = PASSING if retried or step == "commit" else []
    for fault, times in [
        *((fault, 1) for fault in passing),
        *((fault, None) for fault in LASTING + own),
    ]:
        repos["models", "me/net"] = deepcopy(before)
        shutil.rmtree(cache, ignore_errors=True)
        loopback.fault(*place, times=times, **fault)
        error, case, status = outcome(push), (fault, times), fault.get("status")
        loopback.clear_faults()
        done = loopback.store.repo("me/net").commit().oid != before.commit().oid
        unsure = step == "commit" and status in (None, 500, 503)
        survived = times and retried and not (step == "readme" and fault is RESET)
        # the repository is there: huggingface_hub goes on
        if step == "create" and status in (401, 403):
            survived = True
        assert bool(survived) == (error is None), (case, error)
        assert done == bool(survived or (unsure and fault is CUT_ANSWER)), case
        assert not error or (
            SAYS[status] in str(error) and ("may have happened" in str(error)) == unsure
        ), (case, error)
        if not done:
            push()
        last = loopback.store.repo("me/net").commit()
        assert (
            whole(loopback)
            and b"kept text" in last.files["README.md"].data
            and last.parent == before.commit().oid
        ), case
    assert "hf_me" not in caplog.text


@pytest.mark.parametrize("step", PULLING)
def test_loading(step, pushed, tmp_path, loopback, caplog):
    *place, survivable = PULLING[step]
    for number, (fault, times) in enumerate(
        [*((fault, 1) for fault in PASSING), *((fault, None) for fault in LASTING)]
    ):
        cache_dir, case, status = tmp_path / str(number), (fault, times), fault.get("status")
        # the answer is its headers, which may have arrived before the reset
        if step == "ask" and fault is RESET:
            continue
        loopback.fault(*place, times=times, **fault)
        error = outcome(lambda: load(cache_dir=cache_dir))  # noqa: B023
        loopback.clear_faults()
        assert bool(error) != any(times and fault is each for each in survivable), (case, error)
        assert not error or SAYS[status] in str(error), (case, error)
        assert fetch("me/net", token="hf_me", cache_dir=cache_dir).revision == pushed.oid
    assert "hf_me" not in caplog.text


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_damage_is_found_and_thrown_away(name, pushed, push, loopback, cache, monkeypatch):
    loopback.fault("GET", f"/resolve/.*/{name}", corrupt=True)
    with pytest.raises(
        HubError, match=f"{name} of me/net was damaged on its way, and is thrown away: try again"
    ):
        load()
    assert torch.equal(load()(image()), push.model(image()))
    blob = (cache / "models--me--net" / "snapshots" / pushed.oid / name).resolve()
    blob.write_bytes(blob.read_bytes()[:-4] + b"\0}} ")
    assert load(force_download=True)
    blob.write_bytes(blob.read_bytes()[:-4] + b"\0}} ")
    loopback.stop()
    for _ in range(2):  # found by the name in the cache; then it is gone
        with pytest.raises(HubError, match="damaged|not whole, in the cache"):
            load()
    loopback.start()
    assert load()


def test_a_damaged_card_is_not_pushed_back(push, theirs, loopback):
    loopback.fault("GET", "/resolve/.*README", corrupt=True)
    assert "README.md of me/net was damaged" in str(outcome(push))
    push()
    assert b"kept text" in loopback.store.repo("me/net").files()["README.md"]


def test_the_cache_serves_while_the_hub_is_down(pushed, loopback, cache, monkeypatch, caplog):
    load()
    with monkeypatch.context() as patch:
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        assert load() and load(revision=pushed.oid)
        with pytest.raises(OptionError, match="HF_HUB_OFFLINE"):
            load(force_download=True)
        with pytest.raises(
            HubError, match="not in|not, or not whole, in the cache.*HF_HUB_OFFLINE"
        ):
            load(revision="other")
        assert "HF_HUB_OFFLINE is set" in str(
            outcome(lambda: timm_repair.push_to_hub(load(), "me/net"))
        )
    caplog.clear()
    for stop in (
        loopback.stop,
        lambda: loopback.fault("GET", "/api/models/", status=503, times=None),
    ):
        stop()
        caplog.clear()
        with caplog.at_level(logging.INFO, "timm_repair"):
            assert load()
        assert f"loaded from the cache: commit {pushed.oid}" in caplog.text
        for options in (
            {"cache_dir": cache / "empty"},
            {"force_download": True},
            {"revision": "other"},
        ):
            with pytest.raises(HubError, match="connection failed|server failed"):
                load(**options)
        loopback.start()
    loopback.clear_faults()
    assert load(force_download=True)


@pytest.mark.parametrize("place", ["/api/models/me/net[?]", "/resolve/.*safetensors"])
def test_a_silent_or_dripping_server(place, pushed, loopback, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.1)
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.1)
    for fault in ({"delay": 0.3}, {"slow": (1_000_000, 0.3)}):
        loopback.fault("GET", place, times=None, **fault)
        with pytest.raises(HubError, match="the connection failed: nothing is lost, try again"):
            load()
        loopback.clear_faults()
    loopback.fault("GET", "/resolve/.*safetensors", slow=(300_000, 0.02))
    assert load()


def test_who_may_push(push, loopback, api):
    loopback.add_user("reader", "hf_reader", write=False)
    api.create_repo("me/net")
    for token, says in {
        "hf_wrong": "token is wrong",
        "hf_reader": "needs write access",
        "hf_other": "needs write access",
        False: "log in",
    }.items():
        error = outcome(lambda: push(token=token))  # noqa: B023
        assert says in str(error) and "hf_" not in str(error), error
    with pytest.raises(ModelError, match="has no config.json"):  # no model in it
        load()
    for options, says in [
        ({"revision": "no"}, "check revision="),
        ({"token": "hf_wrong"}, "token is wrong"),
    ]:
        assert says in str(outcome(lambda: load(**options)))  # noqa: B023
    assert "check the name" in str(
        outcome(lambda: timm_repair.from_pretrained("me/nothing", token="hf_me"))
    )


def test_a_file_vanishes(pushed, loopback):
    loopback.fault(
        "HEAD",
        "/resolve/.*safetensors",
        status=404,
        headers={"X-Error-Code": "EntryNotFound"},
        times=None,
    )
    assert "no such file: if it changed in the meantime, try again" in str(outcome(load))
    loopback.clear_faults()
    assert load()


def test_somebody_pushes_in_between(push, theirs, loopback, api, monkeypatch):
    look = pushing.opened

    def interrupted(*arguments):
        found = look(*arguments)
        api.upload_file(
            path_or_fileobj=b"# Ours\n\nnewer text\n", path_in_repo="README.md", repo_id="me/net"
        )
        return found

    monkeypatch.setattr(pushing, "opened", interrupted)
    assert "the repository changed in the meantime" in str(outcome(push))
    assert set(loopback.store.repo("me/net").files()) == {"README.md"}
    monkeypatch.setattr(pushing, "opened", look)
    push()
    assert whole(loopback) and b"newer text" in loopback.store.repo("me/net").files()["README.md"]


@pytest.mark.parametrize("fault", [CUT_ANSWER, {"status": 500, "when": "after"}])
def test_a_lost_reply(fault, push, loopback):
    loopback.fault("POST", "/commit/", **fault)
    assert "the push may have happened" in str(outcome(push))
    first = loopback.store.repo("me/net").files()
    push()
    again = loopback.store.repo("me/net").files()
    assert whole(loopback) and load()
    # its metadata may be in another order
    assert {name for name in again if again[name] != first[name]} <= {"README.md"}
    assert sum(record.method == "PUT" for record in loopback.requests) == 1


def test_the_saved_folder_stays(repaired, loopback, monkeypatch, tmp_path):
    monkeypatch.setattr(saving, "find_spec", lambda name: None)
    loopback.fault("PUT", "/lfs/", status=503, times=None)
    with pytest.raises(HubError):
        pushing.save_pretrained(
            repaired.model,
            tmp_path / "out",
            report=repaired.report,
            push_to_hub=True,
            repo_id="me/net",
            token="hf_me",
        )
    assert torch.equal(
        timm_repair.from_pretrained(tmp_path / "out")(image()), repaired.model(image())
    )
    assert not any(
        b"hf_me" in path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()
    )


def test_tokens_stay_with_the_hub(push, cache, caplog, capsys, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    caplog.set_level(logging.INFO)  # huggingface_hub tells more at DEBUG, but no token either
    with HubServer(HUB_PORT, cdn=True) as hub:
        push(private=True)
        load()
        assert hub.cdn.requests and not any(
            r.authorization or "hf_me" in str(r.headers) for r in hub.cdn.requests
        )
        assert (
            not any(b"hf_me" in data for data in hub.store.repo("me/net").files().values())
            and not hub.errors
        )
    assert not any(b"hf_me" in path.read_bytes() for path in cache.rglob("*") if path.is_file())
    assert "hf_me" not in caplog.text + "".join(capsys.readouterr())


def test_xet(push, cache, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    with HubServer(HUB_PORT, xet=True) as hub:
        push()
        assert not any(record.method == "PUT" for record in hub.requests)
        assert torch.equal(load()(image()), push.model(image())) and load()
        hub.fault("POST", "/commit/", **CUT_ANSWER)
        # tried again by itself
        assert "perhaps by this very push" in str(
            outcome(lambda: push(replace_model_card=True, license="mit"))
        )
        assert "license: mit" in hub.store.repo("me/net").files()["README.md"].decode() and load()
        hub.stop()
        assert load()
        hub.start()
        hub.xet = False
        hub.store.repos.clear()
        assert "set HF_HUB_DISABLE_XET=1" in str(outcome(push))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        push()
        assert load() and not hub.errors
