"""No raw error: whatever is given to a public function or typed on a command line, what comes out is
one of the family, and foreseen.
"""

import inspect
import random
import warnings
from pathlib import Path

import numpy as np
import planted
import pytest
import torch
from accelerate import Accelerator
from cases import GENTLE
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

import timm_repair
from timm_repair import cli
from timm_repair.data.options import DataOptions
from timm_repair.errors import RepairError, UnexpectedError
from timm_repair.methods import METHODS, named
from timm_repair.options import flat_names

SETTINGS = settings(
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
    print_blob=False,
)
# no slash: what looks like a Hub id is asked for there
WORDS = st.text("abcxyz_.-=:[]{}() \t\n\0\ud800é'\"", max_size=8)
NUMBERS = st.integers() | st.floats() | st.sampled_from([0, 1, -1, 2**63, 2**200, 0.5, True])
OBJECTS = st.sampled_from(
    [None, b"", Path("nowhere"), Path("."), object(), type, nn.Linear, lambda *_: 1, np.zeros(3)]
    + [np.int64(3), np.float32("nan"), torch.zeros(2, 3), torch.tensor(1), Image.new("L", (8, 8))]
    + [nn.Identity(), nn.Linear(3, 2), DataOptions(), range(3), {1, 2}, iter([]), Ellipsis, 1j]
)
ANYTHING = st.recursive(
    WORDS | NUMBERS | OBJECTS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(WORDS | st.integers(), inner, max_size=2)
    ),
    max_leaves=4,
)
VERBS = {
    name: verb
    for name, verb in ((name, getattr(timm_repair, name)) for name in dir(timm_repair))
    if inspect.isfunction(verb) and not name.startswith("_")
}


class Reached(RepairError):
    """The arguments were taken, and the work would begin."""


@pytest.fixture(scope="module")
def saved(deployed, failures, tmp_path_factory):
    """A repaired model, and the folder it was saved to."""
    folder = tmp_path_factory.mktemp("saved") / "out"
    options = {"method": "finetune", "progress": False, "diagnose": False, **GENTLE, "steps": 2}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        few = failures.subset(range(20))
        return timm_repair.repair(deployed, few, output_dir=folder, **options), folder


@pytest.fixture
def calls(deployed, failures, pictures, saved, monkeypatch, tmp_path):
    """Of each verb arguments that it takes; its long work is not done."""

    def reached(*_, **__):
        raise Reached("the work would begin")

    verbs = ["repairing.run_method", "repairing.measure", "comparing.run_method", "shared.measure"]
    for place in (*verbs, "inspecting.own_randomness", "estimating.own_randomness"):
        monkeypatch.setattr(f"timm_repair.pipeline.{place}", reached)
    monkeypatch.setattr("timm_repair.hub.pushing.opened", reached)
    monkeypatch.setattr("timm_repair.hub.exporting._onnx", reached)
    monkeypatch.setattr("timm_repair.hub.exporting._program", reached)
    monkeypatch.chdir(tmp_path)
    repaired, folder = saved
    few = failures.subset(range(20))
    data = {"failures": few, "retain": pictures["train"][:40], "holdout": None, "seed": 0}
    data |= {"progress": False, "accelerator": None, "data": None}
    repair = {"model": deployed, **data}
    without = {name: value for name, value in repair.items() if name != "holdout"}
    found = {
        "repair": repair
        | {"output_dir": None, "overwrite": False, "method": "finetune"}
        | {"diagnose": False},
        "compare": repair
        | {"methods": ["finetune"], "diagnose": False, "seeds": None, "protocol": "split"}
        | {"output_dir": None, "overwrite": False},
        "read_comparison": {"directory": folder},
        "localize": without | {"score": "rgn", "top": 10},
        "estimate": repair | {"method": "finetune", "diagnose": False},
        "evaluate": {"model": deployed, "images": pictures["pool"][:20], "data": None}
        | {"progress": False, "accelerator": None},
        "diagnose": without | {"passing": None, "pixels": 10},
        "collect_failures": {"model": deployed, "dataset": pictures["pool"][:20], "seed": 0}
        | {"max_failures": 3, "name": "x", "runtime": None, "on_unknown": "skip"},
        "blocks": {"model": deployed, "granularity": "stage", "names": None, "input_size": None},
        "as_images": {"source": pictures["pool"][:6], "model": deployed, "name": "x"}
        | {"check_readable": True, "revision": None, "token": None, "cache_bytes": 10**6}
        | {"label_map": None, "split": None, "on_unknown": "stop", "max_examples": None},
        "corrupt": {"images": pictures["pool"][:6], "name": "fog", "severity": 3, "seed": 0}
        | {"parameters": None, "split": None, "image_column": None, "label_column": None},
        "from_pretrained": {"name_or_path": folder, "revision": None, "token": None}
        | {"cache_dir": None, "force_download": False, "local_files_only": True},
        "revert": {"model": repaired.model},
        "apply_edits": {"model": planted.network(), "edits": []},
        "export": {"model": repaired.model, "path": "x", "format": "torch"},
        "save_pretrained": {"model": repaired.model, "save_directory": tmp_path / "new"}
        | {"report": None, "patch": False, "remote_code": False, "license": None}
        | {"base_model": None, "repo_id": None, "push_to_hub": False},
        "push_to_hub": {"model": repaired.model, "repo_id": "me/net", "report": None}
        | {"private": None, "revision": None, "create_pr": False, "commit_message": "x"},
    }
    assert found.keys() == VERBS.keys(), "each public function"
    return found


