"""Saved models of strangers: what is hostile is refused, with a message, before anything is built;
nothing of it is executed.
"""

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import safetensors.torch
import timm
import torch
from hub.hostile_cases import WHOLE
from hub.hostile_patches import PATCH
from hub.hostile_tools import GONE, Case, only, patch, pretrained, raw, sparse, top
from loopback.pushing import *  # noqa: F403
from loopback.pushing import image
from loopback.store import File

import timm_repair
from timm_repair.errors import ConfigError, ModelError, RepairError
from timm_repair.hub import entry_point, loading, saving
from timm_repair.hub.lineage import lineage
from timm_repair.hub.trust import config

LIMIT = 50 * 2**20  # bytes that refusing may take
EVENTS = {
    "open",
    "os.mkdir",
    "os.symlink",
    "socket.connect",
    "pickle.find_class",
    "subprocess.Popen",
    "os.system",
}
# huggingface_hub's own
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
watched: list[tuple[str, tuple]] | None = None


def _audit(event: str, arguments: tuple) -> None:
    if watched is not None and event in EVENTS:
        watched.append((event, arguments))


sys.addaudithook(_audit)  # Python's own; there is no taking it back, hence the switch


def resident(field: str) -> int:
    """Bytes of memory of this process: "VmRSS" now, "VmHWM" at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


@pytest.fixture
def guarded(tmp_path, monkeypatch) -> Iterator[SimpleNamespace]:
    """No file but in tmp_path, no connection but to `ports` of this machine, no pickle and no
    process.
    """
    global watched
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    allowed = SimpleNamespace(ports=set())
    watched = []
    try:
        yield allowed
    finally:
        seen, watched = watched, None
    assert not (tmp_path / "trapped").exists()
    assert not {event for event, _ in seen} & {"pickle.find_class", "subprocess.Popen", "os.system"}
    assert all(
        arguments[1][0] in ("127.0.0.1", "localhost") and arguments[1][1] in allowed.ports
        for event, arguments in seen
        if event == "socket.connect"
    )
    written = [
        a[0]
        for event, a in seen
        if event == "open"
        and isinstance(a[2], int)
        and a[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    ]
    written += [a[0] for event, a in seen if event == "os.mkdir"] + [
        a[1] for event, a in seen if event == "os.symlink"
    ]
    outside = [
        os.fspath(p)
        for p in written
        if isinstance(p, str | os.PathLike) and not Path(p).absolute().is_relative_to(tmp_path)
    ]
    assert not [
        p
        for p in outside
        if "__pycache__" not in p and not p.startswith(("/dev/", "/proc/self/clear_refs"))
    ]


@pytest.fixture(scope="module")
def whole(repaired_once, tmp_path_factory) -> Path:
    """An intact folder with all weights."""
    folder = deepcopy(repaired_once).save_pretrained(tmp_path_factory.mktemp("whole") / "net")
    # what is imported on the first occasion is no memory of the hostile ones
    timm_repair.from_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def patched(whole, repaired_once, tmp_path_factory) -> Path:
    """An intact patch but for the revision of its base, me/base."""
    folder, known = tmp_path_factory.mktemp("patch") / "net", lineage(repaired_once.model)
    shutil.copytree(whole, folder)
    (folder / "model.safetensors").unlink()
    safetensors.torch.save_file(known.patch(repaired_once.model), folder / "patch.safetensors")
    spec = {"version": 1, "base": "me/base", "revision": "0" * 40, "sha256": known.base.sha256}
    top(timm_repair=spec)(folder)
    return folder


@pytest.fixture
def copied(tmp_path):
    """Copy a folder to a place of this test's."""
    return lambda folder: Path(shutil.copytree(folder, tmp_path / "hostile"))


def refused(place: str | Path, case: Case, monkeypatch) -> None:
    """Loading raises what the case says; unless it is a late one, no model is created and no
    weights are read.
    """

    def built(*_, **__):
        raise AssertionError("it was built before it was refused")

    if not case.late:
        monkeypatch.setattr(loading, "created", built)
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts here
    before = resident("VmRSS")
    with pytest.raises(RepairError) as caught:
        timm_repair.from_pretrained(place)
    assert resident("VmHWM") - before < LIMIT
    assert type(caught.value) is case.error and case.message in str(caught.value)
    assert len(str(caught.value)) < 1500 and str(caught.value).isprintable()


@pytest.mark.parametrize("case", WHOLE, ids=lambda case: case.name)
def test_hostile_folders_are_refused(case, whole, copied, guarded, monkeypatch):
    folder = copied(whole)
    case.change(folder)
    refused(folder, case, monkeypatch)
    if case.timm:
        with pytest.raises(ConfigError):
            timm.create_model(f"local-dir:{folder}", pretrained=True)


@pytest.mark.parametrize("case", [c for c in PATCH if not c.base], ids=lambda case: case.name)
def test_hostile_patches_are_refused(case, patched, whole, copied, guarded, monkeypatch):
    folder = copied(patched)
    shutil.copy(whole / "model.safetensors", folder.parent)
    case.change(folder)
    refused(folder, case, monkeypatch)


@pytest.mark.parametrize("case", [c for c in PATCH if c.base], ids=lambda case: case.name)
def test_hostile_patches_of_a_real_base_are_refused(
    case, patched, copied, api, loopback, published_base, guarded, monkeypatch
):
    guarded.ports.add(loopback.port)
    folder = copied(patched)
    patch(revision=api.model_info(published_base).sha)(folder)
    case.change(folder)
    created, made = entry_point.created, []

    def build(*arguments):
        assert not made.append(1) and len(made) == 1, "the base alone may be built"
        return created(*arguments)

    monkeypatch.setattr(loading, "created", build)
    refused(folder, replace(case, late=True), monkeypatch)


