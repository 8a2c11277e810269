"""Patches: the repaired part alone, pushed and put on its base; and the way back to the original."""

import json
from copy import deepcopy
from dataclasses import replace

import planted
import pytest
import timm
import torch
from huggingface_hub import ModelCard, get_token
from huggingface_hub.errors import EntryNotFoundError
from loopback.pushing import *  # noqa: F403
from loopback.pushing import base_pictures, image, readme

import timm_repair
from timm_repair.cli import main
from timm_repair.errors import ConfigError
from timm_repair.hub import saving
from timm_repair.hub.lineage import Base, Lineage, lineage
from timm_repair.models.weights import fingerprint

# huggingface_hub's own
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture(autouse=True)
def undrawn(monkeypatch) -> None:
    """No figures, which take most of the time."""
    monkeypatch.setattr(saving, "find_spec", lambda name: None)


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
        "hf-hub:me/patch",
        failures,
        block="layer1",
        genotype="raw",
        steps=2,
        progress=False,
        diagnose=False,
    )
    with pytest.raises(ConfigError, match="is a patch itself"):
        again.push_to_hub("me/second", token="hf_me", patch=True)
    assert (
        fingerprint(timm_repair.revert(timm_repair.revert(again.model)).state_dict())
        == repaired.report.base["sha256"]
    )


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
