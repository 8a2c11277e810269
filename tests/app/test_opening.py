"""Which repairs a place holds, and both of their models."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from app.saved_repairs import *  # noqa: F403
from loopback.pushing import *  # noqa: F403
from loopback.pushing import NAMES
from PIL import Image

from timm_repair.app.opening import inside, opened, workplace
from timm_repair.app.pair import SHOWN, Pair
from timm_repair.errors import ConfigError, HubError, ModelError

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


def test_a_folder_is_a_repair_or_holds_several(saved_once, tmp_path):
    (one,) = opened(saved_once)
    assert (one.name, one.report.repaired_blocks) == ("out", ("layer2",))
    assert one.gallery.examples, "with the pictures beside it"
    for name in ("b", "a", "seed-0/finetune", ".hidden"):
        shutil.copytree(saved_once, tmp_path / "many" / name)
    (tmp_path / "many" / "notes").mkdir()
    found = opened(tmp_path / "many")
    assert [each.name for each in found] == ["a", "b", "seed-0/finetune"]
    assert found[2].folder == tmp_path / "many" / "seed-0" / "finetune"


def test_a_repair_that_is_damaged_hides_no_other(saved_once, tmp_path, caplog):
    for name in ("a", "b"):
        shutil.copytree(saved_once, tmp_path / name)
    (tmp_path / "a" / "repair.json").write_text("{")
    (tmp_path / "b" / "new").mkdir()
    assert [each.name for each in inside(tmp_path, within="w")] == ["w/b"]
    assert "left out" in caplog.text and "repair.json" in caplog.text
    (tmp_path / "b" / "config.json").unlink()  # a save that was cut off
    with pytest.raises(ConfigError, match="holds no finished repair"):
        opened(tmp_path)


def test_what_is_no_place_is_told(saved_once, tmp_path, cache):
    with pytest.raises(ModelError, match="neither a folder nor a Hub id"):
        opened(tmp_path / "missing")
    with pytest.raises(HubError):
        opened("me/missing")
    network = tmp_path / "network"
    shutil.copytree(saved_once, network)
    report = json.loads((network / "repair.json").read_text())
    report["properties"] = [{"box": 1}]
    (network / "repair.json").write_text(json.dumps(report))
    with pytest.raises(ConfigError, match="takes no images"):
        opened(network)


def test_from_the_hub(repaired, api, loopback, monkeypatch):
    from timm_repair.hub import saving

    monkeypatch.setattr(saving, "find_spec", lambda name: None)
    commit = repaired.push_to_hub("me/net", token="hf_me")
    (found,) = opened("me/net")
    assert (found.name, found.source) == ("me/net", f"hf-hub:me/net@{commit.oid}")
    assert not found.gallery and found.report.diagnosis is None
    pair = Pair.of(found)
    assert pair.original is None and "does not tell where its original is" in pair.lacking


def test_what_is_made_lies_beside_the_folder(tmp_path):
    (tmp_path / "out").mkdir()
    assert workplace(tmp_path / "out") == tmp_path / "out-app"
    assert workplace(tmp_path / "out" / "..") == tmp_path.with_name(f"{tmp_path.name}-app")
    assert workplace("hf-hub:me/net@main") == Path("net-app")


@torch.no_grad()
def test_both_models_answer(saved_once, base_folder, repaired_once, tmp_path, dropped):
    (saved,) = opened(saved_once)
    pair = Pair.of(saved, str(base_folder))
    assert pair.names == tuple(NAMES) and pair.lacking == ""
    images = [Image.open(path) for path in dropped["tench"][:2]]
    answers = pair.answers(images)
    pixels = torch.stack([pair.preprocessing.decode(each) for each in images])
    sure = repaired_once.model(pair.preprocessing.normalize(pixels)).softmax(1)
    for row, each in zip(sure, answers, strict=True):
        values, labels = row.topk(SHOWN)
        assert [a.label for a in each.after] == labels.tolist()
        assert [a.sure for a in each.after] == pytest.approx(values.tolist(), abs=1e-6)
        assert each.before[0].name == "goldfish", "the planted fault of the original"
    assert pair.answers([]) == []


def test_an_original_of_other_weights_is_none(saved_once, base_folder):
    (saved,) = opened(saved_once)
    with pytest.raises(ConfigError, match="does not have the weights that were repaired"):
        Pair.of(saved, str(saved_once))
    told = replace(saved, report=replace(saved.report, model=f"local-dir:{saved_once}"))
    assert Pair.of(told).original is None and "weights" in Pair.of(told).lacking
    known = replace(saved, report=replace(saved.report, model=f"local-dir:{base_folder}"))
    assert Pair.of(known).original is not None