def test_the_base_of_a_patch_is_no_patch_and_may_not_be_hostile(
    patched, copied, api, loopback, published_base, guarded, monkeypatch
):
    guarded.ports.add(loopback.port)
    folder = copied(patched)
    for change, case in (
        (None, Case("patch", None, "is a patch itself")),
        (only("pytorch_model.bin"), Case("pickle", None, "could execute code", ModelError)),
        (top(architecture="hf-hub:evil/x"), Case("architecture", None, "architecture must be")),
    ):
        at = Path(
            shutil.copytree(
                patched if change is None else Path(patched).parent / "net",
                folder.parent / "base",
                dirs_exist_ok=True,
            )
        )
        if change is not None:
            (at / "patch.safetensors").rename(at / "model.safetensors")
            top(timm_repair=GONE)(at)
            change(at)
        api.delete_repo("me/base")
        api.create_repo("me/base")
        commit = api.upload_folder(repo_id="me/base", folder_path=at)
        shutil.rmtree(at)
        patch(revision=commit.oid)(folder)
        refused(folder, case, monkeypatch)


def test_intact_patches_load(
    patched, repaired_once, copied, api, loopback, published_base, guarded
):
    guarded.ports.add(loopback.port)
    folder = copied(patched)
    patch(revision=api.model_info(published_base).sha)(folder)
    loaded = timm_repair.from_pretrained(folder)
    assert torch.equal(loaded(image()), repaired_once.model(image()))


@pytest.mark.parametrize(
    ("change", "case"),
    [
        (only("pytorch_model.bin"), Case("pickle", None, "could execute code", ModelError)),
        (raw("model.safetensors", b"PK"), Case("zip", None, "no intact safetensors")),
        (sparse("config.json", config.MAX_CONFIG + 1), Case("large", None, "bytes; more than")),
        (top(architecture="local-dir:/etc"), Case("architecture", None, "architecture must be")),
        (top(num_classes=10**12), Case("classes", None, "num_classes must be")),
        (top(label_names=["<script>", "b", "c", "d"]), Case("labels", None, "holds markup")),
    ],
    ids=lambda each: each.name if isinstance(each, Case) else "",
)
def test_hostile_repositories_are_refused(
    change, case, whole, copied, api, loopback, guarded, monkeypatch
):
    folder = copied(whole)
    change(folder)
    api.create_repo("me/evil")
    api.upload_folder(repo_id="me/evil", folder_path=folder, ignore_patterns=["figures/*"])
    guarded.ports.add(loopback.port)
    refused("me/evil", case, monkeypatch)


class Huge(File):
    """Says that it has a gigabyte."""

    size = property(lambda self: 10**9)


def test_what_the_hub_lists_is_believed_only_where_it_is_harmless(
    whole, api, loopback, guarded, monkeypatch
):
    api.create_repo("me/evil")
    api.upload_folder(repo_id="me/evil", folder_path=whole, ignore_patterns=["figures/*"])
    guarded.ports.add(loopback.port)
    files = (
        next(repo for (_, name), repo in loopback.store.repos.items() if name == "me/evil")
        .commit()
        .files
    )
    files |= {
        name: files["config.json"]
        for name in (
            "../../escaped.json",
            "/etc/escaped",
            "..\\x",
            "modeling_evil.py",
            "sub/config.json",
        )
    }
    timm_repair.from_pretrained("me/evil")
    assert not [p for p in Path().rglob("*") if p.name in ("escaped.json", "modeling_evil.py", "x")]
    for name in ("config.json", "repair.json"):
        intact, files[name] = files[name], Huge(files[name].data)
        refused(
            "me/evil", Case(name, None, f"{name} of me/evil has 1,000,000,000 bytes"), monkeypatch
        )
        files[name] = intact


def test_what_must_have_no_effect(whole, repaired_once, copied, guarded, tmp_path):
    folder = copied(whole)
    pretrained(
        url="http://evil.example/x.bin",
        file=str(tmp_path / "x.bin"),
        state_dict={"fc.bias": 1},
        custom_load=True,
        source="hf-hub",
        hf_hub_id="evil/x",
        hf_hub_filename="x.bin",
        unknown=1,
    )(folder)
    top(auto_map={"AutoModel": "evil.Model"}, url="http://evil.example", file="x")(folder)
    (folder / "evil.py").write_text("import os; os.mkdir('trapped')")
    (folder / "modeling_timm_repair.py").write_text("import os; os.mkdir('trapped')")
    loaded = timm_repair.from_pretrained(folder)
    assert torch.equal(loaded(image()), repaired_once.model(image()))
    kept = {key for key, value in loaded.pretrained_cfg.items() if value}
    assert (
        not {"url", "state_dict", "custom_load", "hf_hub_id", "hf_hub_filename", "unknown"} & kept
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (raw("repair.json", b"[" * 100_000), "nested too deeply"),
        (raw("repair.json", b"[1]"), "no version number"),
        (raw("repair.json", b""), "damaged"),
        (raw("repair.json", b'{"version": NaN}'), "NaN is not JSON"),
        (sparse("repair.json", config.MAX_REPORT + 1), "bytes; more than"),
    ],
    ids=["deep", "list", "empty", "NaN", "huge"],
)
def test_a_hostile_report_is_refused_when_it_is_read(change, message, whole, copied, guarded):
    folder = copied(whole)
    change(folder)
    model = timm_repair.from_pretrained(folder)
    with pytest.raises(ConfigError, match=message):
        saving.report_of(model)
