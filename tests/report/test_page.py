"""The page that shows a repair: what is in it, what strangers' names can do to it, what it needs."""

import base64
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
import torch
from report.report_examples import localization, read, report, scores, two_blocks, weights_only

from timm_repair.errors import DataError
from timm_repair.report.examples import Examples
from timm_repair.report.gallery import BROKEN, FIXED, KINDS, WRONG, Gallery, chosen, rows_of
from timm_repair.report.page.page import framed
from timm_repair.report.report import Report
from timm_repair.report.scores import Scores

JPEG = b"\xff\xd8\xff\xe0 not looked into"
HOSTILE = [
    "<script>alert(1)</script>",
    "\"'><img src=x onerror=alert(1)>",
    "javascript:alert(1)",
    "</title></style></svg></iframe><svg onload=alert(1)>",
    "{{ 7 * 7 }}{% raw %}",
    "\u202egnp.exe\u2066\u0000\x1b[31m",
    "x" * 100_000,
    "&lt;b&gt;&amp;",
]
VOID = {"meta", "img", "br", "link", "input", "hr"}


class Elements(HTMLParser):
    """All elements of a page with their attributes, and its text; whether they are well nested."""

    def __init__(self, page: str):
        super().__init__(convert_charrefs=True)
        self.found: list[tuple[str, dict]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] not in (["script"], ["style"]):
            self.text += data + " "

    def all(self, tag: str, **attributes) -> list[dict]:
        wanted = attributes.items()
        return [a for name, a in self.found if name == tag and wanted <= a.items()]


def told(each: Scores, ids: bool = True) -> Scores:
    """The same with made-up probabilities and ids."""
    share = torch.arange(each.n) / each.n
    names = [f"folder/{i}.png" for i in range(each.n)] if ids else None
    sides = [torch.stack([0.5 + share / 2, (1 - share) / 2], 1), torch.stack([1 - share, share], 1)]
    return replace(each, examples=Examples(*sides, names))


def shown(**changes) -> Report:
    each = told(scores(kept=5, broken=3, fixed=4, missed=6))
    names = tuple(f"name {i}" for i in range(10))
    return report(**{"scores": (each,), "label_names": names} | changes)


def pictures(of: Report, image: bytes = JPEG) -> Gallery:
    keys = [
        (number, row)
        for number, kinds in enumerate(chosen(of.scores))
        for kind in kinds.values()
        for row in kind.rows
    ]
    return Gallery(dict.fromkeys(keys, image))


def test_what_is_in_it():
    made = shown(
        diagnosis={
            "headline": "contrast × 0.4",
            "text": "all\n  of it",
            "words": ["contrast × 0.4"],
        }
    )
    pattern = {line: [JPEG, JPEG] for line in ("retained", "made", "failing")}
    gallery = replace(pictures(made), patterns=(pattern,))
    page = Elements(made.to_html(gallery, charts=False))
    (heading,) = page.all("h1")
    assert heading["class"] == f"verdict {made.verdict.kind}"
    assert made.verdict.sentences[0] in page.text
    for id in ("diagnosis", "images", "classes", "where", "what", "how", "cost", "data", "again"):
        assert page.all("h2", id=id) and page.all("a", href=f"#{id}"), id
    assert "contrast × 0.4" in page.text and "failures most like these" in page.text
    assert len(page.all("img")) == 3 + 4 + 6 + 3 * 2
    assert all(
        image["alt"] and image["src"].startswith("data:image/jpeg;base64,")
        for image in page.all("img")
    )
    assert "folder/5.png" in page.text and "name 5" in page.text
    for said in ("sep_conv: what arrives at 0", "search", "peak memory", "/home/me/failures"):
        assert said in page.text
    assert [a["class"] for a in page.all("section") if a.get("class", "").startswith("shelf")] == [
        f"shelf {kind}" for kind in KINDS
    ]


def test_the_four_numbers():
    text = " ".join(Elements(report().to_html(charts=False)).text.split())
    assert "Fixed 289 of 808 that were wrong" in text
    assert "Broken 42 of 1,192 that were right" in text
    assert "Change on retained -0.3 [" in text
    assert "Latency +12.2 % [+8.1, +15.0] %; 4.1 → 4.6 ms an image" in text


def test_a_population_collected_by_its_answers_is_not_what_must_be_kept():
    failing = scores("failing", kept=0, broken=0, fixed=5, missed=5)
    passing = scores("passing", kept=9, broken=1, fixed=0, missed=0)
    made = report(scores=(failing, passing), provenance={"error_rate": 0.5})
    assert "Change elsewhere not measured" in " ".join(
        Elements(made.to_html(charts=False)).text.split()
    )


