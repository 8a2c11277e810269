"""Pushed and loaded again through a real client and a real (loopback) server."""

import json
from pathlib import Path

import pytest
import timm
import torch
from push_fixtures import *  # noqa: F403
from push_fixtures import image

import timm_repair
from timm_repair.errors import ConfigError, HubError, ModelError, OptionError

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # huggingface_hub's own


@torch.no_grad()
def test_push_and_load(repaired, api, loopback, capsys, caplog):
    commit = repaired.push_to_hub("me/net", token="hf_me", commit_message="first")
    assert commit == f"{loopback.url}/me/net/commit/{commit.oid}" and len(commit.oid) == 40
    commits = [c for c in api.list_repo_commits("me/net")] if hasattr(loopback.store, "commits") else None
    files = set(api.list_repo_files("me/net"))
    assert {"config.json", "model.safetensors", "repair.json", "README.md", "figures/overview.png"} <= files
    assert not any(f.endswith((".bin", ".pt", ".pth", ".pkl")) for f in files) and commits is None
    expected = repaired.model(image())
    for model in (timm_repair.from_pretrained("me/net"), timm_repair.from_pretrained(f"hf-hub:me/net@{commit.oid}"),
                  timm.create_model("hf-hub:me/net", pretrained=True).eval()):
        assert type(model) is type(repaired.model) and torch.equal(model(image()), expected)
    assert "hf_me" not in caplog.text + capsys.readouterr().out
