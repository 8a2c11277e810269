"""Pushed and loaded again through a real client and a real (loopback) server: what users do, and
what stays theirs.
"""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from huggingface_hub import CommitInfo, ModelCard
from loopback.pushing import *  # noqa: F403
from loopback.pushing import image, readme

import timm_repair
from timm_repair.errors import ConfigError, HubError, ModelError, OptionError
from timm_repair.hub import card, licenses, saving
from timm_repair.hub.privacy import published
from timm_repair.models.weights import fingerprint

# huggingface_hub's own
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture(autouse=True)
def undrawn(request, monkeypatch) -> None:
    """No figures, which take most of the time, but in the first test."""
    if request.function is not test_push_and_load:
        monkeypatch.setattr(saving, "find_spec", lambda name: None)


@torch.no_grad()
def test_push_and_load(repaired, api, loopback, capsys, caplog):
    commit = repaired.push_to_hub(
        "me/net", token="hf_me", commit_message="first", commit_description="why"
    )
    assert isinstance(commit, CommitInfo) and commit == f"{loopback.url}/me/net/commit/{commit.oid}"
    assert [c.title for c in api.list_repo_commits("me/net")][0] == "first"
    files = set(api.list_repo_files("me/net"))
    assert {
        "config.json",
        "model.safetensors",
        "repair.json",
        "README.md",
        "figures/overview.png",
        "report.html",
    } <= files
    assert not any(f.endswith((".bin", ".pt", ".pth", ".pkl", ".py")) for f in files)
    expected = repaired.model(image())
    for model in (
        timm_repair.from_pretrained("me/net"),
        timm_repair.from_pretrained(f"hf-hub:me/net@{commit.oid}"),
        timm.create_model("hf-hub:me/net", pretrained=True).eval(),
    ):
        assert type(model) is type(repaired.model) and torch.equal(model(image()), expected)
    written = b"".join(loopback.store.repo("me/net").files().values())
    assert b"hf_me" not in written and "hf_me" not in caplog.text + "".join(capsys.readouterr())


def test_images_are_pushed_only_when_asked_for(repaired, api, loopback):
    """And in the page alone; a later push without them takes them away."""
    assert repaired.gallery.examples

    def page() -> bytes:
        files = loopback.store.repo("me/net").files()
        assert not [name for name in files if name.startswith("examples/")]
        assert b"data:image" not in b"".join(v for k, v in files.items() if k != "report.html")
        return files["report.html"]

    repaired.push_to_hub("me/net", token="hf_me")
    assert b"<h1" in page() and b"data:image" not in page()
    repaired.push_to_hub("me/net", token="hf_me", images=True)
    assert b"data:image/jpeg" in page()
    repaired.push_to_hub("me/net", token="hf_me")
    assert b"data:image" not in page()


def test_one_commit_per_push_and_none_for_nothing(repaired, api, loopback):
    """All files travel together: no commit of a push is half of it."""
    repaired.push_to_hub("me/net", token="hf_me")
    assert len(api.list_repo_commits("me/net")) == 2  # the first is the Hub's own
    commits = [r for r in loopback.requests if "/commit/" in r.path and r.method == "POST"]
    assert len(commits) == 1


def test_private_branch_and_pull_request(repaired, api):
    repaired.push_to_hub("net", token="hf_me", private=True)
    assert api.model_info("me/net").private
    with pytest.raises(HubError, match="private, log in|pass token="):
        timm_repair.from_pretrained("me/net", token=False)
    assert timm_repair.from_pretrained("me/net", token="hf_me").num_classes == 4
    branch = repaired.push_to_hub(
        "me/net", token="hf_me", revision="v2", commit_message="on a branch"
    )
    assert (
        api.list_repo_refs("me/net").branches
        and api.model_info("me/net", revision="v2").sha == branch.oid
    )
    asked = repaired.push_to_hub("me/net", token="hf_me", create_pr=True, remote_code=True)
    assert asked.pr_url and "modeling_timm_repair.py" not in api.list_repo_files("me/net")
    assert "modeling_timm_repair.py" in api.list_repo_files("me/net", revision="refs/pr/1")
    assert (
        timm_repair.from_pretrained("me/net", token="hf_me", revision="refs/pr/1").num_classes == 4
    )


