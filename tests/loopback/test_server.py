"""The loopback Hub answers the unmodified clients as the real one would."""

from pathlib import Path

import httpx2
import huggingface_hub
import pytest
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationCopy,
    CommitOperationDelete,
    HfApi,
    constants,
    errors,
)
from loopback.fixtures import *  # noqa: F403
from loopback.fixtures import FILES, WEIGHTS, asked
from loopback.server import HubServer, hub_environment
from processes.fresh import start


def test_push_and_pull(hub, mode, api, pushed, pull):
    assert hub.store.repo("me/x").files() == FILES
    assert pull() == FILES
    assert bool(asked(hub, "/lfs/")) == (mode in ("lfs", "multipart"))
    assert asked(hub, "/lfs/").count("PUT") == {"lfs": 1, "multipart": 4}.get(mode, 0)
    assert (
        bool(asked(hub, "xet-write-token")) == bool(asked(hub, "xet-read-token")) == (mode == "xet")
    )
    assert not [r for r in hub.requests if r.authorization and r.path.startswith("/lfs/")]
    assert all(record.status < 400 for record in hub.requests)
    info = api.model_info("me/x", files_metadata=True)
    assert (info.sha, info.card_data.license, info.tags) == (pushed, "mit", ["timm", "license:mit"])
    assert {s.rfilename: s.size for s in info.siblings if s.rfilename in FILES} == {
        name: len(data) for name, data in FILES.items()
    }


def test_pushing_the_same_again_makes_no_commit(hub, mode, api, pushed, folder):
    before = len(hub.requests)
    assert api.upload_folder(repo_id="me/x", folder_path=folder).oid == pushed
    assert not any(
        "/commit/" in record.path or record.method == "PUT" for record in hub.requests[before:]
    )


def test_pull_request(hub, mode, api, pushed, folder, pull):
    (folder / "model.safetensors").write_bytes(WEIGHTS[::-1])
    theirs = HfApi(endpoint=hub.url, token="hf_other")
    with pytest.raises(errors.HfHubHTTPError, match="403"):
        theirs.upload_folder(repo_id="me/x", folder_path=folder)
    commit = theirs.upload_folder(repo_id="me/x", folder_path=folder, create_pr=True)
    assert (commit.pr_num, commit.pr_revision) == (1, "refs/pr/1")
    assert pull(revision="refs/pr/1")["model.safetensors"] == WEIGHTS[::-1]
    assert pull() == FILES
    assert [d.is_pull_request for d in api.get_repo_discussions("me/x")] == [True]
    api.merge_pull_request("me/x", 1)
    assert pull()["model.safetensors"] == WEIGHTS[::-1]


def test_branch_tag_and_pinned_commit(hub, mode, api, pushed, folder, pull):
    api.create_branch("me/x", branch="dev/1")
    with pytest.raises(errors.HfHubHTTPError, match="409"):
        api.create_branch("me/x", branch="dev/1")
    (folder / "model.safetensors").write_bytes(WEIGHTS[:1000])
    new = api.upload_folder(repo_id="me/x", folder_path=folder, revision="dev/1").oid
    api.create_tag("me/x", tag="v1", revision="dev/1")
    for revision in ("dev/1", "v1", new):
        assert pull(revision=revision)["model.safetensors"] == WEIGHTS[:1000]
    assert pull(revision=pushed) == pull() == FILES
    refs = api.list_repo_refs("me/x")
    assert ({b.name for b in refs.branches}, [t.target_commit for t in refs.tags]) == (
        {"main", "dev/1"},
        [new],
    )
    assert [c.commit_id for c in api.list_repo_commits("me/x", revision="v1")][:2] == [new, pushed]
    api.delete_tag("me/x", tag="v1")
    api.delete_branch("me/x", branch="dev/1")
    with pytest.raises(errors.RevisionNotFoundError):
        pull(revision="dev/1")
    with pytest.raises(errors.RevisionNotFoundError):
        api.upload_folder(repo_id="me/x", folder_path=folder, revision="dev/1")


def test_private(hub, mode, api, folder, pull):
    api.create_repo("me/x", private=True)
    api.upload_folder(repo_id="me/x", folder_path=folder)
    assert pull() == FILES
    for token in (False, "hf_other"):
        with pytest.raises(errors.RepositoryNotFoundError):
            pull(token=token, cache=f"cache of {token}")
        with pytest.raises(errors.RepositoryNotFoundError):
            api.model_info("me/x", token=token)
    with pytest.raises(errors.HfHubHTTPError, match="Invalid user token"):
        api.whoami(token="hf_unknown")
    api.update_repo_settings("me/x", private=False)
    assert pull(token=False, cache="anonymous") == FILES


