"""Any JSON at all, and saved models with anything changed: read, or refused with ConfigError; no
other error, ever.
"""

import json
from copy import deepcopy
from pathlib import Path

import pytest
import timm
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from loopback.pushing import *  # noqa: F403

from timm_repair.architecture.genotype import Genotype
from timm_repair.errors import ConfigError, OptionError
from timm_repair.hub import entry_point
from timm_repair.hub.trust.build import outline
from timm_repair.hub.trust.config import read_config

SETTINGS = settings(
    derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)
ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["resnet18", "timm_repaired", "skip"]),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4)
    ),
    max_leaves=10,
)


@pytest.fixture(scope="module")
def whole(repaired_once, tmp_path_factory) -> Path:
    """An intact saved folder."""
    return deepcopy(repaired_once).save_pretrained(tmp_path_factory.mktemp("whole") / "net")


def places(value: object, path: tuple = ()) -> list[tuple]:
    """The path of every value in a JSON value."""
    inside = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    return [path, *(p for key, each in inside for p in places(each, (*path, key)))]


@st.composite
def mutated(draw, original: dict) -> dict:
    """One to three values replaced, deleted or doubled."""
    found = deepcopy(original)
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from([p for p in places(found) if p] or [("x",)]))
        place = found
        for key in path[:-1]:
            place = place[key]
        action = draw(st.sampled_from(["replace", "delete", "double"]))
        if action == "delete" and path != ("x",):
            del place[path[-1]]
        elif action == "double" and isinstance(place, list):
            place.append(deepcopy(place[path[-1]]))
        else:
            place[path[-1]] = draw(ANYTHING)
    return found


def or_config_error(function, *arguments) -> object:
    """What `function` returns, None where it raises ConfigError, or OptionError for what is no list
    at all; all other errors are bugs.
    """
    try:
        return function(*arguments)
    except (ConfigError, OptionError):
        return None


@settings(SETTINGS, max_examples=40)
@given(st.data())
def test_any_config_is_read_or_refused(whole, tmp_path_factory, data):
    original = json.loads((whole / "config.json").read_text())
    spec = {"version": 1, "base": "me/base", "revision": "0" * 40, "sha256": "0" * 64}
    value = data.draw(ANYTHING | mutated(original) | mutated(original | {"timm_repair": spec}))
    folder = tmp_path_factory.getbasetemp()
    (folder / "config.json").write_text(json.dumps(value))
    config = or_config_error(read_config, folder / "config.json")
    assert config is None or isinstance(config, dict)
    if config is not None:
        config.pop("patch", None)
        (folder / "config.json").write_text(json.dumps(config))
        model = or_config_error(outline, folder, 2000)
        assert model is None or all(p.is_meta for p in model.parameters())


@settings(SETTINGS, max_examples=40)
@given(st.data())
def test_any_edits_are_applied_or_refused(whole, data):
    edits = json.loads((whole / "config.json").read_text())["model_args"]["edits"]
    found = data.draw(ANYTHING | mutated({"edits": edits}).map(lambda value: value.get("edits")))
    with torch.device("meta"):
        model = timm.create_model("test_resnet", num_classes=4)
        or_config_error(entry_point.apply_edits, model, found)
    genotype = or_config_error(
        Genotype.from_dict, data.draw(ANYTHING | mutated(edits[0]["genotype"]))
    )
    assert genotype is None or Genotype.from_dict(genotype.to_dict()) == genotype
