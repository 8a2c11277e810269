"""A repaired model on the Hub loads everywhere: in fresh processes that know nothing but its name,
with the same answers.
"""

import json
import warnings
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from copy import deepcopy
from importlib.util import find_spec
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
from huggingface_hub import HfApi, constants
from huggingface_hub.utils import disable_progress_bars, enable_progress_bars
from loopback.pushing import *  # noqa: F403
from loopback.pushing import HUB_PORT, NAMES, as_measured, base_pictures, image
from loopback.server import HubServer, hub_environment
from PIL import Image
from processes.fresh import fresh, start
from torch import nn

import timm_repair
from timm_repair.hub import saving

# huggingface_hub's own
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
ME = {"token": "hf_me"}


TIMM_AND_US = """
import os, timm, timm_repair
image, old = given["image"], open("old").read()
for name, make, options in (("timm", timm.create_model, {"pretrained": True}), ("timm_repair", timm_repair.from_pretrained, {})):
    net = "hf-hub:me/net" if name == "timm" else "me/net"
    model = make(net, **options).eval()
    assert type(model).__module__ == "timm.models.resnet"
    found[name + " main"] = model(image)
    found[name + " old"] = make(f"{net}@{old}", **options).eval()(image)
    model = make(net, num_classes=7, **options).eval()
    assert model(image).shape == (2, 7)
    found[name + " body"] = model.forward_features(image)
    found[name + " grey"] = make(net, in_chans=1, **options).eval()(image[:, :1])
    for number, features in enumerate(make(net, features_only=True, **options).eval()(image)):
        found[f"{name} features {number}"] = features
found["revision="] = timm_repair.from_pretrained("me/net", revision=old)(image)

os.environ["HF_TOKEN"] = "hf_other"
try:
    timm_repair.from_pretrained("me/net", cache_dir="elsewhere")
except timm_repair.errors.HubError as error:
    assert "hf_" not in str(error)
else:
    raise AssertionError("a stranger loaded it")
found["token="] = timm_repair.from_pretrained("me/net", token="hf_me", cache_dir="elsewhere")(image)
"""

WITHOUT_THE_HUB = """
import timm, timm_repair
image, old = given["image"], open("old").read()
found["main"] = timm_repair.from_pretrained("me/net")(image)
found["local files"] = timm_repair.from_pretrained("me/net", local_files_only=True)(image)
found["timm"] = timm.create_model("hf-hub:me/net", pretrained=True).eval()(image)
found["old"] = timm_repair.from_pretrained("me/net", revision=old)(image)
"""

PLAIN_TIMM = """
import sys
sys.modules["timm_repair"] = None  # cannot be imported
import timm
for name in ("network", "block"):
    found[name] = timm.create_model(f"hf-hub:me/{name}", pretrained=True).eval()(given["image"])
try:
    timm.create_model("hf-hub:me/open", pretrained=True)
except RuntimeError as error:
    found["refusal"] = str(error)
"""

TRANSFORMERS = """
import json, sys
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline
{plugin}
photo = Image.open("photo.png")
for name in {names}:
    options = {options} if name == "me/remote" else {{}}
    model = AutoModelForImageClassification.from_pretrained(name, **options)
    found[name] = model(given["image"]).logits
    pixels = AutoImageProcessor.from_pretrained(name, **options)(photo, return_tensors="pt")
    found[name + " photo"] = model(**pixels).logits
    answer = {{each["label"]: each["score"] for each in pipeline("image-classification", name, **options)(photo)}}
    found[name + " class"] = f"{{type(model).__module__}}.{{type(model).__name__}}"
    found[name + " pipeline"] = json.dumps([model.config.id2label[k] for k in sorted(model.config.id2label)] + [answer])
    assert name == "me/remote" or {here} == ("timm_repair" in sys.modules)
"""

# how -> the import, the models, and the options for the one that was pushed with remote_code=True
IN_TRANSFORMERS = {
    "plugin": ("import timm_repair", ["me/open", "me/remote", "me/network"], {}),
    "remote code": ("", ["me/network", "me/remote"], {"trust_remote_code": True}),
}

