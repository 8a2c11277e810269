"""Pushed and loaded again through a real client and a real (loopback) server: what users do, and
what stays theirs.
"""

import json
import re
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import planted
import pytest
import timm
import torch
from huggingface_hub import CommitInfo, ModelCard, get_token
from huggingface_hub.errors import EntryNotFoundError
from loopback.pushing import *  # noqa: F403
from loopback.pushing import base_pictures, image

import timm_repair
from timm_repair.cli import main
from timm_repair.errors import ConfigError, HubError, ModelError, OptionError
from timm_repair.hub import card, licenses, saving
from timm_repair.hub.lineage import Base, Lineage, lineage
from timm_repair.hub.privacy import published
from timm_repair.models.weights import fingerprint

# huggingface_hub's own
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture(autouse=True)
def undrawn(request, monkeypatch) -> None:
    """No figures, which take most of the time, but in the first test."""
    if request.function is not test_push_and_load:
        monkeypatch.setattr(saving, "find_spec", lambda name: None)


def readme(api, repo_id: str, revision: str | None = None) -> str:
    return Path(
        api.hf_hub_download(repo_id, "README.md", revision=revision, force_download=True)
    ).read_text()


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


@torch.no_grad()
def test_a_patch_holds_the_repaired_part_and_is_put_on_its_base(
    repaired, api, published_base, loopback
):
    with pytest.raises(ConfigError, match="base that others can load"):
        repaired.push_to_hub("me/patch", token="hf_me", patch=True)
    repaired.push_to_hub("me/patch", token="hf_me", patch=True, base_model=published_base)
    files = loopback.store.repo("me/patch").files()
    base = loopback.store.repo("me/base").files()["model.safetensors"]
    assert "model.safetensors" not in files and len(files["patch.safetensors"]) < 0.3 * len(base)
    config = json.loads(files["config.json"])
    assert (
        config["timm_repair"]["base"] == "me/base"
        and config["timm_repair"]["revision"] == api.model_info("me/base").sha
    )
    model = timm_repair.from_pretrained("me/patch")
    assert torch.equal(model(image()), repaired.model(image()))
    original = timm_repair.revert(model)
    plain = timm.create_model("hf-hub:me/base", pretrained=True).eval()
    assert (
        fingerprint(original.state_dict()) == fingerprint(plain.state_dict())
        and original._model_args == plain._model_args
    )
    assert torch.equal(original(image()), plain(image())) and type(original) is type(plain)
    assert torch.equal(model(image()), repaired.model(image())), "revert gives a new model"
    seven = timm_repair.from_pretrained("me/patch", num_classes=7, in_chans=1)
    assert seven(image()[:, :1]).shape == (2, 7)
    with pytest.raises(EntryNotFoundError):
        timm.create_model("hf-hub:me/patch", pretrained=True)  # never loads as if whole


@torch.no_grad()
def test_a_patch_on_another_base_is_refused(
    repaired, api, published_base, base_folder, tmp_path, loopback
):
    repaired.push_to_hub("me/patch", token="hf_me", patch=True, base_model=published_base)
    other = timm.create_model(f"local-dir:{base_folder}", pretrained=True)
    other.fc.bias += 1e-3
    timm.models.save_for_hf(other, tmp_path / "other", safe_serialization=True)
    api.upload_folder(repo_id="me/base", folder_path=tmp_path / "other")
    assert timm_repair.from_pretrained("me/patch") is not None, (
        "it names the commit of its base, not the branch"
    )
    with pytest.raises(ConfigError, match="does not have the weights"):
        repaired.push_to_hub("me/second", token="hf_me", patch=True, base_model="me/base")
    config = json.loads(loopback.store.repo("me/patch").files()["config.json"])
    config["timm_repair"]["revision"] = api.model_info("me/base").sha
    api.upload_file(
        repo_id="me/patch", path_in_repo="config.json", path_or_fileobj=json.dumps(config).encode()
    )
    with pytest.raises(ConfigError, match="other weights .* than the base"):
        timm_repair.from_pretrained("me/patch")