def test_cards_tell_both_answers_and_how_sure_they_were():
    page = shown(scores=(told(scores(kept=0, broken=1, fixed=0, missed=0)),)).to_html(charts=False)
    text = " ".join(Elements(page).text.split())
    assert "true name 0 before ✓ name 0 50 % , right after ✗ name 1 100 % , wrong" in text
    assert "change -50.0 points" in text


def test_it_needs_nothing_else():
    pytest.importorskip("matplotlib", reason="for want of matplotlib")
    page = two_blocks().to_html()
    elements = Elements(page)
    for tag, attributes in elements.found:
        for name in ("src", "href", "xlink:href", "action", "data", "poster"):
            assert attributes.get(name, "#").startswith(("#", "data:image/")), (tag, attributes)
    style = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    assert len(style) == 1 and "@import" not in page and "url(http" not in page
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = elements.all("meta", **{"http-equiv": "Content-Security-Policy"})
    assert "default-src 'none'" in policy["content"] and f"'sha256-{digest}'" in policy["content"]


def test_it_is_the_same_each_time_and_ids_occur_once():
    pytest.importorskip("matplotlib", reason="for want of matplotlib")
    page = two_blocks().to_html()
    assert two_blocks().to_html() == page
    ids = [attributes["id"] for _, attributes in Elements(page).found if "id" in attributes]
    assert len(ids) == len(set(ids))
    for target in re.findall(r'(?:href="#|url\(#|labelledby=")([^")]+)', page):
        assert target in ids, target


def hostile(word: str) -> Report:
    """A report in which every name and text is this."""
    plain = report()
    genotype = plain.genotypes["layer3"]
    layers = [node | {"layer": word} for node in genotype["nodes"]]
    edges = [edge | {"operation": word} for edge in genotype["edges"]]
    population = f"{word}1"
    told_of = read(
        source=word, matched=word, preprocessing=word, classes={word: word}, left_out={word: 3}
    )
    each = told(scores(population, kept=5, broken=3, fixed=4, missed=6))
    examples = replace(each.examples, ids=tuple(f"{word}{i}" for i in range(each.n)))
    found = localization(scorer=word)
    for name in ("suspiciousness", "errors", "gains"):
        found[name] = {f"{word}{key}": value for key, value in found[name].items()}
    return report(
        method=word,
        model=word,
        scores=(replace(each, examples=examples), scores(f"{word}2")),
        options={word: word, "training": {word: word}},
        repaired_blocks=(f"{word}layer1",),
        localization=found | {"layers": {}, "layer_scores": {}, "tied": []},
        genotypes={f"{word}layer1": genotype | {"nodes": layers, "edges": edges}},
        history=tuple(row | {"stage": word} for row in plain.history),
        stages=({"name": word, "seconds": 1.0, "peak_memory": 1},),
        versions={word: word},
        environment={word: word},
        provenance={"read": {word: told_of}},
        notes=(word,),
        label_names=(word,) * 10,
        diagnosis={"headline": word, "text": word, "words": [word]},
        asked={"model": word, "failures": word, "method": word, "seed": 0, "options": {word: word}}
        | {"holdout": {word: word}},
        weights=word,
    )


@pytest.mark.parametrize("word", HOSTILE, ids=range(len(HOSTILE)))
def test_names_of_strangers_are_text_and_nothing_else(word):
    made = hostile(word)
    gallery = replace(
        pictures(made), patterns=({line: [JPEG] for line in ("retained", "made", "failing")},)
    )
    page = made.to_html(gallery, charts=False)
    elements, harmless = Elements(page), Elements(hostile("word").to_html(gallery, charts=False))
    outline = [[tag for tag, _ in each.found] for each in (elements, harmless)]
    assert outline[0] == outline[1], "no element more, none less"
    assert len(elements.all("script")) == 1
    assert not any(name.startswith("on") for _, attributes in elements.found for name in attributes)
    assert not re.search("[\u202a-\u202e\u2066-\u2069\x00\x1b]", page)
    assert len(page) < 3_000_000


def test_names_of_strangers_are_text_in_charts_too():
    pytest.importorskip("matplotlib", reason="for want of matplotlib")
    page = hostile(" ".join(each[:60] for each in HOSTILE)).to_html()
    elements = Elements(page)
    assert {"blame", "flow", "curves", "accuracy"} == set(re.findall(r'id="(\w+)-figure_1"', page))
    assert len(elements.all("script")) == len(elements.all("style")) == 1
    assert not any(name.startswith("on") for _, attributes in elements.found for name in attributes)
    assert not re.search("[\u202a-\u202e\u2066-\u2069\x00\x1b]", page)