def test_bad_requests_are_refused_before_the_hub_is_asked(repaired, loopback, tmp_path):
    for arguments, options, message in (
        (("a/b/c",), {}, "no Hub id"),
        (("me/net",), {"create_pr": True, "revision": "v2"}, "create_pr=True"),
        (("me/net",), {"revision": "0" * 40}, "is a commit"),
        (("me/net",), {"base_model": "/tmp/x"}, "no Hub id"),
        (("me/net",), {"patch": True, "remote_code": True}, "cannot load a patch"),
    ):
        with pytest.raises(OptionError, match=message):
            repaired.push_to_hub(*arguments, token="hf_me", **options)
    with pytest.raises(OptionError, match="go together"):
        repaired.save_pretrained(tmp_path / "out", push_to_hub=True)
    with pytest.raises(OptionError, match="needs push_to_hub=True"):
        repaired.save_pretrained(tmp_path / "out", private=True)
    with pytest.raises(ModelError, match="a torch.nn.Module, such as repaired.model"):
        timm_repair.push_to_hub(repaired, "me/net", token="hf_me")
    with pytest.raises(ConfigError, match="no report"):
        timm_repair.push_to_hub(timm.create_model("test_resnet"), "me/net", token="hf_me")
    with pytest.raises(ModelError, match="neither a folder nor a Hub id"):
        timm_repair.from_pretrained("no such thing")
    with pytest.raises(OptionError, match="different revisions"):
        timm_repair.from_pretrained("me/net@v1", revision="v2")
    assert loopback.requests == []


def test_a_person_s_words_survive_the_next_push(repaired, api, tmp_path):
    repaired.push_to_hub(
        "me/net", token="hf_me", readme="---\nlanguage: de\n---\n\nWritten before the first push.\n"
    )
    first = readme(api, "me/net")
    assert "Written before the first push." in first and "language: de" in first
    edited = first.replace("language: de", "language: de\nlicense: mit\nwidget: [1]").replace(
        card.START, "# Our net\n\n" + card.START
    )
    edited = edited.replace("\ntags:\n", "\ntags:\n- fog\n").replace(
        card.END, card.END + "\n\nAsk *us*: x@y.z\n"
    )
    edited = edited.replace("## Limits", "## Limits (vandalised)").replace(
        "license: cc-by-nc-4.0\n", ""
    )
    api.upload_file(repo_id="me/net", path_in_repo="README.md", path_or_fileobj=edited.encode())
    timm_repair.push_to_hub(timm_repair.from_pretrained("me/net"), "me/net", token="hf_me")
    text = readme(api, "me/net")
    assert all(
        words in text
        for words in ("# Our net", "Ask *us*: x@y.z", "Written before the first push.")
    )
    assert "vandalised" not in text and text.count(card.START) == text.count(card.END) == 1
    data = ModelCard(text).data.to_dict()
    assert data["license"] == "mit" and data["widget"] == [1] and data["language"] == "de"
    assert "fog" in data["tags"] and "timm_repair" in data["tags"] and data["model-index"]
    broken = text.replace(card.END, "")
    api.upload_file(repo_id="me/net", path_in_repo="README.md", path_or_fileobj=broken.encode())
    with pytest.raises(ConfigError, match="has lost"):
        repaired.push_to_hub("me/net", token="hf_me")
    assert readme(api, "me/net") == broken
    repaired.push_to_hub("me/net", token="hf_me", replace_model_card=True)
    assert "Our net" not in readme(api, "me/net")


def test_a_card_that_is_not_ours_keeps_its_text_above_ours():
    text = card.merged(
        "# Mine\n\nWords.\n", "---\nlicense: mit\n---\n\n" + f"{card.START}\nours\n{card.END}\n"
    )
    assert text == f"---\nlicense: mit\n---\n# Mine\n\nWords.\n\n{card.START}\nours\n{card.END}\n"
    for bad in ("---\nlicense: [\n---\nx", "---\n- a list\n---\nx"):
        with pytest.raises(ConfigError, match="no readable metadata"):
            card.merged(bad, text)
    assert card.merged(" \n", text) == card.merged(None, text) == text


def test_nothing_of_this_machine_is_published(repaired, api, loopback, tmp_path):
    origin = {
        "source": str(tmp_path / "secret" / "failures.parquet"),
        "n": 3,
        "label_mapping": {"by": f"names of {tmp_path}/map.txt"},
    }
    report = replace(
        repaired.report,
        model=f"local-dir:{tmp_path}/net",
        provenance={
            "failing": origin,
            "retained": {"source": "u/data@main", "dataset": "u/data"},
            "holdout": {"clean": {"source": "relative/folder"}},
        },
        notes=(f"read from {tmp_path}/a b",),
    )
    timm_repair.push_to_hub(repaired.model, "me/net", report=report, token="hf_me")
    for name, content in loopback.store.repo("me/net").files().items():
        assert (
            str(tmp_path).encode() not in content
            and b"secret" not in content
            and b"relative/folder" not in content
        ), name
    published = json.loads(loopback.store.repo("me/net").files()["repair.json"])
    assert (
        published["provenance"]["retained"]["source"] == "u/data@main"
        and published["provenance"]["failing"]["n"] == 3
    )
    assert ModelCard(readme(api, "me/net")).data.datasets == ["u/data"]
    assert re.search(r"^license: cc-by-nc-4.0$", readme(api, "me/net"), re.MULTILINE)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("names of /srv/x/map.txt", "names of …"),
        ("see file:///a/b", "see …"),
        ("~jane/x and ../up/y", "… and …"),
        (r"C:\Users\x.txt", "…"),
        ("/map.txt", "…"),
        ("hf-hub:timm/resnet18 n/a 1/2", "hf-hub:timm/resnet18 n/a 1/2"),
        (f"{Path.home()}/a b", "… b"),
    ],
)
def test_paths_in_texts_are_taken_out(repaired, text, expected):
    assert published(replace(repaired.report, notes=(text,))).notes == (expected,)