def test_ranges(hub, api, pushed):
    url = f"{hub.url}/me/x/resolve/main/model.safetensors"
    for asked_for, expected in {
        "0-9": WEIGHTS[:10],
        "100-": WEIGHTS[100:],
        "-7": WEIGHTS[-7:],
    }.items():
        answer = httpx2.get(url, headers={"Range": f"bytes={asked_for}"})
        assert (answer.status_code, answer.content) == (206, expected)
    assert httpx2.get(url, headers={"Range": f"bytes={len(WEIGHTS)}-"}).status_code == 416
    head = httpx2.head(url)
    assert (head.headers["Content-Length"], head.headers["X-Repo-Commit"], head.content) == (
        str(len(WEIGHTS)),
        pushed,
        b"",
    )


def test_repositories(hub, api):
    assert api.create_repo("bare").repo_id == "me/bare"
    assert api.create_repo("me/bare", exist_ok=True) == f"{hub.url}/me/bare"
    with pytest.raises(errors.HfHubHTTPError, match="409"):
        api.create_repo("bare")
    with pytest.raises(errors.HfHubHTTPError, match="403"):
        api.create_repo("other/bare")
    hub.add_user("boss", "hf_boss", orgs=("lab",))
    hub.add_user("guest", "hf_guest", write=False)
    assert api.create_repo("lab/x", token="hf_boss", repo_type="dataset").endswith(
        "/datasets/lab/x"
    )
    assert api.whoami(token="hf_boss")["orgs"][0]["name"] == "lab"
    with pytest.raises(errors.HfHubHTTPError, match="403"):
        api.create_repo("guest/x", token="hf_guest")
    with pytest.raises(errors.HfHubHTTPError, match="401"):
        api.create_repo("me/y", token=False)
    assert [m.id for m in api.list_models(author="me")] == ["me/bare"]
    api.delete_repo("me/bare")
    assert not api.repo_exists("me/bare")
    answer = httpx2.get(f"{hub.url}/api/agent-harnesses")
    assert (answer.status_code, "error" in answer.json()) == (404, True)


def test_commits(hub, api, pushed):
    hub.page_size = 2
    assert api.list_repo_files("me/x") == [".gitattributes", *sorted(FILES)]
    assert [(f.path, hasattr(f, "blob_id")) for f in api.list_repo_tree("me/x")][-1] == (
        "sub",
        False,
    )
    assert [
        f.path for f in api.get_paths_info("me/x", ["sub", "model.safetensors", "nothing"])
    ] == ["sub", "model.safetensors"]
    assert api.file_exists("me/x", "README.md") and not api.file_exists("me/x", "model.bin")
    with pytest.raises(errors.EntryNotFoundError):
        list(api.list_repo_tree("me/x", "nothing"))
    operations = [
        CommitOperationAdd("new.txt", b"1"),
        CommitOperationCopy("model.safetensors", "copy.safetensors"),
        CommitOperationDelete("sub/"),
        CommitOperationDelete("README.md"),
    ]
    new = api.create_commit(
        "me/x", operations, commit_message="all kinds", parent_commit=pushed
    ).oid
    assert hub.store.repo("me/x").files() == {
        "model.safetensors": WEIGHTS,
        "new.txt": b"1",
        "copy.safetensors": WEIGHTS,
    }
    with pytest.raises(errors.HfHubHTTPError, match="412"):
        api.create_commit(
            "me/x",
            [CommitOperationAdd("late.txt", b"1")],
            commit_message="stale",
            parent_commit=pushed,
        )
    assert hub.store.repo("me/x").commit().oid == new
    for content in ("---\nlicense: [\n---\n", "---\ndatasets: [null]\n---\n"):
        with pytest.raises(ValueError, match="metadata"):
            api.upload_file(
                path_or_fileobj=content.encode(), path_in_repo="README.md", repo_id="me/x"
            )