CARDS = """
import re
from huggingface_hub import hf_hub_download
from PIL import Image
for name in ("me/open", "me/patch"):
    card = open(hf_hub_download(name, "README.md"), encoding="utf-8").read()
    chapter = card.split("## How to load it")[1].split("\\n## ")[0]
    names = {"image": Image.open("photo.png")}
    for block in re.findall("```python\\n(.*?)```", chapter, re.DOTALL):
        exec(block, names)
    found[name] = names["logits"]
    if name == "me/patch":
        found["original"] = names["original"](given["image"])
"""


def photo() -> Image.Image:
    """An image as people have it."""
    return Image.fromarray(np.random.default_rng(7).integers(0, 255, (40, 50, 3), dtype=np.uint8))


def seen(model: nn.Module) -> torch.Tensor:
    """The logits of the photo, by timm's own transform."""
    transform = timm.data.create_transform(
        **timm.data.resolve_model_data_config(model), is_training=False
    )
    return model(transform(photo()).unsqueeze(0))


@pytest.fixture(scope="module")
def tuned(base_folder) -> dict[str, timm_repair.Repaired]:
    """Repairs that changed weights alone: those of the whole network, or of one block."""
    model = timm.create_model(f"local-dir:{base_folder}", pretrained=True).eval()
    failures, found = timm_repair.collect_failures(model, base_pictures()), {}
    assert failures.labels.tolist() == [0, 1] * 40
    for name, options, part in (
        ("network", {"level": "network"}, ""),
        ("block", {"level": "block", "block": "layer2"}, "layer2"),
    ):
        options = {"method": "finetune", "steps": 2, "progress": False, "diagnose": False} | options
        with warnings.catch_warnings():  # whether two steps change a weight does not matter:
            warnings.simplefilter("ignore", timm_repair.NoEffectWarning)
            found[name] = timm_repair.repair(model, failures, **options)
        with torch.no_grad():
            for parameter in found[name].model.get_submodule(part).parameters():  # this does
                parameter.mul_(1.1)
        found[name] = as_measured(found[name])
    return found


@pytest.fixture(scope="module")
def world(base_folder, repaired_once, tuned, tmp_path_factory) -> Iterator[SimpleNamespace]:
    """A Hub with everything that was ever pushed: `models` by their names there; me/net is private
    and was pushed twice.
    """
    api, models = HfApi(token="hf_me"), {}
    with pytest.MonkeyPatch.context() as patch, HubServer(HUB_PORT) as server, torch.no_grad():
        patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        patch.setattr(saving, "find_spec", lambda name: None)  # no figures: they take half the time
        patch.setattr(constants, "HF_HUB_CACHE", str(tmp_path_factory.mktemp("cache")))
        disable_progress_bars()
        first, second = deepcopy(repaired_once), deepcopy(repaired_once)
        for name, parameter in second.model.named_parameters():
            if ".gains." in name:
                parameter.add_(1)
        second = as_measured(second)
        api.create_repo("me/base")
        api.upload_folder(repo_id="me/base", folder_path=base_folder)
        models["me/old"], old = first.model, first.push_to_hub("me/net", private=True, **ME).oid
        for name, repaired, options in (
            ("me/net", second, {}),
            ("me/open", first, {}),
            ("me/remote", first, {"remote_code": True}),
            ("me/patch", first, {"patch": True, "base_model": "me/base"}),
            ("me/network", tuned["network"], {}),
            ("me/block", tuned["block"], {}),
        ):
            repaired.push_to_hub(name, **options, **ME)
            models[name] = repaired.model
        yield SimpleNamespace(server=server, url=server.url, models=models, old=old)
        assert server.errors == []
    enable_progress_bars()