def foreseen(verb, *args, **kwargs) -> RepairError | None:
    """The error that a call ends with, if any; all but those of the family are bugs, and those that
    nobody foresaw.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            verb(*args, **kwargs)
        except UnexpectedError:
            raise
        except RepairError as error:
            return error
    return None


@pytest.mark.parametrize("name", sorted(VERBS))
def test_any_argument_is_taken_or_refused_by_name(name, calls, offline):
    @settings(SETTINGS, max_examples=40)
    @given(st.data())
    def check(data):
        arguments = dict(calls[name])
        for wrong in data.draw(st.sets(st.sampled_from(sorted(arguments)), min_size=1, max_size=2)):
            arguments[wrong] = data.draw(ANYTHING, label=wrong)
        error = foreseen(VERBS[name], **arguments)
        assert error is None or str(error).strip()

    check()


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("repair", {"data": {}}, "data=<dict>: must be timm_repair.DataOptions"),
        ("repair", {"seed": None}, "seed=None: must be an integer from 0 on"),
        ("repair", {"seed": -1}, "seed=-1"),
        ("repair", {"accelerator": "cpu"}, "must be an accelerate.Accelerator"),
        ("repair", {"steps": "10"}, "steps='10' must be a whole number"),
        ("repair", {"block": 3, "level": "block"}, "block"),
        ("repair", {"level": "blok"}, "did you mean 'block'"),
        ("repair", {"retian": []}, "did you mean 'retain'|has no option 'retian'"),
        ("repair", {"holdout": 7}, "holdout.*cannot take images from int"),
        ("repair", {"model": nn.Linear}, "model=<type>: must be a timm name"),
        ("compare", {"methods": "finetune"}, "methods='finetune': must be a list of names"),
        ("blocks", {"names": "layer2"}, "names='layer2': must be a list of str"),
        ("blocks", {"granulariti": "stage"}, "did you mean 'granularity'"),
        ("corrupt", {"severity": "3"}, "severity='3': must be 1, 2, 3, 4 or 5"),
        ("push_to_hub", {"private": "yes"}, "private='yes': must be bool or None"),
        ("as_images", {"token": 3}, "token=<int>"),
    ],
)
def test_the_message_names_the_argument_and_what_is_taken(name, changes, message, calls):
    with pytest.raises(RepairError, match=message):
        VERBS[name](**calls[name] | changes)


def test_a_call_without_its_arguments_is_told_what_they_are():
    with pytest.raises(RepairError, match="missing a required argument: 'failures'"):
        timm_repair.repair("resnet18")
    with pytest.raises(RepairError, match="too many positional arguments. It takes model"):
        timm_repair.revert(1, 2, 3)


@pytest.mark.parametrize("kind", ["file", "under a file"])
def test_an_output_that_cannot_be_is_refused_first(kind, calls, tmp_path):
    (tmp_path / "file").write_text("mine")
    place = tmp_path / "file" if kind == "file" else tmp_path / "file" / "out"
    with pytest.raises(RepairError, match="choose another output directory"):
        timm_repair.repair(**calls["repair"] | {"output_dir": place})
    assert (tmp_path / "file").read_text() == "mine"


@settings(SETTINGS, max_examples=150)
@given(st.data())
def test_any_option_is_taken_or_refused(data):
    which = data.draw(st.sampled_from([*METHODS, "data"]))
    make = DataOptions if which == "data" else lambda **options: named(which, **options)
    known = flat_names(DataOptions if which == "data" else METHODS[which])
    foreseen(make, **{data.draw(st.sampled_from(known)): data.draw(ANYTHING)})


@settings(SETTINGS, max_examples=60)
@given(st.data())
def test_any_command_line_ends_with_an_exit_status(data):
    command = data.draw(st.sampled_from(["repair", "localize", "compare", "report", "blocks"]))
    command = data.draw(st.just(command) | WORDS)
    options = ["--model", "--failures", "--retain", "--holdout", "--output", "--seed", "--data"]
    options += ["--set", "--methods", "--granularity", "--overwrite"]
    values = WORDS | st.sampled_from(["steps=1", "split=x", "a=", "=", "/", "test_resnet", "-1"])
    line = data.draw(st.lists(st.tuples(st.sampled_from(options), values), max_size=4))
    argv = [command, *(f"{option}={value}" for option, value in line)]
    argv += data.draw(st.lists(values, max_size=2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            assert cli.main(argv) in (0, 2, 3)
        except SystemExit as error:  # of argparse, with the usage
            assert error.code in (0, 2)


def test_global_state_is_the_callers_again(calls, tmp_path):
    def state():
        numbers = np.random.get_state()
        return {
            "torch": torch.get_rng_state().tolist(),
            "python": random.getstate(),
            "numpy": (numbers[1].tolist(), numbers[2:]),
            "filters": list(warnings.filters),
            "threads": torch.get_num_threads(),
            "modes": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
            "dtype": torch.get_default_dtype(),
        }

    def noisy(*_, **__):
        for draw in (torch.rand, random.randrange, np.random.rand):
            draw(3)
        warnings.simplefilter("ignore")
        torch.set_default_dtype(torch.float64)
        raise KeyError("in the middle")

    for name, verb in VERBS.items():
        before = state()
        foreseen(verb, **calls[name])
        assert state() == before, name
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("timm_repair.pipeline.repairing.run_method", noisy)
        patch.setattr("timm_repair.pipeline.repairing.measure", noisy)
        before = state()
        with pytest.raises(UnexpectedError, match="KeyError: 'in the middle'") as caught:
            timm_repair.repair(**calls["repair"] | {"accelerator": Accelerator(cpu=True)})
        assert state() == before and isinstance(caught.value.__cause__, KeyError)
        assert any("while repairing" in note for note in caught.value.__notes__)
