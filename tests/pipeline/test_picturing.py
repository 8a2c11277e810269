"""What the page shows is what was measured: pictures, probabilities and ids of the very examples;
they stay on this machine.
"""

import io
import shlex

import numpy as np
import planted
import pytest
import torch
from PIL import Image

import timm_repair
from timm_repair import cli
from timm_repair.hub import saving
from timm_repair.hub.pictures import FOLDER, MAX_BYTES, gallery_of, read
from timm_repair.hub.privacy import published
from timm_repair.pipeline.asking import asking
from timm_repair.report.gallery import chosen, example_name
from timm_repair.report.page.repeating import command
from timm_repair.report.report import Report

pytestmark = pytest.mark.filterwarnings("ignore::timm_repair.NoEffectWarning")


@pytest.fixture(scope="module")
def given(deployed, pictures) -> dict:
    wrong = [pair for pair in planted.pictures(300, 4) if pair[1] < 2]
    return {
        "model": deployed,
        "failures": pictures["pool"][:200],
        "retain": pictures["train"],
        "holdout": {"confused": wrong, "clean": pictures["unseen"]},
        "method": "bn_recalibration",
        "batches": 2,
        "diagnose": False,
        "progress": False,
    }


@pytest.fixture(scope="module")
def wrongly(given) -> dict:
    """The same with failures alone."""
    failing = [pair for pair in given["failures"] if pair[1] < 2]
    return given | {"failures": failing}


@pytest.fixture(scope="module")
def repaired(wrongly, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(saving, "find_spec", lambda name: None)  # no figures: they take long
        return timm_repair.repair(**wrongly, output_dir=tmp_path_factory.mktemp("out"))


def test_probabilities_and_ids_are_of_these_examples(repaired, given):
    each = repaired.report.population("confused")
    for model, told in (
        (given["model"], each.examples.before),
        (repaired.model, each.examples.after),
    ):
        with torch.no_grad():
            sure = model(planted.inputs(model, given["holdout"]["confused"])).softmax(1)
        true = sure.gather(1, each.labels[:, None])[:, 0]
        assert torch.allclose(told[:, 0], sure.amax(1).double(), atol=1e-3)
        assert torch.allclose(told[:, 1], true.double(), atol=1e-3)
    assert each.examples.ids == tuple(str(i) for i in range(each.n))


def test_pictures_are_those_of_the_examples_that_are_shown(repaired, given):
    names = [each.population for each in repaired.report.scores]
    wanted = {
        (number, row)
        for number, kinds in enumerate(chosen(repaired.report.scores))
        for kind in kinds.values()
        for row in kind.rows
    }
    assert repaired.gallery.examples.keys() == wanted and wanted
    number = names.index("confused")
    for (population, row), image in repaired.gallery.examples.items():
        if population == number:
            shown = np.asarray(Image.open(io.BytesIO(image)), dtype=int)
            original = np.asarray(given["holdout"]["confused"][row][0], dtype=int)
            assert np.abs(shown - original).mean() < 8, "but for what JPEG loses"


def test_without_images_none_is_taken(wrongly):
    assert not timm_repair.repair(**wrongly, images=False).gallery


def test_pictures_come_back_from_the_folder_and_only_those(
    repaired, wrongly, tmp_path, monkeypatch
):
    monkeypatch.setattr(saving, "find_spec", lambda name: None)
    folder = repaired.save_pretrained(tmp_path / "out")
    assert read(folder / FOLDER, repaired.report) == repaired.gallery
    model = timm_repair.from_pretrained(folder)
    assert gallery_of(model, repaired.report) == repaired.gallery
    again = timm_repair.repair(**wrongly, output_dir=folder)  # answered from there
    assert again.gallery == repaired.gallery and "data:image/jpeg" in again.to_html()
    (first, second, *_), page = (
        sorted(repaired.gallery.examples),
        (folder / "report.html").read_text(),
    )
    secret = tmp_path / "secret"
    secret.write_bytes(b"\xff\xd8\xff secret")
    (folder / FOLDER / example_name(*first)).unlink()
    (folder / FOLDER / example_name(*first)).symlink_to(secret)
    (folder / FOLDER / example_name(*second)).write_bytes(b"\xff\xd8\xff" + bytes(MAX_BYTES))
    (folder / FOLDER / "0-999.jpg").write_bytes(b"\xff\xd8\xff")
    left = read(folder / FOLDER, repaired.report).examples
    assert left.keys() == repaired.gallery.examples.keys() - {first, second}
    plain = repaired.save_pretrained(folder, images=False)
    assert not (plain / FOLDER).exists() and "data:image" not in (plain / "report.html").read_text()
    assert "data:image" in page


def test_nothing_that_names_an_example_is_published(repaired):
    diagnosis = {
        "headline": "blur",
        "text": "2 failures.\n\nblur\n\nLikely label errors: 1 of 2 failures\n  - a/b.png: …\n\nSingle"
        " images\n  - c/d.png\n\nNotes\n  - n",
        "labels": [{"id": "a/b.png"}],
        "quality": {"dark": ["c/d.png"], "modes": {"RGB": 2}},
    }
    report = timm_repair.Report.from_dict(repaired.report.to_dict() | {"diagnosis": diagnosis})
    public = published(report)
    assert all(each.examples.ids is None for each in public.scores) and public.asked == {}
    assert "png" not in str(public.diagnosis) and "blur" in public.diagnosis["text"]
    assert (
        public.diagnosis["quality"]["modes"] == {"RGB": 2} and "Notes" in public.diagnosis["text"]
    )
    assert "What was called is not in this report" in public.to_html(charts=False)


def test_a_page_that_cannot_be_made_loses_nothing(repaired, tmp_path, monkeypatch, caplog):
    def fails(self, gallery=None, **options):
        raise ValueError("odd numbers")

    monkeypatch.setattr(saving, "find_spec", lambda name: None)
    monkeypatch.setattr(Report, "to_html", fails)
    folder = repaired.save_pretrained(tmp_path / "out")
    assert (folder / "model.safetensors").is_file() and not (folder / "report.html").exists()
    assert "saved without report.html" in caplog.text and "report DIRECTORY --html" in caplog.text


def test_the_command_says_again_what_was_asked(tmp_path):
    asked = {"model": "resnet18", "failures": "it's here", "retain": tmp_path, "passing": None}
    asked |= {"holdout": {"clean": "a=b c"}, "method": "archrepair", "seed": 3, "diagnose": False}
    told = asking(asked, timm_repair.DataOptions(selection_share=0.3), {"block": ["a", "b"]})
    report = Report(method="archrepair", model="resnet18", scores=(), asked=told)
    words = shlex.split(command(report).replace("\\\n", ""))
    given = cli.parser("repair").parse(words[2:])
    assert words[:2] == ["timm-repair", "repair"] and given.failures == "it's here"
    assert given.holdout == ["clean=a=b c"] and given.seed == 3 and given.retain == str(tmp_path)
    assert not given.diagnose and given.data == ["selection_share=0.3"]
    assert given.set == ["block=['a', 'b']"]


def test_the_command_is_python_where_objects_were_given(deployed):
    asked = {
        "model": deployed,
        "failures": [],
        "holdout": {"x": []},
        "method": "finetune",
        "seed": 0,
    }
    told = asking(asked, None, {"steps": 5, "score": print})
    said = command(Report(method="finetune", model="net", scores=(), asked=told))
    compile(said, "said", "eval")
    assert said.startswith("timm_repair.repair(\n    model,\n    failures,\n    holdout={'x': ")
    assert "method='finetune'" in said and "steps=5" in said
    assert not command(Report(method="finetune", model="net", scores=()))