@pytest.fixture(scope="module")
def found(world, tmp_path_factory) -> dict[str, Future]:
    """What each script found, every one in a folder and with an empty cache of its own; two run at
    a time.
    """
    scripts = {"timm": TIMM_AND_US, "plain": PLAIN_TIMM, "cards": CARDS}
    if find_spec("transformers"):
        for how, (plugin, names, options) in IN_TRANSFORMERS.items():
            scripts[how] = TRANSFORMERS.format(
                plugin=plugin, names=names, options=options, here=bool(plugin)
            )
    running, folder = {}, tmp_path_factory.mktemp("scripts")
    with ThreadPoolExecutor(2) as pool:
        for name, script in scripts.items():
            (folder / name).mkdir()
            photo().save(folder / name / "photo.png")
            (folder / name / "old").write_text(world.old)
            environment = hub_environment(
                world.url, folder / name / "home", token="hf_me" if name == "timm" else None
            )
            running[name] = pool.submit(fresh, script, folder / name, environment, image=image())
    world.home = folder / "timm" / "home"  # a cache with both commits of me/net
    return running


@torch.no_grad()
def test_timm_and_timm_repair(world, found):
    found, model, old = (
        found["timm"].result(),
        world.models["me/net"],
        world.models["me/old"](image()),
    )
    assert not torch.equal(model(image()), old)
    grey = deepcopy(model)
    stem = grey.get_submodule(model.pretrained_cfg["first_conv"])
    stem.weight = nn.Parameter(stem.weight.sum(1, keepdim=True))
    expected = {"revision=": old, "token=": model(image())}
    for name in ("timm", "timm_repair"):
        expected |= {
            f"{name} main": model(image()),
            f"{name} old": old,
            f"{name} body": model.forward_features(image()),
            f"{name} grey": grey(image()[:, :1]),
        }
        maps = model.forward_intermediates(image(), intermediates_only=True)
        expected |= {f"{name} features {number}": each for number, each in enumerate(maps)}
    assert found.keys() == expected.keys()
    assert [name for name, value in expected.items() if not torch.equal(value, found[name])] == []


@torch.no_grad()
def test_timm_alone(world, found):
    found = dict(found["plain"].result())
    assert found.pop("refusal") == "Unknown model (timm_repaired)"
    for name, value in found.items():
        assert torch.equal(value, world.models[f"me/{name}"](image()))
    assert len(found) == 2 and not torch.equal(found["network"], found["block"])


@pytest.mark.parametrize("how", IN_TRANSFORMERS)
@torch.no_grad()
def test_transformers(how, world, found):
    pytest.importorskip("transformers", reason="for want of transformers")
    found = found[how].result()
    for name in IN_TRANSFORMERS[how][1]:
        model = world.models[name]
        torch.testing.assert_close(found[name], model(image()), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found[f"{name} photo"], seen(model), rtol=1e-5, atol=1e-5)
        *labels, scores = json.loads(found[f"{name} pipeline"])
        assert labels == NAMES and set(scores) == set(NAMES)
        given = torch.tensor([[scores[label] for label in labels]])
        torch.testing.assert_close(given, seen(model).softmax(-1), rtol=1e-5, atol=1e-5)
        package, *_, kind = found[f"{name} class"].split(".")
        assert package == (
            "transformers_modules"
            if how == "remote code" and name == "me/remote"
            else "transformers"
        )
        assert kind == "TimmWrapperForImageClassification", "pipelines warn of other names"


@torch.no_grad()
def test_the_cards_code(world, found, base_folder):
    found = found["cards"].result()
    for name in ("me/open", "me/patch"):
        assert torch.equal(found[name], seen(world.models[name])), name
    base = timm.create_model(f"local-dir:{base_folder}", pretrained=True).eval()
    assert torch.equal(found["original"], base(image()))


@torch.no_grad()
def test_from_the_cache_without_the_hub(world, found, tmp_path):
    found["timm"].result()
    world.server.stop()
    try:
        running = {}
        for name, flags in (("down", {}), ("offline", {"HF_HUB_OFFLINE": "1"})):
            (tmp_path / name).mkdir()
            (tmp_path / name / "old").write_text(world.old)
            running[name] = start(
                WITHOUT_THE_HUB,
                tmp_path / name,
                hub_environment(world.url, world.home) | flags,
                image=image(),
            )
        results = {name: finish() for name, finish in running.items()}
    finally:
        world.server.start()
    main, old = world.models["me/net"](image()), world.models["me/old"](image())
    for name, answers in results.items():
        for key, value in {"main": main, "local files": main, "timm": main, "old": old}.items():
            assert torch.equal(answers[key], value), (name, key)
