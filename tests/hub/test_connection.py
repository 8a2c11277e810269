"""Connections to the Hub: who gets the token."""

import pytest
from huggingface_hub import constants

from timm_repair.errors import HubError
from timm_repair.hub import connection


def test_tokens_do_not_travel_unencrypted(monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://hub.example.com")
    assert connection.client(False) and connection.client()
    for token in ("hf_me", None):
        monkeypatch.setenv("HF_TOKEN", "hf_me")
        with pytest.raises(HubError, match="not encrypted"):
            connection.client(token)
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "ENDPOINT", "https://hub.example.com")
    assert connection.client("hf_me")