def test_a_frame_in_a_notebook_holds_the_page_as_it_is():
    page = shown().to_html(charts=False)
    (frame,) = Elements(framed(page)).all("iframe")
    assert frame["srcdoc"] == page and frame["sandbox"] == "allow-scripts"


def test_what_is_printed_in_a_notebook_is_short():
    assert len(repr(report())) < 500 and "Helpful" in repr(report())
    assert len(repr(report().scores)) < 300


def test_without_images_there_are_none():
    page = shown().to_html(charts=False)
    assert "<img" not in page and "data:image" not in page and "left out" in page
    assert "folder/5.png" in page, "but what they are called"


@pytest.mark.parametrize(
    "made", [report(), two_blocks(), weights_only()], ids=["one", "two", "none"]
)
@pytest.mark.parametrize("version", [4, 5])
def test_reports_of_older_versions_are_shown(made, version):
    old = json.loads(json.dumps(made.to_dict())) | {"version": version}
    for name in ("asked", "flows"):
        del old[name]
    for each in old["scores"]:
        del each["examples"]
    again = Report.from_dict(old)
    assert again == made
    page = Elements(again.to_html(charts=False))
    assert "saved by an earlier version" in page.text and "no. 370" in page.text


def test_reports_that_say_little_are_shown():
    bare = Report(method="x", model="y", scores=())
    assert "not measured" in Elements(bare.to_html(charts=False)).text
    gone = Report(method="x", model="y", scores=(scores(kept=1, broken=0, fixed=0, missed=0),))
    assert "None." in Elements(gone.to_html(charts=False)).text


def test_it_stays_small():
    """Of many populations and classes, with images that could not be compressed."""
    labels = torch.arange(6000) % 1000
    before = torch.where(torch.arange(6000) % 2 == 0, labels, 0)
    after = torch.where(torch.arange(6000) % 3 == 0, labels, 1)
    many = tuple(told(Scores(f"population {i}", labels, before, after)) for i in range(12))
    made = report(
        scores=many, label_names=tuple(f"a rather long name of class {i}" for i in range(1000))
    )
    page = made.to_html(pictures(made, JPEG + b"x" * 12_000), charts=False)
    assert 1_000_000 < len(page.encode()) < 5_000_000
    assert set(re.findall(r'data-population="(\d+)"', page)) == {str(i) for i in range(12)}


def test_every_class_is_shown_and_of_each_what_changed_most():
    labels = torch.tensor([0] * 50 + [1] * 5 + [2])
    wrong = torch.full_like(labels, 9)
    before = torch.linspace(0, 1, 56)
    sides = [torch.stack([before, before], 1), torch.stack([before, torch.zeros(56)], 1)]
    each = Scores("failing", labels, labels, wrong, Examples(*sides))
    (kinds,) = chosen([each], most=5)
    assert kinds[BROKEN].total == 56 and not kinds[FIXED].rows and not kinds[WRONG].rows
    # the most of each class, then the next ones; ordered by how much they changed
    assert kinds[BROKEN].rows == (55, 54, 53, 49, 48)
    assert rows_of(each, BROKEN).all()


def test_examples_are_exact_to_four_decimals_and_survive_json():
    sure, loss = torch.tensor([0.912345, 0.5]), torch.tensor([0.1, 3.0])
    found = Examples.of((sure, loss), (sure, loss), ["a", 7])
    assert found.before[:, 0].tolist() == [0.9123, 0.5] and found.ids == ("a", "7")
    assert found.before[:, 1].tolist() == [0.9048, 0.0498] and found.change.tolist() == [0.0, 0.0]
    each = replace(scores(kept=1, broken=1, fixed=0, missed=0), examples=found)
    again = Scores.from_dict(json.loads(json.dumps(each.to_dict())))
    assert again == each and again.at(torch.tensor([1])).examples.ids == ("7",)


def test_examples_of_another_number_are_refused():
    two = torch.zeros(2, 2)
    with pytest.raises(DataError, match="go not together"):
        Examples(two, torch.zeros(3, 2))
    with pytest.raises(DataError, match="go not together"):
        Examples(two, two, ("a",))
    with pytest.raises(DataError, match="of which 2 are told more"):
        replace(scores(), examples=Examples(two, two))
