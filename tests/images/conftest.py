"""A cache of data sets of its own, and the model that says which images it takes."""

import datasets
import pytest
from huggingface_hub import constants
from images.sources_of_images import NAMES, Plain


@pytest.fixture
def own_cache(tmp_path_factory, monkeypatch):
    """Nothing of this user's Hub is read or written."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path_factory.mktemp("home") / "token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)


@pytest.fixture
def model():
    return Plain(NAMES)