def test_sources_that_are_no_hub_ids_are_not_named(repaired):
    sources = {
        "johns_failures": "local data",
        "list of 550": "list of 550",
        "datasets.Dataset of 3": "datasets.Dataset of 3",
    }
    for source, expected in sources.items():
        assert (
            published(
                replace(repaired.report, provenance={"failing": {"source": source}})
            ).provenance["failing"]["source"]
            == expected
        )


def test_a_report_goes_with_its_own_weights_only(repaired, api, tmp_path):
    repaired.save_pretrained(tmp_path / "out")
    model = timm_repair.from_pretrained(tmp_path / "out", num_classes=7)
    with pytest.raises(ConfigError, match="not the weights that the report measured"):
        timm_repair.push_to_hub(model, "me/net", token="hf_me")
    assert not api.repo_exists("me/net")
    said = replace(repaired.report, weights=None)
    timm_repair.push_to_hub(model, "me/net", token="hf_me", report=said)
    (tmp_path / "out" / "repair.json").unlink()
    with pytest.raises(ConfigError, match="is gone"):
        saving.report_of(model)


def test_a_push_of_some_files_takes_nothing_away(repaired, api, published_base):
    repaired.push_to_hub("me/net", token="hf_me")
    before = set(api.list_repo_files("me/net"))
    repaired.push_to_hub(
        "me/net",
        token="hf_me",
        patch=True,
        base_model=f"hf-hub:{published_base}",
        allow_patterns=["README.md"],
    )
    assert set(api.list_repo_files("me/net")) == before
    with pytest.raises(OptionError, match="is the base of this patch"):
        repaired.push_to_hub("base", token="hf_me", patch=True, base_model=published_base)
    assert "model.safetensors" in api.list_repo_files("me/base")


def test_only_the_main_process_writes(repaired, api, tmp_path):
    worker = replace(repaired, main_process=False)
    assert (
        worker.save_pretrained(tmp_path / "out", push_to_hub=True, repo_id="me/net")
        == tmp_path / "out"
    )
    assert (
        worker.push_to_hub("me/net") is None
        and not (tmp_path / "out").exists()
        and not api.repo_exists("me/net")
    )


def test_wrapped_models_are_unwrapped(repaired, api, tmp_path):
    compiled = torch.compile(repaired.model)
    timm_repair.push_to_hub(compiled, "me/net", token="hf_me")
    assert "model.safetensors" in api.list_repo_files("me/net")
    assert (
        fingerprint(timm_repair.revert(torch.nn.DataParallel(repaired.model)).state_dict())
        == repaired.report.base["sha256"]
    )


@pytest.mark.parametrize(
    ("license", "expected"),
    [
        ("CC-BY-NC-4.0", {"license": "cc-by-nc-4.0"}),
        ("dinov3-license", {"license": "other", "license_name": "dinov3-license"}),
        ("ask: me", {"license": "other", "license_name": "ask-me"}),
        (None, {}),
    ],
)
def test_only_licences_that_the_hub_knows_are_named_as_such(license, expected):
    assert licenses.metadata(license) == expected


def test_a_licence_that_is_said_out_loud_wins(repaired, api):
    repaired.push_to_hub("me/net", token="hf_me", license="mit")
    assert ModelCard(readme(api, "me/net")).data.license == "mit"
    repaired.push_to_hub("me/net", token="hf_me", license="dinov3-license")
    data = ModelCard(readme(api, "me/net")).data.to_dict()
    assert (data["license"], data["license_name"]) == ("other", "dinov3-license")
    repaired.push_to_hub("me/net", token="hf_me")
    assert ModelCard(readme(api, "me/net")).data.to_dict()["license_name"] == "dinov3-license"


def test_the_report_travels_with_the_model(repaired, api, tmp_path):
    repaired.push_to_hub("me/net", token="hf_me")
    model = timm_repair.from_pretrained("me/net")
    assert saving.report_of(repaired.model).to_dict() == repaired.report.to_dict()
    # all but what is nobody's business
    assert saving.report_of(model).to_dict() == published(repaired.report).to_dict()
    timm_repair.save_pretrained(model, tmp_path / "again")
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == Path(
        api.hf_hub_download("me/net", "model.safetensors")
    ).read_bytes()