def test_a_large_file_that_never_arrived_is_refused(hub, api):
    api.create_repo("me/x")
    for oid, size in (("0" * 64, 3), ("f" * 64, 4)):
        hub.store.repo("me/x").objects["f" * 64] = b"else"
        lines = b'{"key":"header","value":{"summary":"s"}}\n{"key":"lfsFile","value":{"path":"a.bin","oid":"%s","size":%d}}'
        answer = httpx2.post(
            f"{hub.url}/api/models/me/x/commit/main",
            content=lines % (oid.encode(), size),
            headers={"Authorization": "Bearer hf_me"},
        )
        assert (answer.status_code, hub.store.repo("me/x").files()) == (400, {})


def test_a_second_origin_gets_no_token(monkeypatch, tmp_path, folder):
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    with HubServer(cdn=True, resolve_cache=True) as hub:
        api = HfApi(endpoint=hub.url, token="hf_me")
        api.create_repo("me/x", private=True)
        api.upload_folder(repo_id="me/x", folder_path=folder)
        for name, data in FILES.items():
            assert Path(api.hf_hub_download("me/x", name, cache_dir=tmp_path)).read_bytes() == data
        assert [(r.method, r.authorization, r.status) for r in hub.cdn.requests] == [
            ("GET", None, 200)
        ]
        assert asked(hub, "/api/resolve-cache/models/me/x/")
        assert hub.errors == []


def test_gated(hub, api, pushed, pull, tmp_path):
    api.update_repo_settings("me/x", gated="manual")
    assert pull() == FILES
    with pytest.raises(errors.GatedRepoError):
        huggingface_hub.hf_hub_download(
            "me/x", "README.md", endpoint=hub.url, token="hf_other", cache_dir=tmp_path
        )


def test_a_space_says_how_it_is_run(hub, api):
    with pytest.raises(ValueError, match="space_sdk"):
        api.create_repo("me/s", repo_type="space")
    api.create_repo("me/s", repo_type="space", space_sdk="gradio")
    assert api.space_info("me/s").sdk == "gradio"
    given = {"repo_id": "me/s", "repo_type": "space", "path_in_repo": "README.md"}
    for text in (b"# no metadata", b"---\nsdk: gradio\nsdk_version: 6.0\n---\n"):
        with pytest.raises(errors.HfHubHTTPError, match="Invalid metadata"):
            api.upload_file(path_or_fileobj=text, **given)
    api.upload_file(path_or_fileobj=b"---\nsdk: static\n---\n", **given)
    assert api.space_info("me/s").sdk == "static"


TIMM = """
import timm, torch
model = timm.create_model("test_resnet", num_classes=3)
timm.models.push_to_hf_hub(model, "me/x", model_config={"label_names": ["a", "b", "c"]}, safe_serialization=True, private=True)
loaded = timm.create_model("hf-hub:me/x", pretrained=True)
assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), loaded.state_dict().values(), strict=True))
assert loaded.pretrained_cfg["label_names"] == ["a", "b", "c"]
"""
DATASETS = """
import datasets, numpy as np
from PIL import Image
images = [Image.fromarray(np.full((8, 8, 3), 40 * n, np.uint8)) for n in range(6)]
features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
made = datasets.Dataset.from_dict({"image": images, "label": [n % 2 for n in range(6)]}, features=features)
made.push_to_hub("me/d", split="test")
loaded = datasets.load_dataset("me/d", split="test")
assert loaded.features == features and loaded["label"] == [0, 1] * 3
assert [np.asarray(i).max() for i in loaded["image"]] == [40 * n for n in range(6)]
streamed = list(datasets.load_dataset("me/d", split="test", streaming=True))
assert [row["image"].getpixel((0, 0))[0] for row in streamed] == [40 * n for n in range(6)]
"""


def test_in_fresh_processes(tmp_path):
    """timm by xet and datasets by LFS, side by side: most of their time goes into their imports."""
    with HubServer(xet=True) as xet, HubServer() as lfs:
        running = []
        for name, script, hub in (("timm", TIMM, xet), ("datasets", DATASETS, lfs)):
            (tmp_path / name).mkdir()
            environment = hub_environment(hub.url, tmp_path / name, token="hf_me", xet=hub is xet)
            running.append(start(script, tmp_path / name, environment))
        for finish in running:
            finish()
        for hub in (xet, lfs):
            asking = [
                r for r in hub.requests if "/api/" in r.path and "validate-yaml" not in r.path
            ]
            assert {record.authorization for record in asking} == {"Bearer hf_me"}
            assert hub.errors == []
        assert asked(xet, "xet-write-token") and not asked(lfs, "xet-write-token")
