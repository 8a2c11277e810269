"""The page in a real browser, as its reader meets it: clicked through, by keyboard, light and dark,
wide and narrow, and looked over by axe-core.
"""

import io
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from report.report_examples import report
from report.test_page import HOSTILE, hostile, pictures, told

from timm_repair.report.gallery import Gallery
from timm_repair.report.report import Report
from timm_repair.report.scores import Scores

PROGRAM = os.environ.get("CHROMIUM") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
playwright = pytest.importorskip("playwright.sync_api", reason="for want of playwright")
pytest.importorskip("matplotlib", reason="for want of matplotlib")
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="for want of Chromium")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=PROGRAM, args=["--no-sandbox"])
        yield started
        started.close()


def made() -> Report:
    """Of ten classes: of each, in both populations, 7 broken, 5 fixed, 2 still wrong."""
    labels = torch.arange(10).repeat(20)
    turn = torch.arange(200) // 10
    before = torch.where((turn < 13) | (turn >= 20), labels, (labels + 1) % 10)
    after = torch.where((turn < 6) | ((turn >= 13) & (turn < 18)), labels, (labels + 2) % 10)
    scores = [told(Scores(name, labels, before, after)) for name in ("failing", "clean")]
    return report(
        scores=scores,
        label_names=tuple(f"name {i}" for i in range(10)),
        diagnosis={"headline": "blur", "text": "it is blur", "words": ["blur"]},
        asked={"model": "net", "failures": "f", "method": "archrepair", "seed": 0, "options": {}},
    )


def jpeg(value: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((32, 32, 3), value, np.uint8)).save(file, "JPEG")
    return file.getvalue()


@pytest.fixture(scope="module")
def page_file(tmp_path_factory) -> Path:
    images = [jpeg(40), jpeg(120)]
    pattern = {line: images for line in ("retained", "made", "failing")}
    gallery = Gallery(pictures(made(), images[0]).examples, (pattern,))
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(made().to_html(gallery), encoding="utf-8")
    return path


@pytest.fixture
def opened(browser, page_file) -> Iterator[Any]:
    """Open the page, or another file, in a window of its own; what it logs or asks for fails."""
    contexts, troubles = [], []

    def open_(path: Path = page_file, **options: Any):
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.on("console", lambda message: troubles.append(message.text))
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("dialog", lambda dialog: (troubles.append(dialog.message), dialog.dismiss()))
        page.on(
            "request",
            lambda request: (
                request.url.startswith(("file:", "data:", "about:")) or troubles.append(request.url)
            ),
        )
        page.goto(path.as_uri())
        return page

    yield open_
    for context in contexts:
        context.close()
    assert not troubles


def seen(page, kind: str) -> list[str]:
    """Ids of the cards that are shown."""
    cards = page.locator(f".shelf.{kind} .card:visible .id")
    return cards.all_inner_texts()


def test_images_are_filtered_ordered_and_unfolded(opened):
    page = opened()
    assert len(seen(page, "broken")) == 12
    page.get_by_role("button", name="Show all 120").first.click()
    assert len(seen(page, "broken")) == 120 and len(seen(page, "fixed")) == 12
    page.get_by_label("True class").select_option("name 3")
    page.get_by_label("Population").select_option("clean")
    broken = seen(page, "broken")
    assert len(broken) == 6 and all(each.startswith("clean") for each in broken)
    assert page.locator(".shelf.broken .card:visible .true dd").all_inner_texts() == ["name 3"] * 6
    assert "6 of 6 that fit are shown" in page.locator(".shelf.broken .count").inner_text()
    page.get_by_label("Order").select_option("largest rise first")
    changes = page.locator(".shelf.broken .card:visible").evaluate_all(
        "cards => cards.map(card => Number(card.dataset.change))"
    )
    assert changes == sorted(changes, reverse=True)
    assert page.locator("img").evaluate_all("all => all.every(each => each.naturalWidth > 0)")


def test_all_of_it_can_be_reached_by_keyboard(opened):
    page = opened()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    reached = set()
    for _ in range(80):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
    assert {"by-population", "by-class", "by-order", "BUTTON", "SUMMARY"} <= reached
    page.locator("#by-class").focus()
    page.keyboard.press("ArrowDown")
    assert page.locator("#by-class").input_value() == "0"
    assert page.locator(".shelf.fixed .true dd:visible").first.inner_text() == "name 0"


@pytest.mark.parametrize("width", [320, 390, 1200])
def test_nothing_is_cut_off_at_the_side(opened, width):
    page = opened(viewport={"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1200])
def test_axe_finds_nothing_serious(opened, scheme, width):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="for want of axe")
    page = opened(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page.locator("details").evaluate_all("all => all.forEach(each => { each.open = true; })")
    # Chromium lets axe in by the driver, past the policy of the page
    found = axe.Axe().run(page).response
    assert len(found["passes"]) > 20, "it has looked"
    serious = [each for each in found["violations"] if each["impact"] in ("serious", "critical")]
    assert not [(e["id"], [n["html"][:200] for n in e["nodes"][:3]]) for e in serious]
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(21, 24, 27)")


def test_without_scripts_everything_is_there(opened):
    page = opened(java_script_enabled=False)
    assert len(seen(page, "broken")) == 120 and not page.locator(".more:visible").count()


def test_hostile_names_do_nothing(opened, tmp_path):
    path = tmp_path / "hostile.html"
    word = " ".join(each[:60] for each in HOSTILE)
    path.write_text(hostile(word).to_html(pictures(hostile(word), jpeg(9))), encoding="utf-8")
    page = opened(path)
    assert page.locator("script").count() == 1 and page.locator("iframe").count() == 0
    assert "<script>alert(1)</script>" in page.locator("h1").inner_text()


def test_a_notebooks_frame_works(opened, tmp_path):
    path = tmp_path / "notebook.html"
    path.write_text(f"<!DOCTYPE html><title>n</title>{made()._repr_html_()}", encoding="utf-8")
    frame = opened(path).frame_locator("iframe")
    frame.locator("#by-class").select_option("name 2")
    assert frame.locator(".shelf.broken .true dd:visible").first.inner_text() == "name 2"
