"""Images that somebody drops: within bounds, whatever is in them; and the folder of failures."""

import struct
import zlib
from pathlib import Path

import planted
import pytest
from app.saved_repairs import *  # noqa: F403
from PIL import Image

import timm_repair
from timm_repair.app.failures import Failures
from timm_repair.app.opening import opened
from timm_repair.app.pair import Pair
from timm_repair.app.uploads import Bounds, uploaded
from timm_repair.errors import DataError, OutputError
from timm_repair.images.classes import Classes


@pytest.fixture(scope="module")
def pair(saved_once, base_folder) -> Pair:
    (saved,) = opened(saved_once)
    return Pair.of(saved, str(base_folder))


def png(width: int, height: int) -> bytes:
    """A small file that says it has so many pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + crc

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(9)))


def test_what_is_wrong_with_one_is_said_of_that_one(pair, dropped, tmp_path):
    fine = dropped["hen"][0]
    cut = tmp_path / "cut.png"
    cut.write_bytes(fine.read_bytes()[:-60])
    text = tmp_path / "<img src=x onerror=alert(1)>.png"
    text.write_text("no image")
    empty = tmp_path / "empty.jpg"
    empty.write_bytes(b"")
    bomb = tmp_path / "bomb.png"
    bomb.write_bytes(png(60_000, 60_000))
    wide = tmp_path / "wide.png"
    wide.write_bytes(png(9_000, 9_000))
    strip = tmp_path / "strip.png"
    Image.new("RGB", (200_000, 1)).save(strip)
    large = tmp_path / "large.png"
    large.write_bytes(bytes(5000))
    given = [fine, cut, text, empty, bomb, wide, strip, large, tmp_path / "missing.png", fine]
    found, wrong = uploaded(given, pair.preprocessing, Bounds(count=9, size=4000))
    assert [each.name for each in found] == [fine.name]
    said = dict(line.rsplit(": ", 1) for line in wrong[:-1])
    assert said.pop(text.name) == said.pop("cut.png") == said.pop("empty.jpg")
    assert "too many pixels" in said.pop("bomb.png") and "too many pixels" in said.pop("strip.png")
    assert said.pop("wide.png") == "9,000 x 9,000 pixels; at most 50 million are taken"
    assert said.pop("large.png") == "0 MB; at most 0 MB are taken"
    assert said == {"missing.png": "it cannot be read as an image"}
    assert wrong[-1] == "1 more were left out: 9 images are taken at once"


def test_every_kind_of_image_is_shown(pair, tmp_path):
    for mode, ending in (
        ("L", "png"),
        ("RGBA", "png"),
        ("P", "gif"),
        ("1", "bmp"),
        ("I;16", "png"),
    ):
        path = tmp_path / f"{mode.replace(';', '')}.{ending}"
        Image.new(mode, (40, 30)).save(path)
        (found,), wrong = uploaded([path], pair.preprocessing, Bounds())
        assert not wrong and found.image.mode == "RGB"
        assert found.thumbnail.startswith(b"\xff\xd8\xff")
        assert len(pair.answers([found.image])) == 1


def test_what_is_collected_is_read_as_failures(pair, dropped, tmp_path):
    failures = Failures(tmp_path / "failures", pair.classes)
    assert failures.contents() == [] and failures.counts() == {} and failures.label_map is None
    tench, shark = (
        uploaded(dropped[name][:2], pair.preprocessing, Bounds())[0]
        for name in ("tench", "white shark")
    )
    assert failures.add(tench, 0) == 2 and failures.add(shark, 2) == 2
    assert failures.add(tench, 0) == 0, "they are there already"
    assert failures.counts() == {"tench": 2, "white shark": 2}
    read = timm_repair.as_images(str(failures.folder), pair.repaired)
    assert sorted(read.labels.tolist()) == [0, 0, 2, 2]
    assert failures.add(shark[:1], 3) == 1, "it is moved"
    assert failures.counts() == {"hen": 1, "tench": 2, "white shark": 1}
    assert failures.take_back() == 1 and failures.take_back() == 0
    assert failures.counts() == {"tench": 2, "white shark": 1}
    with pytest.raises(DataError, match="there is no class 4"):
        failures.add(tench, 4)


@pytest.mark.parametrize(
    "names",
    [
        ("../up", "a", "b", "c"),
        ("a/b", "a", "b", "c"),
        ("train", "a", "b", "c"),
        ("Con", "a", "b", "c"),
        (".", "a", "b", "c"),
        ("a", "A", "b", "c"),
        ("<script>alert(1)</script>", "a", "b", "c"),
        ("x" * 300, "a", "b", "c"),
        None,
    ],
)
def test_classes_that_no_folder_can_be_called_by_are_numbered(names, pair, dropped, tmp_path):
    failures = Failures(tmp_path / "failures", Classes(4, names))
    uploads, _ = uploaded(dropped["tench"][:3], pair.preprocessing, Bounds())
    failures.add(uploads, 0)
    assert failures.counts() == {"0": 3} and failures.label_map == {str(i): i for i in range(4)}
    assert {p.name for p in tmp_path.iterdir() if p.is_dir()} == {"failures"}
    read = timm_repair.as_images(str(failures.folder), pair.repaired, label_map=failures.label_map)
    assert read.labels.tolist() == [0, 0, 0]


def test_a_folder_that_cannot_be_written_is_told(pair, dropped, tmp_path):
    (tmp_path / "failures").write_text("a file")
    uploads, _ = uploaded(dropped["hen"][:1], pair.preprocessing, Bounds())
    with pytest.raises(OutputError, match="cannot write"):
        Failures(tmp_path / "failures", pair.classes).add(uploads, 3)


def test_a_photograph_keeps_its_bytes(pair, tmp_path):
    path = Path(tmp_path / "photo.JPEG")
    image, _ = planted.pictures(1, 3, classes=4, mode="RGB")[0]
    image.save(path)
    (upload,), _ = uploaded([path], pair.preprocessing, Bounds())
    failures = Failures(tmp_path / "failures", pair.classes)
    failures.add([upload], 1)
    (name,) = failures.contents()
    assert name == f"goldfish/{upload.digest}.jpg"
    assert (failures.folder / name).read_bytes() == path.read_bytes()