@torch.no_grad()
def test_what_was_saved_whole_becomes_a_patch_and_back(
    repaired, api, published_base, tmp_path, capsys
):
    """The console: repair to a folder, push it whole, then as a patch. Nothing of the other form
    stays behind.
    """
    report = replace(repaired.report, base=repaired.report.base | {"id": "me/base"})
    timm_repair.save_pretrained(repaired.model, tmp_path / "out", report=report)
    expected = repaired.model(image())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_TOKEN", "hf_me")
        for options, present, absent in (
            ([], "model", "patch"),
            (["--patch"], "patch", "model"),
            (["--remote-code"], "model", "patch"),
        ):
            assert main(["push", str(tmp_path / "out"), "me/net", *options]) == 0
            assert "/me/net/commit/" in capsys.readouterr().out
            files = api.list_repo_files("me/net")
            assert f"{present}.safetensors" in files and f"{absent}.safetensors" not in files
            assert torch.equal(timm_repair.from_pretrained("me/net")(image()), expected)
    assert "modeling_timm_repair.py" in files and get_token() is None
    assert (
        main(["push", str(tmp_path / "nothing"), "me/net"]) == 2
        and "is no directory" in capsys.readouterr().err
    )


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


@pytest.mark.filterwarnings("ignore::timm_repair.NoEffectWarning")  # two steps may change nothing
@torch.no_grad()
def test_save_and_push_a_patch_in_one_call(repaired, api, published_base, tmp_path):
    folder = repaired.save_pretrained(
        tmp_path / "out",
        patch=True,
        base_model=published_base,
        push_to_hub=True,
        repo_id="me/patch",
        token="hf_me",
    )
    model = timm_repair.from_pretrained(folder)
    assert torch.equal(model(image()), repaired.model(image()))
    assert saving.report_of(timm_repair.from_pretrained("me/patch")).base["id"] == "me/base"
    assert ModelCard(readme(api, "me/patch")).data.base_model == "me/base"
    same = timm_repair.from_pretrained("me/patch", num_classes=4, drop_rate=0.1)
    assert fingerprint(timm_repair.revert(same).state_dict()) == repaired.report.base["sha256"]
    with pytest.raises(ConfigError, match="without another head"):
        timm_repair.revert(timm_repair.from_pretrained("me/patch", num_classes=9))
    wrong = planted.mislabelled(repaired.model, base_pictures())
    failures = timm_repair.collect_failures("hf-hub:me/patch", wrong)
    assert failures.labels.tolist() == [label for _, label in wrong]
    again = timm_repair.repair(
        "hf-hub:me/patch", failures, block="layer1", genotype="raw", steps=2, progress=False
    )
    with pytest.raises(ConfigError, match="is a patch itself"):
        again.push_to_hub("me/second", token="hf_me", patch=True)
    assert (
        fingerprint(timm_repair.revert(timm_repair.revert(again.model)).state_dict())
        == repaired.report.base["sha256"]
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


@torch.no_grad()
def test_revert_gives_the_original_of_a_fresh_repair(repaired, base_folder):
    plain = timm.create_model(f"local-dir:{base_folder}", pretrained=True).eval()
    original = timm_repair.revert(repaired.model)
    assert list(original.state_dict()) == list(plain.state_dict()) and lineage(original) is None
    assert fingerprint(original.state_dict()) == fingerprint(plain.state_dict())
    with pytest.raises(ConfigError, match="does not hold its original"):
        timm_repair.revert(plain)
    trained = deepcopy(repaired.model)
    trained.fc.weight += 1
    with pytest.raises(ConfigError, match="changed since its repair"):
        timm_repair.revert(trained)


def test_revert_of_a_plain_module_and_of_weights_alone():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(4, 2))
    changed = deepcopy(net)
    with torch.no_grad():
        changed[0].weight += 1
    known = Lineage.between(Base.of("net", net, loaded=False), net, changed, (), None)
    known.attach(changed)
    assert set(known.original) == set(known.patch(changed)) == {"0.weight"}
    assert fingerprint(timm_repair.revert(changed).state_dict()) == fingerprint(net.state_dict())


def test_the_report_travels_with_the_model(repaired, api, tmp_path):
    repaired.push_to_hub("me/net", token="hf_me")
    model = timm_repair.from_pretrained("me/net")
    assert (
        saving.report_of(model).to_dict()
        == repaired.report.to_dict()
        == saving.report_of(repaired.model).to_dict()
    )
    timm_repair.save_pretrained(model, tmp_path / "again")
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == Path(
        api.hf_hub_download("me/net", "model.safetensors")
    ).read_bytes()
