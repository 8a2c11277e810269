"""The app in a real browser, as its user meets it: the whole way from dropped images to another
repair, hostile names, images that are none; looked over by axe-core. And a Space, run.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import planted
import psutil
import pytest
from app.saved_repairs import *  # noqa: F403
from loopback.pushing import *  # noqa: F403
from loopback.pushing import NAMES
from loopback.server import HubServer, hub_environment
from PIL import Image
from report.test_browser import PROGRAM, jpeg

import timm_repair
from timm_repair.app.uploads import Bounds
from timm_repair.hub import saving

playwright = pytest.importorskip("playwright.sync_api", reason="for want of playwright")
pytestmark = [
    pytest.mark.skipif(PROGRAM is None, reason="for want of Chromium"),
    pytest.mark.skipif(find_spec("gradio") is None, reason="for want of gradio"),
    pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning"),
]

ROOT = Path(timm_repair.__file__).parents[1]
PATIENCE = 60_000  # milliseconds, on a machine that has much else to do
WORD = "<script>alert(1)<b onclick=alert(2)>\"'><img src=x onerror=alert(3)>${alert(4)}{{7*7}}&lt;"


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@contextmanager
def running(command: Sequence[str], port: int, **options: Any) -> Iterator[subprocess.Popen]:
    """A process that serves the app, from when it can be reached."""
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **options)
    try:
        for _ in range(PATIENCE // 100):
            with socket.socket() as probe:
                probe.settimeout(1)
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None, process.stderr.read()
            try:
                process.wait(0.1)
            except subprocess.TimeoutExpired:
                pass
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stderr.close()


@pytest.fixture(scope="module")
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        yield server
        assert server.errors == []


@pytest.fixture(scope="module")
def place(saved_once, tmp_path_factory) -> Path:
    """Two repairs: "plain", and one in which every name is hostile."""
    folder = tmp_path_factory.mktemp("browsed") / "repairs"
    for name in ("plain", "strange"):
        shutil.copytree(saved_once, folder / name)
        for line in ("retained", "made", "failing"):
            for i in range(3):
                image = folder / name / "examples" / f"pattern-0-{line}-{i}.jpg"
                image.write_bytes(jpeg(60 * i + 20))
        word = WORD if name == "strange" else "contrast × 0.3"
        file = folder / name / "repair.json"
        report = json.loads(file.read_text())
        report["diagnosis"] = {"headline": word, "text": f"It is {word}", "words": [word]}
        if name == "strange":
            report["model"], report["label_names"] = word, [f"{word} {i}" for i in range(4)]
        file.write_text(json.dumps(report))
    # names with markup are refused there; where there are none, those of the report are shown
    config = folder / "strange" / "config.json"
    plain = json.loads(config.read_text())
    for described in (plain, plain["pretrained_cfg"]):
        described.pop("label_names", None)
    config.write_text(json.dumps(plain))
    return folder


@pytest.fixture(scope="module")
def address(place, base_folder, hub, tmp_path_factory) -> Iterator[str]:
    """The app on both, started as users do, by one who is logged in."""
    port = free_port()
    command = [sys.executable, "-m", "timm_repair", "app", str(place), "--no-browser"]
    command += ["--port", str(port), "--original", str(base_folder)]
    environment = hub_environment(hub.url, tmp_path_factory.mktemp("home"), token="hf_me")
    with running(command, port, env=environment, cwd=ROOT) as process:
        assert process.stderr.readline() == (
            f"The app is at http://127.0.0.1:{port}/; Ctrl-C ends it\n"
        )
        listening = [
            c for c in psutil.Process(process.pid).net_connections() if c.status == "LISTEN"
        ]
        assert {c.laddr.ip for c in listening} == {"127.0.0.1"}
        yield f"http://127.0.0.1:{port}/"
    assert process.returncode == 0


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=PROGRAM, args=["--no-sandbox"])
        playwright.expect.set_options(timeout=PATIENCE)
        yield started
        started.close()


@pytest.fixture
def opened(browser) -> Iterator[Any]:
    """Open the app in a window of its own; what it asks of others, errors and dialogs fail."""
    contexts, troubles = [], []

    def open_(url: str, **options: Any):
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.set_default_timeout(PATIENCE)
        page.on(
            "console", lambda m: m.type == "error" and troubles.append(f"{m.text} {m.location}")
        )
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("dialog", lambda dialog: (troubles.append(dialog.message), dialog.dismiss()))
        page.on(
            "request",
            lambda r: r.url.startswith((url, "data:", "blob:")) or troubles.append(r.url),
        )
        page.goto(url)
        page.wait_for_selector(".tr-verdict")
        return page

    yield open_
    for context in contexts:
        context.close()
    assert not troubles


def drop(page, paths: Sequence[Path], count: int) -> None:
    """Drop files, and wait until so many of them are answered."""
    page.locator("input[type=file]").first.set_input_files(paths)
    playwright.expect(page.locator(".tr-card")).to_have_count(count)


def choose(page, label: str, option: str) -> None:
    page.get_by_label(label, exact=True).click()
    page.get_by_role("option", name=option, exact=True).click()


@pytest.fixture
def wrong_ones(tmp_path) -> list[Path]:
    """Pictures of tench, to be called something that the model does not say."""
    found = []
    for i, (image, label) in enumerate(planted.pictures(96, 8, classes=4, mode="RGB")):
        if label == 0:
            found.append(tmp_path / f"tench-{i}.png")
            image.save(found[-1])
    return found[: Bounds().count]


def test_from_dropped_images_to_another_repair(opened, address, place, wrong_ones, tmp_path):
    page = opened(address, viewport={"width": 1200, "height": 1000})
    broken = tmp_path / "broken.png"
    broken.write_text("no image")
    drop(page, [*wrong_ones[:2], broken], 2)
    assert "broken.png: it cannot be read as an image" in page.locator(".tr-say.bad").inner_text()
    said = page.locator(".tr-card").first.locator(".tr-said")
    assert said.nth(0).locator("h4").inner_text() == "Original"
    assert said.nth(0).locator("li bdi").first.inner_text() == "goldfish", "the planted fault"
    assert said.nth(1).locator("li").count() == 3
    assert page.locator(".tr-pattern img").count() == 9
    assert "contrast × 0.3" in page.locator(".tr-pattern").inner_text()
    page.get_by_label("Clear").click()
    playwright.expect(page.locator(".tr-card")).to_have_count(0)

    drop(page, wrong_ones, len(wrong_ones))
    answered = page.locator(".tr-card").locator(".tr-said >> nth=1").locator("li.first bdi")
    answers = set(answered.all_inner_texts())
    other = next(name for name in NAMES if name not in answers)
    page.get_by_role("button", name="Collect as failures").click()
    playwright.expect(page.locator(".tr-say.bad")).to_contain_text("choose the images")
    for i in range(len(wrong_ones)):
        page.get_by_label(f"image {i + 1}", exact=True).check()
    choose(page, "Their true class", other)
    page.get_by_role("button", name="Collect as failures").click()
    collected = page.locator(".tr-say.good")
    playwright.expect(collected).to_have_text(f"Collected {len(wrong_ones)} as {other}.")
    kept = [*(place.with_name("repairs-app") / "failures" / other).iterdir()]
    assert len(kept) == len(wrong_ones)

    page.get_by_role("tab", name="Repair again").click()
    playwright.expect(page.locator(".tr-counts").first).to_contain_text(other)
    choose(page, "Method", "finetune")
    page.get_by_label("Steps").fill("300")
    page.get_by_label("Ask first what the failures have in common").uncheck()
    start, cancel = (page.get_by_role("button", name=n) for n in ("Start the repair", "Cancel"))
    start.click()
    playwright.expect(page.locator(".tr-run progress")).to_be_visible(timeout=PATIENCE)
    playwright.expect(start).to_be_disabled()
    cancel.click()
    playwright.expect(page.locator(".tr-run.cancelled")).to_be_visible(timeout=PATIENCE)
    assert [*place.with_name("repairs-app").glob("repair-1/.resume/*")], "the journal is kept"
    start.click()
    playwright.expect(page.locator(".tr-run.done")).to_be_visible(timeout=PATIENCE)
    assert "repair-1 is done" in page.locator(".tr-run").inner_text()
    page.get_by_role("tab", name="Compare").click()
    rows = page.locator(".tr-scroll tbody th")
    assert rows.all_inner_texts().count("repairs-app/repair-1") == 1
    choose(page, "Repair", "repairs-app/repair-1")
    playwright.expect(page.locator(".tr-head")).to_contain_text("plain")


def test_it_is_exported_and_pushed(opened, address, hub, tmp_path):
    page = opened(address)
    page.get_by_role("tab", name="Export").click()
    page.get_by_label("torch").check()
    page.get_by_role("button", name="Export", exact=True).click()
    playwright.expect(page.locator(".tr-say.good")).to_contain_text("plain.pt2")
    with page.expect_download() as download:
        page.locator("a.download-link:visible").click()
    assert download.value.suggested_filename == "plain.pt2"
    page.get_by_role("button", name="Push", exact=True).click()
    playwright.expect(page.locator(".tr-say.bad")).to_contain_text("no Hub id")
    page.get_by_label("Repository").fill("me/net")
    page.get_by_role("button", name="Push", exact=True).click()
    playwright.expect(page.locator(".tr-say.good").last).to_contain_text(
        f"Pushed: {hub.url}/me/net/commit/", timeout=PATIENCE
    )
    repo = hub.store.repo("me/net")
    assert repo.private and not [name for name in repo.files() if name.startswith("examples/")]
    assert b"data:image/jpeg" not in repo.files()["report.html"]


def test_hostile_names_do_nothing(opened, address, wrong_ones):
    page = opened(address)
    strange = wrong_ones[0].with_name(f"{WORD}.png")
    shutil.copy(wrong_ones[0], strange)
    choose(page, "Repair", "strange")
    for place in (".tr-head bdi", ".tr-pattern .tr-lead"):
        playwright.expect(page.locator(place).first).to_contain_text("<script>alert(1)<b")
    drop(page, [strange], 1)
    card = page.locator(".tr-card")
    assert "49" not in card.locator("h3").inner_text()
    assert "<script>alert(1)<b" in card.locator("li bdi").first.inner_text()
    page.get_by_label("Their true class").click()
    assert page.get_by_role("option").first.inner_text().strip().startswith(WORD[:40])
    assert page.locator("img[src=x], b[onclick], [onerror], iframe").count() == 0
    scripts = page.locator("script").evaluate_all("all => all.map(each => each.text)")
    assert not [each for each in scripts if each.startswith("alert")]


def test_what_is_too_large_is_told(opened, address, tmp_path):
    page = opened(address)
    large, wide = tmp_path / "large.png", tmp_path / "wide.png"
    large.write_bytes(bytes(Bounds().size + 1))
    Image.new("1", (8000, 7000)).save(wide)
    page.locator("input[type=file]").first.set_input_files([large])
    playwright.expect(page.get_by_text("exceed the maximum allowed size")).to_be_visible()
    page.reload()
    page.wait_for_selector(".tr-verdict")
    drop(page, [wide], 0)
    playwright.expect(page.locator(".tr-say.bad")).to_contain_text("8,000 x 7,000 pixels; at most")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1200])
def test_axe_finds_nothing_serious(opened, address, wrong_ones, scheme, width):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="for want of axe")
    page = opened(address, viewport={"width": width, "height": 900}, color_scheme=scheme)
    drop(page, wrong_ones[:2], 2)
    for name in ("Try it", "Repair again", "Compare", "Export"):
        if page.get_by_role("tab", name=name).is_visible():
            page.get_by_role("tab", name=name).click()
        else:  # on a phone they are in a menu
            page.locator("button.overflow-menu, .overflow-menu > button").first.click()
            page.locator(".overflow-dropdown").get_by_text(name).click()
        page.wait_for_timeout(400)  # colours change slowly
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name
        found = axe.Axe().run(page).response
        assert len(found["passes"]) > 15, "it has looked"
        serious = [e for e in found["violations"] if e["impact"] in ("serious", "critical")]
        assert not [(name, e["id"], [n["html"][:200] for n in e["nodes"][:3]]) for e in serious]


def test_a_page_of_another_name_is_refused(address):
    with pytest.raises(HTTPError, match="400"):
        urlopen(Request(address, headers={"Host": "evil.example"}))


def test_a_space_runs_what_it_holds(
    opened, repaired_once, loopback, wrong_ones, tmp_path, monkeypatch
):
    monkeypatch.setattr(saving, "find_spec", lambda name: None)
    repaired_once.push_space("me/demo", token="hf_me")
    folder = tmp_path / "space"
    for name, content in loopback.store.repo("me/demo", "spaces").files().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    port = free_port()
    paths = {sysconfig.get_path(kind) for kind in ("purelib", "platlib")}
    others = [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p]
    paths = [p for p in (*paths, *others) if Path(p).resolve() != ROOT]  # and not the clone
    environment = hub_environment(loopback.url, tmp_path / "home") | {
        "GRADIO_SERVER_PORT": str(port),
        "PYTHONPATH": os.pathsep.join(paths),
    }
    with running([sys.executable, "app.py"], port, env=environment, cwd=folder):
        page = opened(f"http://127.0.0.1:{port}/")
        drop(page, wrong_ones[:1], 1)
        assert page.locator(".tr-said").first.locator("li bdi").first.inner_text() == "goldfish"
        assert page.get_by_role("tab").all_inner_texts() == ["Try it", "Compare"]
        assert page.get_by_text("Collect as failures").count() == 0
    assert not (tmp_path / "home" / "hub").exists(), "nothing was asked of the Hub"
