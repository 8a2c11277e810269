"""Pictures: a gallery as files beside a saved report, in `examples/`; they are for this machine,
and never pushed. And the page that shows the repair with them.

Read back as they are, never decoded: a browser does that, and an image in it executes nothing.
"""

import logging
from pathlib import Path

from torch import nn

from timm_repair.hub.lineage import lineage
from timm_repair.report.gallery import LINES, Gallery, chosen, example_name, pattern_name
from timm_repair.report.report import Report

logger = logging.getLogger(__name__)

FOLDER = "examples"
MAX_BYTES = 2**16  # of one; ours have a tenth
MAX_PATTERNS, MAX_IMAGES = 8, 16
_JPEG = b"\xff\xd8\xff"


def write(gallery: Gallery, folder: Path) -> None:
    """Write the images into the new folder `folder`, if there are any."""
    if not gallery:
        return
    folder.mkdir()
    for name, image in gallery.files():
        (folder / name).write_bytes(image)


def read(folder: Path, report: Report) -> Gallery:
    """What `folder` holds of the examples that the report's page shows; empty if it is missing."""
    if not folder.is_dir() or folder.is_symlink():
        return Gallery()
    examples = {}
    for number, kinds in enumerate(chosen(report.scores)):
        for row in (row for kind in kinds.values() for row in kind.rows):
            if (image := _jpeg(folder / example_name(number, row))) is not None:
                examples[number, row] = image
    patterns = []
    for number in range(MAX_PATTERNS):
        lines = {line: _line(folder, number, line) for line in LINES}
        if not any(lines.values()):
            break
        patterns.append(lines)
    return Gallery(examples, tuple(patterns))


def write_page(report: Report, gallery: Gallery, path: Path, *, charts: bool | None = None) -> None:
    """The page that shows the repair, if it can be made: a model is not left unsaved for it."""
    try:
        path.write_text(report.to_html(gallery, charts=charts), encoding="utf-8")
    except Exception as error:  # noqa: BLE001  whatever numbers of strangers, fonts and disks do
        path.unlink(missing_ok=True)
        logger.warning(
            "saved without %s (%s: %.200s): `timm-repair report DIRECTORY --html` makes it",
            path.name,
            type(error).__name__,
            error,
        )


def gallery_of(model: nn.Module, report: Report) -> Gallery:
    """The pictures that go with the report of the repair that `model` came from."""
    known = lineage(model)
    if known is None:
        return Gallery()
    if known.gallery is not None:
        return known.gallery
    return (
        read(known.report.parent / FOLDER, report) if isinstance(known.report, Path) else Gallery()
    )


def _line(folder: Path, number: int, line: str) -> list[bytes]:
    found = (_jpeg(folder / pattern_name(number, line, i)) for i in range(MAX_IMAGES))
    return [image for image in found if image is not None]


def _jpeg(path: Path) -> bytes | None:
    """A regular file of modest size that begins as a JPEG does; None if it is none."""
    if path.is_symlink() or not path.is_file() or path.stat().st_size > MAX_BYTES:
        return None
    content = path.read_bytes()
    return content if content.startswith(_JPEG) else None
