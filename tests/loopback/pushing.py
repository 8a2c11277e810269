"""A loopback Hub at the endpoint this process uses, and small repaired models to push to it: `from
push_fixtures import *`.
"""

import warnings
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import planted
import pytest
import timm
import torch
from huggingface_hub import HfApi, constants
from huggingface_hub.utils import disable_progress_bars, enable_progress_bars
from loopback.server import HubServer

import timm_repair
from timm_repair import NoEffectWarning, Repaired
from timm_repair.hub.lineage import lineage
from timm_repair.models.weights import fingerprint

__all__ = [
    "api",
    "base_folder",
    "cache",
    "image",
    "loopback",
    "repaired",
    "repaired_once",
    "published_base",
]

# not `from conftest import`: pytest loads conftest under another name, and this would be a second
# one
HUB_PORT = urlsplit(constants.ENDPOINT).port
NAMES = ["tench", "goldfish", "white shark", "hen"]


def image() -> torch.Tensor:
    """Two normalized images."""
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def base_pictures() -> list[planted.Pair]:
    """Pictures of the base's four classes. It gets those of tench and goldfish wrong, and the
    others right.
    """
    return planted.pictures(160, 5, classes=4, mode="RGB")


def as_measured(repaired: Repaired) -> Repaired:
    """`repaired` with its report put down as that of the weights it has now, which a test has
    changed.
    """
    report = replace(repaired.report, weights=fingerprint(repaired.model.state_dict()))
    lineage(repaired.model).report = report
    return replace(repaired, report=report)


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache of the Hub, for this test alone."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def loopback(cache, monkeypatch) -> Iterator[HubServer]:
    """The server that timm_repair, timm and huggingface_hub find in this process; users as in
    loopback/server.py. LFS, without xet.
    """
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    disable_progress_bars()
    with HubServer(HUB_PORT) as server:
        yield server
        assert server.errors == []
    enable_progress_bars()


@pytest.fixture
def api(loopback) -> HfApi:
    """The client of the user "me"."""
    return HfApi(token="hf_me")


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory) -> Path:
    """A planted classifier of four classes that takes tench for goldfish and the reverse, saved by
    timm.
    """
    config = {"license": "cc-by-nc-4.0", "num_classes": 4, "label_names": NAMES}
    model = planted.confused(planted.classifier(in_chans=3, classes=4, config=config))
    folder = tmp_path_factory.mktemp("base")
    about = {"label_names": NAMES}
    timm.models.save_for_hf(model, folder, model_config=about, safe_serialization=True)
    return folder


@pytest.fixture
def published_base(api, base_folder) -> str:
    """The same on the loopback Hub."""
    api.create_repo("me/base", exist_ok=True)
    api.upload_folder(repo_id="me/base", folder_path=base_folder)
    return "me/base"


@pytest.fixture(scope="session")
def repaired_once(base_folder) -> Repaired:
    """The model repaired in one block, with an added path; the same for all tests of the
    session.
    """
    model = timm.create_model(f"local-dir:{base_folder}", pretrained=True).eval()
    failures = timm_repair.collect_failures(model, base_pictures())
    assert failures.labels.tolist() == [0, 1] * 40
    options = {
        "block": "layer2",
        "genotype": "random",
        "level": "layer",
        "steps": 4,
        "diagnose": False,
    }
    with warnings.catch_warnings():  # whether four steps change an answer does not matter:
        warnings.simplefilter("ignore", NoEffectWarning)
        found = timm_repair.repair(model, failures, progress=False, **options)
    gains = [p for name, p in found.model.named_parameters() if ".gains." in name]
    assert gains, "the random genotype adds no path"
    for gain in gains:  # this changes them
        torch.nn.init.constant_(gain, 0.3)
    return as_measured(found)


@pytest.fixture
def repaired(repaired_once) -> Repaired:
    """A copy of it for one test. Its base is not on the Hub: pass base_model= for a patch."""
    return deepcopy(repaired_once)
